"""Idempotency-Key: sent again, a POST is answered again and not carried out again; over crashes and restarts of bottled."""
import concurrent.futures
import json
import os
import select
import signal
import sqlite3
import time

import creates
import fake_daemon
import pace
import pytest
import raw

PLAN = {"command": ["true"]}


def keyed(key, **headers):
    return {"Idempotency-Key": key, **headers}


def same(first, again):
    """The first answer, once more."""
    assert again.headers["Idempotency-Replayed"] == "true", again
    assert (again.status, again.body) == (first.status, first.body)
    for name in ("Content-Type", "Location", "ETag"):
        assert again.headers.get(name) == first.headers.get(name), name
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]


def slugs(daemon):
    return [bottle["slug"] for bottle in daemon.get("/bottles?limit=1000").json()["bottles"]]


def records(daemon):
    with sqlite3.connect(f"file:{daemon.state_dir / 'bottled.db'}?mode=ro", uri=True) as database:
        return database.execute("SELECT key, status, slug FROM idempotency ORDER BY number").fetchall()


def test_create_is_answered_again(daemon):
    first = daemon.post("/bottles", PLAN, headers=keyed("a"))
    assert first.status == 201 and "Idempotency-Replayed" not in first.headers
    same(first, daemon.post("/bottles", PLAN, headers=keyed("a")))
    daemon.kill()
    daemon.start()
    same(first, daemon.post("/bottles", PLAN, headers=keyed("a")))
    assert slugs(daemon) == [first.json()["slug"]]
    daemon.remove(first.json()["slug"])
    same(first, daemon.post("/bottles", PLAN, headers=keyed("a")))
    assert slugs(daemon) == []


def test_another_request_of_the_same_key(daemon):
    daemon.post("/bottles", PLAN, headers=keyed("a"))
    for path, body in (("/bottles", {"command": ["false"]}), ("/bottles?start=true", PLAN), ("/plans", PLAN)):
        reply = daemon.post(path, body, headers=keyed("a"))
        assert (reply.status, reply.problem) == (422, "idempotency-key-reused"), (path, reply)
    assert daemon.post("/bottles", PLAN, headers=keyed("b")).status == 201
    assert len(slugs(daemon)) == 2


def test_every_post_takes_a_key(daemon):
    """Also those that are refused: the refusal is the first answer."""
    paths = {path.replace("{slug}", "none").replace("{exec}", "0" * 16).replace("{id}", "0" * 16)
             for path, item in daemon_paths(daemon).items() if "post" in item and path != "/session"}
    assert len(paths) > 10
    for path in sorted(paths):
        body = {} if any(word in path for word in ("plans", "images", "exec", "signal", "resize")) or path == "/bottles" else None
        first = daemon.post(path, body, headers=keyed(path))
        if first.status < 500:
            same(first, daemon.post(path, body, headers=keyed(path)))


def daemon_paths(daemon):
    import yaml

    return yaml.safe_load(daemon.get("/openapi.yaml").body)["paths"]


@pytest.mark.parametrize("key", ["", " ", "a b", "\u00fc", "a" * 256, "a\tb"])
def test_keys_that_are_none(shared, key):
    reply = shared.post("/plans", PLAN, headers={"Idempotency-Key": key.encode("utf-8")})
    assert (reply.status, reply.problem) == (400, "bad-request"), reply
    assert shared.post("/plans", PLAN, headers=keyed("a" * 255)).status == 200


def test_refusals_of_the_moment_are_not_kept(new_daemon):
    daemon = new_daemon(config={"max_bottles": 1}).start()
    daemon.create({**PLAN, "slug": "only"})
    refused = daemon.post("/bottles", PLAN, headers=keyed("a"))
    assert (refused.status, refused.problem) == (503, "too-many-bottles")
    daemon.remove("only")
    assert daemon.post("/bottles", PLAN, headers=keyed("a")).status == 201, "carried out once there is room"


