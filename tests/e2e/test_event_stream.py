"""GET /events as a stream: in order, resumed over restarts, with gaps told, filtered, bounded."""
import json
import os
import sqlite3
import subprocess
import threading

import pytest
from event_stream import Stream

import harness
import pace

READERS = harness.BUILD / "test-tools" / "readers"


def make(daemon, *slugs):
    for slug in slugs:
        daemon.create({"slug": slug, "command": ["true"]})


def ids(messages):
    return [data["id"] for name, data in messages if name == "message"]


def begun(daemon, query="", place=None):
    """A stream whose place is set: what happens from now on is in it."""
    stream = Stream(daemon, query, place)
    blocks = stream.blocks()
    first = next(blocks)
    assert first["retry"] == "1000"
    stream.place = int(first["id"])
    return stream


def test_what_happens_from_now_on(new_daemon):
    """At once, and not when the next heartbeat is due."""
    daemon = new_daemon(config={"event_heartbeat": "10m"}).start()
    make(daemon, "before")
    with begun(daemon) as stream:
        assert stream.place == 1
        make(daemon, "one", "two")
        daemon.remove("one")
        found = stream.take(4)
    page = daemon.get("/events?after=1").json()["events"]
    assert [data for _, data in found] == page, "the same as in the page"
    assert {name for name, _ in found} == {"message"}


def test_resumed_over_a_restart(daemon):
    make(daemon, "one", "two")
    with begun(daemon, "?after=0") as stream:
        assert ids(stream.take(2)) == [1, 2]
        daemon.stop()
        assert list(stream) == [], "the daemon's end is the stream's"
    daemon.start()
    make(daemon, "three")
    # A browser comes back with the query that it began with: its last id wins.
    with begun(daemon, "?after=0", place=1) as stream:
        assert ids(stream.take(2)) == [2, 3]
        make(daemon, "four")
        assert ids(stream.take(1)) == [4]
    daemon.kill()
    daemon.start()
    with begun(daemon, place=3) as stream:
        assert ids(stream.take(1)) == [4], "what was acknowledged outlives a crash"


def test_filters(daemon):
    with begun(daemon, "?slug=one") as one, begun(daemon, "?type=cleanup.finished") as ends, begun(
        daemon, "?type=bottle.*&type=cleanup.finished&slug=two"
    ) as family:
        make(daemon, "one", "two")
        daemon.remove("two")
        daemon.remove("one")
        assert [data["type"] for _, data in one.take(3)] == ["bottle.prepared", "bottle.deleting", "cleanup.finished"]
        assert [data["slug"] for _, data in ends.take(2)] == ["two", "one"]
        assert ids(family.take(3)) == [2, 3, 4]
    assert [e["id"] for e in daemon.get("/events?type=cleanup.*").json()["events"]] == [4, 6]


def fill(daemon, count):
    """Events as if they had happened; the daemon is stopped."""
    with sqlite3.connect(daemon.state_dir / "bottled.db") as db:
        db.executemany("INSERT INTO events (time, slug, type, detail) VALUES (1, 'x', 'bottle.running', '{}')", [()] * count)


def test_gaps(new_daemon):
    daemon = new_daemon(config={"event_rows": 1000}).start()
    daemon.stop()
    fill(daemon, 2500)
    daemon.start()
    with begun(daemon, place=700) as stream:
        (name, data), *rest = stream.take(1001)
        assert (name, data) == ("gap", {"after": 700, "next": 1500})
        assert ids(rest) == list(range(1501, 2501))
        make(daemon, "next")
        assert ids(stream.take(1)) == [2501]
    with begun(daemon, "?type=bottle.prepared&after=1499") as stream:
        assert stream.take(2)[0] == ("gap", {"after": 1499, "next": 1501}), "2501 pushed one more out"
    with begun(daemon, "?after=1501") as stream:
        assert ids(stream.take(1000)) == list(range(1502, 2502)), "no gap"
    with begun(daemon, place=9999) as stream:
        assert stream.take(1) == [("gap", {"after": 9999, "next": 2501})], "no id of this database"
        make(daemon, "later")
        assert ids(stream.take(1)) == [2502]


