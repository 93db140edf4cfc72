"""GET /events as JSON, the events and counters of egress, and what a hostile supervisor's words come to."""
import json
import sqlite3
import time

from test_patch import LASTING


def events(daemon, query=""):
    reply = daemon.get(f"/events{query}")
    assert reply.status == 200, reply
    return reply.json()


def every(daemon, query=""):
    """All of them, page by page."""
    found, after = [], 0
    while True:
        page = events(daemon, f"?after={after}&limit=7{query}")
        assert len(page["events"]) <= 7
        found += page["events"]
        if page["next"] == after or not page["events"]:
            return found
        after = page["next"]


def await_events(daemon, query, count, timeout=10):
    until = time.monotonic() + timeout
    while len(found := every(daemon, query)) < count:
        assert time.monotonic() < until, found
        time.sleep(0.02)
    return found


def types(found):
    return [event["type"] for event in found]


def test_a_bottles_life(daemon):
    assert events(daemon) == {"events": [], "next": 0, "first": 1, "gap": False}
    daemon.run({"slug": "lived", "command": ["sh", "-c", "exit 3"]})
    daemon.remove("lived")
    found = await_events(daemon, "", 9)
    assert [event["id"] for event in found] == list(range(1, 10)), "dense"
    assert types(found).pop(4) == "bottle.stopping", "the guest powers off"
    assert types(found)[:4] + types(found)[5:] == ["bottle.prepared", "bottle.starting", "sidecar.ready", "bottle.running", "sidecar.exited",
                            "bottle.exited", "bottle.deleting", "cleanup.finished"]
    assert {event["slug"] for event in found} == {"lived"}
    assert sorted(event["time"] for event in found) == [event["time"] for event in found]
    assert found[6]["detail"] == {"exit_code": 3}
    assert found[2]["detail"] == {"sidecar": "pipelock", "gateway_port": 8888}
    assert types(events(daemon, "?type=bottle.exited&type=sidecar.ready")["events"]) == ["sidecar.ready", "bottle.exited"]
    daemon.kill()
    daemon.start()
    assert every(daemon) == found, "the same after a crash"
    daemon.create({"slug": "next", "command": ["true"]})
    assert [(e["id"], e["slug"]) for e in events(daemon, "?after=9")["events"]] == [(10, "next")]
    assert events(daemon, "?after=10") == {"events": [], "next": 10, "first": 1, "gap": False}
    assert types(events(daemon, "?slug=next")["events"]) == ["bottle.prepared"]
    assert events(daemon, "?after=2&slug=nobody") == {"events": [], "next": 10, "first": 1, "gap": False}
    assert events(daemon, "?after=1000")["gap"], "no id of this database"


def test_sidecars_that_were_ready_before_a_restart(daemon):
    daemon.create({"slug": "kept", "command": LASTING}, "?start=true&wait=running")
    daemon.kill()
    daemon.start()
    daemon.post("/bottles/kept/stop?wait=stopped&grace=0s")
    assert types(every(daemon, "&type=sidecar.ready&type=sidecar.exited")) == ["sidecar.ready", "sidecar.exited"]


def test_the_oldest_go(new_daemon):
    """event_rows bounds the table; a reader that is too late is told."""
    daemon = new_daemon(config={"event_rows": 1000}).start()
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "bottled.db") as db:
        db.executemany("INSERT INTO events (time, slug, type, detail) VALUES (1, 'x', 'bottle.running', '{}')", [()] * 2500)
        assert db.execute("SELECT count(*) FROM events").fetchone() == (1000,)
    daemon.start()
    page = events(daemon, "?limit=1000")
    assert (page["first"], page["next"], page["gap"], len(page["events"])) == (1501, 2500, True, 1000)
    assert events(daemon, "?after=1499")["gap"] and not events(daemon, "?after=1500")["gap"]
    assert events(daemon, "?after=2400&limit=10")["next"] == 2410
    daemon.config["event_rows"] = 2000
    daemon.restart()
    assert events(daemon)["first"] == 1501
    daemon.create({"slug": "one", "command": ["true"]})
    assert events(daemon)["first"] == 1501 and events(daemon, "?after=2500")["events"][0]["id"] == 2501


def note(host, verdict="denied", **fields):
    return {"verdict": verdict, "host": host, "port": 443, "rule": None, "why": "no rule", "count": 1, "bytes_out": 0,
            "bytes_in": 0, "last_ms": 1700000000000, **fields}


def packet(notes, lost=0, **totals):
    return {"egress": notes, "lost": lost, "totals": {"allowed": 0, "denied": 0, "bytes_out": 0, "bytes_in": 0, **totals}}


def stats(daemon, slug):
    return daemon.get(f"/bottles/{slug}/stats").json()["egress"]


def egress_metrics(daemon):
    lines = daemon.get("/metrics").text.splitlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("bottled_egress_")}


