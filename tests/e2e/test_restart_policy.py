"""Restart policies and POST …/restart: the command is really run again, with a wait that grows, a count and an end."""
import concurrent.futures
import datetime
import time

import control
import pace
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


def test_it_gives_up(daemon):
    """The waits double, up to the bound; when the plan's count is used up the bottle stays as it ended."""
    restart = {"policy": "on-failure", "max_retries": 2, "backoff_seconds": 1, "backoff_max_seconds": 2}
    daemon.create({"slug": "hopeless", "command": ["false"], "restart": restart}, "?start=true&wait=exited&timeout=90s")
    bottle = daemon.bottle("hopeless")
    assert (bottle["state"], bottle["exit_code"], bottle["restarts"]) == ("exited", 1, 2), bottle
    assert "as often as its plan allows" in bottle["reason"]
    times = [(event["type"], wall(event["time"])) for event in events(daemon, "hopeless")]
    waits = [after - at for (kind, at), (_, after) in zip(times, times[1:]) if kind == "bottle.restarting"]
    assert waits == [pytest.approx(1, abs=0.9), pytest.approx(2, abs=0.9)]
    # A start by a client counts anew.
    assert daemon.post("/bottles/hopeless/start").json()["restarts"] == 0
    daemon.wait("hopeless", "restarting")
    reply = daemon.post("/bottles/hopeless/stop")
    assert (reply.status, reply.json()["state"], reply.json()["restart_at"]) == (200, "stopped", None), reply


def test_the_wait_outlives_bottled(daemon):
    """Killed during the wait, and during the run that it was for: it is started when it has to be, and once."""
    restart = {"policy": "always", "backoff_seconds": 4}
    daemon.create({"slug": "again", "command": ["true"], "restart": restart}, "?start=true")
    waiting = daemon.wait("again", "restarting", timeout=60)
    assert waiting["exit_code"] == 0 and wall(waiting["restart_at"]) - wall(waiting["finished_at"]) > 3
    daemon.kill()
    daemon.start()
    assert daemon.bottle("again")["restart_at"] == waiting["restart_at"]
    running = daemon.wait("again", "starting,running")
    assert (running["restarts"], running["restart_at"]) == (1, None)
    assert abs(wall(running["updated_at"]) - wall(waiting["restart_at"])) < 3
    daemon.kill()
    daemon.start()
    assert daemon.wait("again", "restarting", timeout=60)["restarts"] == 1
    # A client need not wait for it, and a pause is of none that runs.
    assert daemon.post("/bottles/again/pause").problem == "wrong-state"
    assert daemon.post("/bottles/again/exec", {"command": ["true"]}).problem == "wrong-state"
    reply = daemon.post("/bottles/again/start")
    assert (reply.status, reply.json()["state"], reply.json()["restarts"]) == (202, "starting", 0), reply
    assert daemon.remove("again")["items"]


def test_a_healthy_run_counts_anew(daemon):
    """The count and the wait, also where bottled learns of it later; without it the second run would be the last."""
    script = COUNTS + "[ $(wc -l < /var/runs) != 2 ] || sleep 3; exit 1"
    restart = {"policy": "on-failure", "max_retries": 1, "backoff_max_seconds": 8, "healthy_seconds": 2}
    daemon.create(plan("healthy", script, **restart), "?start=true")
    daemon.wait("healthy", "restarting", timeout=60)
    assert daemon.wait("healthy", "running", timeout=60)["restarts"] == 1
    shims = daemon.processes_named("bottle-shim")
    daemon.kill()
    for shim in shims:
        assert processes.wait_gone(shim.pid, 30)
    daemon.start()
    bottle = daemon.wait("healthy", "exited", timeout=90)
    assert bottle["restarts"] == 2 and "as often as its plan allows" in bottle["reason"], bottle
    assert daemon.log("healthy").split() == ["1", "2", "3"]
    times = [(event["type"], wall(event["time"])) for event in events(daemon, "healthy")]
    waits = [after - at for (kind, at), (_, after) in zip(times, times[1:]) if kind == "bottle.restarting"]
    assert waits == [pytest.approx(1, abs=0.9)] * 2


def test_a_run_that_began_before_bottled_is_healthy_too(fake):
    restart = {"policy": "on-failure", "max_retries": 1, "backoff_seconds": 1, "healthy_seconds": 1}
    daemon = fake.daemon
    fake.start("old", restart=restart)
    processes.end_processes(daemon.processes_named("bottle-shim"))
    daemon.wait("old", "restarting")
    assert daemon.wait("old", "running")["restarts"] == 1
    daemon.kill()
    daemon.start()
    began = time.monotonic()
    pace.until(lambda: time.monotonic() > began + 1.1)
    processes.end_processes(daemon.processes_named("bottle-shim"))
    assert daemon.wait("old", "restarting")["state"] == "restarting", "it ran for a second"


