"""A bottle's time to live: it ends the bottle in each state, over restarts of bottled, whatever the wall clock says."""
import concurrent.futures
import contextlib
import datetime
import sqlite3
import struct
import time

import control
import harness
import pytest
from pace import until

TRAPS = ["sh", "-c", "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 1000 & wait $!; done"]
DAY_MS = 86400 * 1000


def wall(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def gone(daemon, slug, timeout=60):
    """Waits until there is no such bottle any more; how long that took."""
    with harness.Clock() as clock:
        reply = daemon.get(f"/bottles/{slug}/wait?state=deleting&timeout={timeout}s")
        while reply.status == 200 and time.monotonic() < clock._begun + timeout:
            reply = daemon.get(f"/bottles/{slug}/wait?state=starting&timeout={timeout}s")
    assert reply.status == 404, reply
    return clock.seconds


def stays(daemon, slug, seconds):
    reply = daemon.get(f"/bottles/{slug}/wait?state=deleting&timeout={seconds}s")
    assert reply.status == 504, reply


def prepared(daemon, slug, seconds):
    return daemon.create({"slug": slug, "command": ["true"], "ttl_seconds": seconds})


def patch(daemon, slug, body):
    reply = daemon.request("PATCH", f"/bottles/{slug}", body)
    assert reply.status == 200, reply
    return reply.json()


def events(daemon, slug):
    reply = daemon.get(f"/events?slug={slug}&limit=1000", headers={"Accept": "application/json"})
    return [event for event in reply.json()["events"] if event["type"].startswith("bottle.")]


@pytest.mark.parametrize("state", ["running", "paused"])
def test_one_that_lives_is_stopped_kindly_and_deleted(shared, state):
    """One that is paused goes on, to take its leave."""
    before = shared.footprint()
    bottle = shared.create({"slug": state, "command": TRAPS}, "?start=true&wait=running")
    control.follow(shared, state, b"up\n")
    assert bottle["expires_at"] is None
    if state == "paused":
        assert shared.post("/bottles/paused/pause").status == 200
    bottle = patch(shared, state, {"ttl_seconds": 2})
    assert wall(bottle["expires_at"]) == pytest.approx(time.time() + 2, abs=1)
    took = gone(shared, state)
    assert took > 0.5 and time.time() >= wall(bottle["expires_at"])
    told = events(shared, state)
    names = [event["type"] for event in told]
    assert names[names.index(f"bottle.{state}") + 1 :] == ["bottle.expired", "bottle.stopping", "bottle.stopped", "bottle.deleting"]
    assert told[names.index("bottle.stopped")]["detail"]["exit_code"] == 5, "its command was told, and had its say"
    after = shared.footprint()
    assert {name: what for name, what in after.items() if what != before[name]} == {}


def test_one_at_rest_is_deleted(shared):
    bottle = prepared(shared, "rests", 2)
    assert wall(bottle["expires_at"]) == pytest.approx(wall(bottle["created_at"]) + 2, abs=0.01)
    took = gone(shared, "rests")
    assert 1 < took < 10
    assert [event["type"] for event in events(shared, "rests")] == ["bottle.prepared", "bottle.expired", "bottle.deleting"]


def test_it_can_be_renewed_and_taken_away(shared):
    first = prepared(shared, "renewed", 3)
    again = patch(shared, "renewed", {"ttl_seconds": 3})  # the same number: it counts from now on all the same
    assert wall(again["expires_at"]) > wall(first["expires_at"]) and again["generation"] > first["generation"]
    later = patch(shared, "renewed", {"ttl_seconds": 100, "labels": {"a": "1"}})
    assert wall(later["expires_at"]) == pytest.approx(time.time() + 100, abs=3)
    assert patch(shared, "renewed", {"labels": {"a": "2"}})["expires_at"] == later["expires_at"], "nothing else moves it"
    stays(shared, "renewed", 4)
    assert patch(shared, "renewed", {"ttl_seconds": None})["expires_at"] is None
    patch(shared, "renewed", {"ttl_seconds": 1})
    assert gone(shared, "renewed") < 10


def test_another_of_its_name_is_another(shared):
    prepared(shared, "name", 2)
    shared.remove("name")
    assert shared.create({"slug": "name", "command": ["true"]})["expires_at"] is None
    stays(shared, "name", 3)


def test_over_restarts_of_bottled(daemon):
    """It passes while bottled is down, and what is over by then is ended by the next one."""
    long = prepared(daemon, "long", 1000)
    prepared(daemon, "short", 1)
    soon = prepared(daemon, "soon", 6)
    daemon.kill()
    daemon.start()
    assert daemon.bottle("long")["expires_at"] == long["expires_at"]
    gone(daemon, "short")
    gone(daemon, "soon")
    assert time.time() == pytest.approx(wall(soon["expires_at"]), abs=4)


def test_after_a_boot_of_the_host(daemon):
    """Of the time that it was down none has passed."""
    prepared(daemon, "booted", 8)
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "bottled.db") as database:
        database.execute("UPDATE meta SET value = 1 WHERE name = 'clock_boot'")
        database.execute("UPDATE meta SET value = value + 1000000 WHERE name IN ('clock_kept_ms', 'clock_offset_ms')")
        database.execute("UPDATE bottles SET expires_clock_ms = expires_clock_ms + 1000000")
    daemon.start()
    assert wall(daemon.bottle("booted")["expires_at"]) == pytest.approx(time.time() + 8, abs=4)
    assert 3 < gone(daemon, "booted") < 15


