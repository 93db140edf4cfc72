"""A bottle's time to live: it ends the bottle in each state, over restarts of bottled, whatever the wall clock says."""
import datetime
import sqlite3
import time

import pytest

TRAPS = ["sh", "-c", "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done"]
DAY = 86400


def wall(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def gone(daemon, slug, timeout=60):
    """Waits until there is no such bottle any more; how long that took."""
    begun = time.monotonic()
    reply = daemon.get(f"/bottles/{slug}/wait?state=deleting&timeout={timeout}s")
    while reply.status == 200:  # deleting, or at rest: the next answer is 404 once it is gone
        assert time.monotonic() < begun + timeout, reply
        reply = daemon.get(f"/bottles/{slug}/wait?state=prepared&timeout={timeout}s")
    assert reply.status == 404, reply
    return time.monotonic() - begun


def events(daemon, slug):
    return [event["type"] for event in daemon.get(f"/events?slug={slug}&limit=1000", headers={"Accept": "application/json"}).json()["events"]]


def expect_nothing_left(daemon, before):
    after = daemon.footprint()
    assert {name: what for name, what in after.items() if what != before[name]} == {}


def test_running_one_is_stopped_kindly_and_deleted(daemon):
    before = daemon.footprint()
    bottle = daemon.create({"slug": "short", "command": TRAPS, "ttl_seconds": 8}, "?start=true&wait=running")
    assert wall(bottle["expires_at"]) == pytest.approx(wall(bottle["created_at"]) + 8, abs=0.01)
    gone(daemon, "short")
    assert time.time() == pytest.approx(wall(bottle["expires_at"]), abs=6)
    assert time.time() >= wall(bottle["expires_at"])
    told = events(daemon, "short")
    assert told[told.index("bottle.running") :] == [
        "bottle.running", "sidecar.ready", "bottle.expired", "bottle.stopping", "sidecar.exited", "bottle.stopped",
        "bottle.deleting", "cleanup.finished",
    ] or sorted(told[told.index("bottle.expired") :]) == sorted(
        ["bottle.expired", "bottle.stopping", "sidecar.exited", "bottle.stopped", "bottle.deleting", "cleanup.finished"]
    )
    expect_nothing_left(daemon, before)