def test_who_follows_the_log_sees_all_runs(daemon):
    restart = {"policy": "on-failure", "max_retries": 1, "backoff_seconds": 1}
    daemon.create({"slug": "told", "command": ["sh", "-c", "echo run; exit 1"], "restart": restart}, "?start=true&wait=running")
    status, body = daemon.curl("http://x/bottles/told/logs?follow=true")
    assert (status, body.count("run\n")) == (200, 2), body
    assert daemon.bottle("told")["state"] == "exited"


def test_what_failed_is_started_again(daemon):
    """Its supervisor is killed, also while bottled is down."""
    restart = {"policy": "on-failure", "backoff_seconds": 1}
    daemon.create({"slug": "tough", "command": ["sleep", "1000"], "restart": restart}, "?start=true&wait=running")
    processes.end_processes(daemon.processes_named("bottle-shim"))
    bottle = daemon.wait("tough", "restarting")
    assert bottle["state"] == "restarting" and "killed by signal 9" in bottle["reason"], bottle
    assert daemon.wait("tough", "running", timeout=60)["restarts"] == 1
    shims = daemon.processes_named("bottle-shim")
    daemon.kill()
    processes.end_processes(shims)
    for process in daemon.own_processes():
        assert processes.wait_gone(process.pid, 10)
    daemon.start()
    assert daemon.wait("tough", "running", timeout=60)["restarts"] == 2
    bottle = daemon.post("/bottles/tough/stop?grace=0s&wait=stopped").json()
    assert bottle["state"] == "stopped", "what a client stopped stays"


def test_a_start_that_is_refused_counts(new_daemon, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    daemon = new_daemon(config={"secret_roots": str(tmp_path)}).start()
    restart = {"policy": "on-failure", "max_retries": 2, "backoff_seconds": 1}
    plan_ = {"slug": "needs", "command": ["sleep", "1000"], "secrets": {"A": {"from_file": str(secret)}}, "restart": restart}
    daemon.create(plan_, "?start=true&wait=running")
    secret.unlink()
    processes.end_processes(daemon.processes_named("bottle-shim"))
    bottle = daemon.wait("needs", "failed")
    assert bottle["state"] == "failed" and bottle["restarts"] == 0, bottle
    assert "could not be started again" in bottle["reason"] and "as often as its plan allows" in bottle["reason"]


def test_restart_by_a_client(any_user_daemon):
    """What runs is stopped kindly and started; many at once are one; what does not run is started."""
    daemon = any_user_daemon
    script = "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 1000 & wait $!; done"
    assert daemon.post("/bottles/none/restart").status == 404
    daemon.create({"slug": "box", "command": ["sh", "-c", script]})
    assert daemon.post("/bottles/box/restart?wait=running&timeout=60s").json()["state"] == "running"
    control.follow(daemon, "box", b"up\n")
    first = daemon.bottle("box")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: daemon.post("/bottles/box/restart?wait=running&timeout=60s"), range(4)))
    assert [reply.json()["state"] for reply in replies] == ["running"] * 4
    assert {reply.json()["started_at"] for reply in replies} != {first["started_at"]}
    assert replies[0].json()["restarts"] == 0
    types = [event["type"] for event in events(daemon, "box")]
    assert types.count("bottle.restarting") == 1 and types.count("bottle.starting") == 2, types
    # Killed in the middle of it, the next one goes on.
    control.follow(daemon, "box", b"up\n")
    assert daemon.post("/bottles/box/restart").status == 202
    daemon.kill()
    daemon.start()
    assert daemon.wait("box", "running", timeout=60)["state"] == "running"
    # A stop that comes before the start ends it.
    assert daemon.post("/bottles/box/restart").json()["state"] == "stopping"
    bottle = daemon.post("/bottles/box/stop?wait=stopped").json()
    assert bottle["state"] == "stopped"


def test_stop_bottles_stops_those_that_would_start(new_daemon):
    """One that waits, one that a client restarts, one that comes up: the next daemon starts none of them."""
    daemon = new_daemon(config={"stop_bottles": True}).start()
    restart = {"policy": "always", "backoff_seconds": 3}
    deaf = "trap '' TERM; echo up; while :; do sleep 1; done"
    daemon.create({"slug": "waits", "command": ["true"], "restart": restart}, "?start=true")
    daemon.create({"slug": "deaf", "command": ["sh", "-c", deaf], "restart": restart}, "?start=true")
    control.follow(daemon, "deaf", b"up\n")
    assert daemon.wait("waits", "restarting", timeout=60)["restart_at"]
    assert daemon.post("/bottles/deaf/restart?grace=2s").json()["state"] == "stopping"
    daemon.create({"slug": "new", "command": ["sleep", "1000"], "restart": restart}, "?start=true")
    assert daemon.stop(timeout=60) == 0
    assert daemon.own_processes() == []
    daemon.config["stop_bottles"] = False
    daemon.start()
    for slug in ("waits", "deaf", "new"):
        bottle = daemon.bottle(slug)
        assert (bottle["state"], bottle["restart_at"]) == ("stopped", None), bottle