def test_the_clock_is_kept_from_the_first_bottle_on_that_counts_on_it(daemon):
    """Else a host that goes down gives it back all the time that passed before."""

    def kept():
        with contextlib.closing(sqlite3.connect(daemon.state_dir / "bottled.db")) as database:
            return database.execute("SELECT value FROM meta WHERE name = 'clock_kept_ms'").fetchone()[0]

    before = kept()
    prepared(daemon, "first", 1000)
    until(lambda: kept() > before)
    # A start that fails does not set it.
    daemon.stop()
    before, images = kept(), daemon.state_dir / "images"
    images.rmdir()
    images.touch()
    with pytest.raises(AssertionError, match="not ready"):
        daemon.start()
    assert before <= kept() < before + 60000
    images.unlink()
    daemon.start()


class WallClock:
    """That of a daemon which is made with `env` (tests/clock/clock.c)."""

    def __init__(self, folder):
        self.path = folder / "clock"
        self.set(0)
        self.env = {"LD_PRELOAD": str(harness.BUILD / "test-tools" / "clock.so"), "TEST_CLOCK": str(self.path)}

    def set(self, milliseconds):
        """In place: who reads a mapped file that is empty for a moment, dies of it."""
        with open(self.path, "r+b" if self.path.exists() else "xb", buffering=0) as file:
            file.write(struct.pack("<q", milliseconds))


def waited(daemon, path):
    """A long poll: its reply, and how long it took."""
    with harness.Clock() as clock:
        reply = daemon.get(path)
    return reply, clock.seconds


def test_wall_clock_set_ahead_and_back(new_daemon, tmp_path):
    """A day ahead and a day back, during lives, waits and the wait for a restart: all end when they have to."""
    clock = WallClock(tmp_path)
    daemon = new_daemon(env=clock.env).start()
    prepared(daemon, "early", 5)
    prepared(daemon, "late", 1000)
    begun = time.monotonic()
    again = {"policy": "always", "backoff_seconds": 3, "backoff_max_seconds": 3}
    daemon.create({"slug": "again", "command": ["true"], "restart": again}, "?start=true")
    assert daemon.get("/bottles/again/wait?state=restarting&timeout=60s").json()["state"] == "restarting"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        over = pool.submit(waited, daemon, "/bottles/late/wait?state=running&timeout=4s")
        started = pool.submit(waited, daemon, "/bottles/again/wait?state=starting,running&timeout=30s")
        for jump in (DAY_MS, -DAY_MS):
            stays(daemon, "late", 1)  # the two wait by now
            clock.set(jump)
            with harness.Clock() as anew:
                stays(daemon, "late", 1)
            assert 0.9 < anew.seconds < 4, anew.seconds
            shown = wall(patch(daemon, "late", {"labels": {"jump": str(jump)}})["expires_at"])
            assert shown == pytest.approx(time.time() + jump / 1000 + 1000, abs=30), "by the wall clock as it goes"
    reply, seconds = over.result()
    assert reply.problem == "timeout" and 3.9 < seconds < 8, (reply, seconds)
    reply, seconds = started.result()
    assert reply.json()["restarts"] == 1 and 2 < seconds < 8, (reply, seconds)
    gone(daemon, "early")
    assert time.monotonic() - begun >= 4
    assert daemon.bottle("late")["state"] == "prepared"
    for jump in (DAY_MS, -DAY_MS):  # the next one looks at another wall clock
        assert daemon.get("/bottles/again/wait?state=restarting&timeout=60s").json()["state"] == "restarting"
        clock.set(jump)
        daemon.kill()
        daemon.start()
        assert wall(daemon.bottle("late")["expires_at"]) == pytest.approx(time.time() + jump / 1000 + 1000, abs=60)
        reply, seconds = waited(daemon, "/bottles/again/wait?state=starting,running&timeout=30s")
        assert reply.status == 200 and 1 < seconds < 8, (reply, seconds)