def test_egress_events_and_counters(fake):  # noqa: F811
    fake.start("talks")
    counted = egress_metrics(fake.daemon)
    zero = {"allowed": 0, "denied": 0, "bytes_out": 0, "bytes_in": 0}
    assert stats(fake.daemon, "talks") == zero
    before = fake.daemon.get("/bottles/talks")
    fake.say("talks", packet([note("api.example", "allowed", rule="api.example", why=None, count=3, bytes_out=10, bytes_in=99),
                              note("evil.example", port=22)], allowed=3, denied=1, bytes_out=10, bytes_in=99))
    found = await_events(fake.daemon, "&type=egress.allowed&type=egress.denied", 2)
    assert types(found) == ["egress.allowed", "egress.denied"]
    assert found[0]["detail"] == {"host": "api.example", "port": 443, "rule": "api.example", "why": None, "count": 3,
                                  "bytes_out": 10, "bytes_in": 99, "last_at": "2023-11-14T22:13:20.000Z"}
    assert (found[1]["detail"]["host"], found[1]["detail"]["port"], found[1]["detail"]["why"]) == ("evil.example", 22, "no rule")
    told = {"allowed": 3, "denied": 1, "bytes_out": 10, "bytes_in": 99}
    assert stats(fake.daemon, "talks") == told
    grown = {name: count - counted[name] for name, count in egress_metrics(fake.daemon).items()}
    assert grown == {'bottled_egress_total{verdict="allowed"}': 3, 'bottled_egress_total{verdict="denied"}': 1,
                     'bottled_egress_bytes_total{direction="out"}': 10, 'bottled_egress_bytes_total{direction="in"}': 99}
    after = fake.daemon.get("/bottles/talks")
    assert (after.json(), after.headers["ETag"]) == (before.json(), before.headers["ETag"]), "a counter is no change"
    fake.say("talks", packet([], allowed=2, denied=1))
    fake.daemon.post("/bottles/talks/stop?wait=stopped")
    assert stats(fake.daemon, "talks") == told, "they never fall, and outlive the supervisor"
    fake.daemon.kill()
    fake.daemon.start()
    assert stats(fake.daemon, "talks") == told
    fake.daemon.post("/bottles/talks/start?wait=running")
    assert stats(fake.daemon, "talks") == zero, "of the present run"


def test_ten_thousand_hosts(fake):  # noqa: F811
    """A flood is bounded in rows and bytes, and what is left out is counted in an event."""
    fake.start("floods")
    total = 0
    for _ in range(20):  # far more than the protocol's rate
        total += 500
        fake.say("floods", packet([note(f"h{total}-{n}." + "x" * 60) for n in range(64)], lost=436, denied=total))
    until = time.monotonic() + 10
    while stats(fake.daemon, "floods")["denied"] < total:
        assert time.monotonic() < until
        time.sleep(0.02)
    fake.daemon.post("/bottles/floods/stop?wait=stopped")
    denied = every(fake.daemon, "&type=egress.denied")
    lost = await_events(fake.daemon, "&type=egress.lost", 1)
    assert 128 <= len(denied) <= 160
    assert sum(event["detail"]["count"] for event in denied + lost) == total, "never lost without saying so"
    assert len(lost) <= 4


def test_a_lying_supervisor(fake):  # noqa: F811
    """Lengths, control characters, numbers and shapes: whatever comes, what is stored is bounded and readable."""
    fake.start("lies")
    long = "a" * 1000
    fake.say("lies", packet([note("a\u0001b\u001b[31m\u0085\n\u007fc"), note(long, rule=long, why="é" * 300), note("neg", port=-1, count=-5),
                             note("big", port=70000, count=1 << 60, last_ms=1 << 60), {"verdict": "maybe", "host": "x"},
                             {"verdict": "denied"}, 7, None, note(5)], denied=-3, allowed=1 << 62))
    found = await_events(fake.daemon, "&type=egress.denied", 4)
    details = [event["detail"] for event in found]
    assert details[0]["host"] == "a?b?[31m????c"
    assert [len(details[1][key].encode()) for key in ("host", "rule", "why")] == [255, 263, 262]
    assert (details[2]["port"], details[2]["count"]) == (0, 0)
    assert (details[3]["port"], details[3]["count"], details[3]["last_at"]) == (0, 1 << 53, None)
    assert stats(fake.daemon, "lies") == {"allowed": 1 << 53, "denied": 0, "bytes_out": 0, "bytes_in": 0}
    for odd in ({"egress": 1}, {"egress": [], "lost": -1, "totals": []}, {"applied": 99, "error": None},
                {"report": 99, "checks": []}, {"applied": "x"}):
        fake.say("lies", odd)
    assert fake.daemon.bottle("lies")["state"] == "running"
    fake.say("lies", b"no JSON")
    bottle = fake.daemon.wait("lies", "failed")
    assert "protocol" in bottle["reason"]