def test_at_the_same_time(daemon):
    """Of many that come at once one is carried out; the others have its answer, or are told to come back."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: daemon.post("/bottles", PLAN, headers=keyed("a")), range(64)))
    for reply in replies:
        if reply.status == 409:
            assert reply.problem == "idempotency-in-progress"
        else:
            assert reply.status == 201, reply
    assert len({reply.body for reply in replies if reply.status == 201}) == 1
    assert len(slugs(daemon)) == 1


def test_while_the_first_is_under_way(daemon):
    plan = {"command": ["sleep", "600"], "slug": "slow"}
    assert daemon.post("/bottles?start=true&wait=running&timeout=60s", plan, headers=keyed("s")).status == 201
    sent = b"POST /bottles/slow/stop?wait=stopped&timeout=60s HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n\r\n"
    with raw.Wire(daemon.socket) as waiting, raw.Wire(daemon.socket) as beside:
        waiting.send(sent)
        meanwhile, first = beside.send(sent).answer(), waiting.answer()
        if meanwhile.status == 200:  # of two connections either may be read first
            meanwhile, first = first, meanwhile
        assert first.status == 200, first
        assert meanwhile.status == 409 and b"idempotency-in-progress" in meanwhile.body, meanwhile
        again = beside.send(sent).answer()
        assert again.headers["idempotency-replayed"] == "true" and again.body == first.body


def test_exec_is_run_once(daemon):
    """Its answer is kept as well, and what was cut off is not run again."""
    daemon.create({"command": ["sleep", "600"], "slug": "b"}, "?start=true&wait=running&timeout=60s")
    body = {"command": ["sh", "-c", "echo x >>/tmp/count; wc -l </tmp/count"]}
    first = daemon.post("/bottles/b/exec", body, headers=keyed("a"))
    assert first.json()["stdout"].strip() == "1", first
    same(first, daemon.post("/bottles/b/exec", body, headers=keyed("a")))
    lines = daemon.post("/bottles/b/exec", body, headers=keyed("n", Accept="application/x-ndjson"))
    same(lines, daemon.post("/bottles/b/exec", body, headers=keyed("n", Accept="application/x-ndjson")))
    assert daemon.post("/bottles/b/exec", body).json()["stdout"].strip() == "3"
    # More than is kept: it says that it was done.
    long = {"command": ["sh", "-c", "echo x >>/tmp/count; head -c 200000 /dev/zero | tr '\\0' a"]}
    assert len(daemon.post("/bottles/b/exec", long, headers=keyed("long")).json()["stdout"]) == 200000
    again = daemon.post("/bottles/b/exec", long, headers=keyed("long"))
    assert (again.status, again.problem) == (409, "idempotency-unknown"), again
    # Cut off by a crash.
    text = json.dumps({"command": ["sh", "-c", "echo x >>/tmp/count; echo begun; sleep 60"]}).encode()
    head = b"POST /bottles/b/exec HTTP/1.1\r\nHost: x\r\nIdempotency-Key: cut\r\nAccept: application/x-ndjson\r\n"
    with raw.Wire(daemon.socket) as wire:
        wire.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(text), text)).until(b"begun")
        daemon.kill()
    daemon.start()
    reply = daemon.post("/bottles/b/exec", text, headers=keyed("cut", Accept="application/x-ndjson"))
    assert (reply.status, reply.problem) == (409, "idempotency-unknown"), reply
    assert daemon.post("/bottles/b/exec", {"command": ["cat", "/tmp/count"]}).json()["stdout"].count("x") == 5


def test_create_start_and_wait_goes_on_after_a_crash(daemon):
    """One call for CI: after a crash in its middle the same call gives its end, and the command has run once."""
    plan = {"command": ["sh", "-c", "echo ran; sleep 2; exit 7"], "slug": "ci"}
    query = "/bottles?start=true&wait=exited&timeout=60s"
    text = json.dumps(plan).encode()
    with raw.Wire(daemon.socket) as wire:
        wire.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: ci\r\nContent-Length: %d\r\n\r\n%b"
                  % (pace.stretch_wait(query).encode(), len(text), text))
        assert daemon.output.wait_line("bottle created", 20)
        assert daemon.get("/bottles/ci/wait?state=running&timeout=60s").status == 200
        assert ("ci", 0, "ci") in records(daemon)
        daemon.kill()
    daemon.start()
    reply = daemon.post(query, text, headers=keyed("ci"))
    assert reply.status == 201 and "Idempotency-Replayed" not in reply.headers, reply
    assert (reply.json()["state"], reply.json()["exit_code"]) == ("exited", 7)
    assert reply.headers["Location"] == "/bottles/ci"
    assert daemon.log("ci").count("ran") == 1
    same(reply, daemon.post(query, text, headers=keyed("ci")))


def test_a_client_that_left_joins_again(fake):
    """It need not wait until the request that it has left would have been answered."""
    daemon, plan = fake.daemon, json.dumps({"slug": "x", "command": ["true"]}).encode()
    query = "/bottles?start=true&wait=exited&timeout=10m"
    request = f"POST {query} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: mine\r\nContent-Length: {len(plan)}\r\n\r\n".encode() + plan
    with raw.Wire(daemon.socket) as wire:
        wire.send(request)
        pace.until(lambda: (daemon.bottle("x") or {}).get("state") == "running")
        with raw.Wire(daemon.socket) as other:
            meanwhile = other.send(request).answer()
        assert (meanwhile.status, meanwhile.headers["retry-after"]) == (409, "1"), meanwhile
    with raw.Wire(daemon.socket) as wire:

        def joined():
            """Nothing comes back: it waits with the bottle."""
            return not select.select([wire.send(request).sock], [], [], 0.5)[0] or not wire.answer()

        pace.until(joined, timeout=20)
        daemon.post("/bottles/x/stop?wait=stopped")
        answer = wire.answer()
        assert (answer.status, json.loads(answer.body)["state"]) == (201, "stopped"), answer


def test_a_client_that_left_and_can_not_come_again(fake):
    """Without a key the call does both or neither, whether or not somebody waits for it."""
    daemon, plan = fake.daemon, json.dumps({"slug": "x", "command": ["true"]}).encode()
    fake.answers("x", hello="starting")
    with raw.Wire(daemon.socket) as wire:
        wire.send(f"POST /bottles?start=true&wait=running HTTP/1.1\r\nHost: x\r\nContent-Length: {len(plan)}\r\n\r\n".encode() + plan)
        pace.until(lambda: (daemon.bottle("x") or {}).get("state") == "starting")
    assert daemon.output.wait_line("status=499", 20), "it is known to have left"
    pace.until(lambda: daemon.get("/bottles/x/wait?state=running&timeout=1500ms").problem == "timeout")  # nor does it later
    os.kill(daemon.processes_named("bottle-shim")[0].pid, signal.SIGKILL)
    pace.until(lambda: daemon.bottle("x") is None)


def test_another_bottle_of_the_name_is_let_alone(fake):
    """Sent again, a create goes on with what it has made, and with nothing else that has come to the name."""
    daemon, plan, query = fake.daemon, {"slug": "x", "command": ["first"]}, "/bottles?start=true&wait=exited&timeout=1s"
    assert daemon.post(query, plan, headers=keyed("theirs")).status == 504, "it lives on"
    daemon.remove("x")
    daemon.create({"slug": "x", "command": ["second"], "labels": {"of": "another"}})
    reply = daemon.post(query, plan, headers=keyed("theirs"))
    assert (reply.status, reply.problem) == (409, "slug-taken"), reply
    assert (daemon.bottle("x")["state"], daemon.bottle("x")["labels"]) == ("prepared", {"of": "another"})


def test_what_has_worked_is_not_taken_back(fake):
    """A create that is sent again removes nothing: its bottle came up after all, and ended since."""
    daemon, plan = fake.daemon, {"slug": "x", "command": ["true"], "resources": {"disk_mib": 16}}
    query = "/bottles?start=true&wait=running&timeout=1s"
    fake.answers("x", hello="starting")
    assert daemon.post(query, plan, headers=keyed("mine")).status == 504
    shim, = daemon.processes_named("bottle-shim")
    fake.say("x", {"state": "running", "reason": None, "exit_code": None, "started_ms": 1700000000000, "finished_ms": 0,
                   "pid": shim.pid, "start_time": 1, "boots": 1, "processes": []})
    daemon.wait("x", "running")
    os.kill(shim.pid, signal.SIGKILL)
    daemon.wait("x", "failed")
    reply = daemon.post(query, plan, headers=keyed("mine"))
    assert (reply.status, reply.json()["state"]) == (201, "failed"), reply
    assert (daemon.state_dir / "bottles" / "x" / "disk.ext4").exists()


def test_one_that_did_not_come_up_stays_when_it_is_asked_for_again(fake):
    daemon, plan, query = fake.daemon, {"slug": "x", "command": ["true"]}, "/bottles?start=true&wait=running&timeout=1s"
    fake.answers("x", hello="starting")
    assert daemon.post(query, plan, headers=keyed("mine")).status == 504
    os.kill(daemon.processes_named("bottle-shim")[0].pid, signal.SIGKILL)
    daemon.wait("x", "failed")
    reply = daemon.post(query, plan, headers=keyed("mine"))
    assert (reply.status, reply.problem, reply.headers["Location"]) == (504, "boot-failed", "/bottles/x"), reply
    assert "removed" not in reply.json()["detail"] and daemon.bottle("x")["state"] == "failed"
    daemon.remove("x")
    fake.answers("x")
    assert daemon.post(query, plan, headers=keyed("mine")).status == 201, "made anew"


def test_a_restart_that_was_made_is_not_made_again(fake):
    """Whatever it was answered: its bottle does not come up in time, or bottled is ended while it waits."""
    fake.start("x")
    daemon, query = fake.daemon, "/bottles/x/restart?grace=0s&wait=running&timeout=1s"
    fake.answers("x", hello="starting")
    assert daemon.post(query, headers=keyed("mine")).status == 504
    shims = [shim.pid for shim in daemon.processes_named("bottle-shim")]
    reply = daemon.post(query, headers=keyed("mine"))
    assert (reply.status, reply.problem) == (409, "idempotency-unknown"), reply
    assert [shim.pid for shim in daemon.processes_named("bottle-shim")] == shims


def test_a_create_that_may_not_wait_makes_nothing(new_daemon):
    """The refusal says to come again, as one would that had no effect."""
    daemon = new_daemon(config={"max_waiters": 1})
    with fake_daemon.installed(daemon) as fake:
        daemon.start()
        fake.start("first")
        fake.answers("second", hello="starting")
        with raw.Wire(daemon.socket) as wire:
            wire.send(b"GET /bottles/first/wait?state=exited&timeout=60s HTTP/1.1\r\nHost: x\r\n\r\n")
            pace.until(lambda: daemon.get("/bottles/first/wait?state=exited&timeout=1ms").problem == "too-many-waiters")
            reply = daemon.post("/bottles?start=true&wait=running", {"slug": "second", "command": ["true"]})
            assert (reply.status, reply.problem) == (503, "too-many-waiters") and "Location" not in reply.headers, reply
            assert daemon.bottle("second") is None


def test_bounds(new_daemon):
    daemon = new_daemon(config={"idempotency_rows": 5, "idempotency_age": "2s"}).start()
    assert daemon.get("/limits").json()["daemon"]["idempotency_rows"] == 5
    for number in range(12):
        assert daemon.post("/plans", PLAN, headers=keyed(f"k{number}")).status == 200
    assert [key for key, _, _ in records(daemon)] == [f"k{number}" for number in range(7, 12)]
    began = time.monotonic()
    while (reply := daemon.post("/plans", PLAN, headers=keyed("k11"))).headers.get("Idempotency-Replayed"):
        assert time.monotonic() < began + 10
    assert reply.status == 200 and time.monotonic() - began > 1
    assert [key for key, _, _ in records(daemon)] == ["k11"], "the old ones went with it"


def test_crowd_of_crashing_clients(new_daemon):
    """The short form of tests/bench/creates: exactly the bottles that were meant."""
    daemon = new_daemon(config={"log_level": "error"}).start()
    crowd = creates.Crowd(daemon, 300, kills=2)
    figures = crowd.run()
    assert crowd.check()[0] == 300
    assert figures["crashes"] > 50 and figures["replays"] > 20, figures
