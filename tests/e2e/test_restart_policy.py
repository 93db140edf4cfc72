"""Restart policies and POST …/restart: the command is really run again, with a wait that grows, a count and an end."""
import datetime

import processes
import pytest

# Each run leaves a line on the disk: the guest's memory is another each time.
COUNTS = "echo run >> /var/runs; wc -l < /var/runs; "


def wall(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def plan(slug, script, **restart):
    return {
        "slug": slug,
        "command": ["sh", "-c", script],
        "resources": {"disk_mib": 64},
        "restart": {"backoff_seconds": 1, **restart},
    }


def events(daemon, slug):
    reply = daemon.get(f"/events?slug={slug}&limit=1000", headers={"Accept": "application/json"})
    return [event for event in reply.json()["events"] if event["type"].startswith("bottle.")]


def test_on_failure_until_it_succeeds(daemon):
    bottle = daemon.run(plan("third", COUNTS + "test $(wc -l < /var/runs) -ge 3", policy="on-failure"), timeout=90)
    assert (bottle["state"], bottle["exit_code"], bottle["restarts"], bottle["restart_at"]) == ("exited", 0, 2, None)
    assert daemon.log("third").split() == ["1", "2", "3"]
    waits = [event for event in events(daemon, "third") if event["type"] == "bottle.restarting"]
    assert [event["detail"]["exit_code"] for event in waits] == [1, 1]