def test_a_silent_stream_says_that_it_is_there(new_daemon):
    daemon = new_daemon(config={"event_heartbeat": "200ms"}).start()
    with begun(daemon, "?slug=nobody") as stream:
        make(daemon, "other")
        blocks = stream.blocks()
        while next(blocks) != {"id": "1"}:
            pass
        assert stream.comments, "a comment, and the place that was reached: from there it would come back"


@pytest.mark.parametrize(
    "query, headers, status, problem",
    [
        ("?limit=5", {}, 400, "invalid-query"),
        ("?after=x", {}, 400, "invalid-query"),
        ("?type=bottle", {}, 400, "invalid-query"),
        ("?type=.*", {}, 400, "invalid-query"),
        ("?slug=A", {}, 400, "invalid-query"),
        ("", {"Last-Event-ID": "x"}, 400, "bad-request"),
        ("", {"Last-Event-ID": "-1"}, 400, "bad-request"),
        ("", {"Last-Event-ID": "x", "Accept": "application/json"}, 400, "bad-request"),
        ("", {"Accept": "text/html"}, 406, "not-acceptable"),
    ],
)
def test_what_is_refused(shared, query, headers, status, problem):
    reply = shared.get(f"/events{query}", headers={"Accept": "text/event-stream", **headers})
    assert (reply.status, reply.problem) == (status, problem), reply


def test_a_reader_that_leaves_gives_its_connection_back(new_daemon):
    """As soon as it has been seen to leave, and not only when there is something to say again."""
    daemon = new_daemon(config={"max_connections": 16, "max_waiters": 8, "event_heartbeat": "10m"}).start()
    for _ in range(10):
        streams = []
        while len(streams) < 6:
            pace.until(lambda: come(daemon, streams), 5)
        for stream in streams:
            stream.close()
    pace.until(lambda: daemon.get("/healthz").status == 200, 5)


def come(daemon, streams):
    """False: there is no room, yet."""
    stream = Stream(daemon)
    if stream.response.status == 200:
        streams.append(stream)
        return True
    assert stream.response.status == 503
    stream.close()
    return False


# --- A thousand readers -----------------------------------------------------------------------------


def make_events(daemon, count):
    """Some `count` events, by bottles that come and go, from four clients."""

    def come_and_go(number):
        for turn in range(count // 12):
            slug = f"c{number}-{turn}"
            make(daemon, slug)
            daemon.remove(slug)

    clients = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


@pytest.mark.timeout(600)
def test_many_readers(new_daemon):
    """EVENT_READERS readers (ten of them stalled) while EVENTS events are made; `make events` sets them."""
    n_readers, n_events = int(os.environ.get("EVENT_READERS", 300)), int(os.environ.get("EVENTS", 3000))
    rows = max(1000, n_events // 4)
    config = {"max_connections": 2 * n_readers + 100, "max_event_readers": n_readers, "event_rows": rows, "log_level": "warning"}
    daemon = new_daemon(config=config).start()
    before = resident_kib(daemon.pid)
    readers = subprocess.Popen([READERS, daemon.socket, str(n_readers), "10"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert readers.stdout.readline() == "ready\n"
        with harness.Clock() as clock:
            make_events(daemon, n_events)
        made = daemon.get("/events?limit=1&after=999999999").json()["next"]
        assert n_events - 12 < made <= n_events
        print(made, file=readers.stdin, flush=True)
        told = json.loads(readers.stdout.readline())
    finally:
        readers.kill()
        readers.wait()
        readers.stdin.close()
        readers.stdout.close()
    grown = resident_kib(daemon.pid) - before
    print(f"\n{n_readers} readers, {made} events in {clock.seconds:.1f} s, {grown} KiB more memory at most: {told}")
    live = n_readers - 10
    assert told["whole"] == live, told
    assert (told["gaps"], told["stalled_whole"]) == (10, 10), told
    assert harness.SANITIZED or grown < 20 * 1024 + 100 * n_readers, f"{grown} KiB"
