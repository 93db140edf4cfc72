"""A bottle's life: created, started, ended, stopped, killed from outside, deleted, and nothing left."""
import json
import os
import pathlib
import signal

import control
import harness
import processes
import pytest
import raw

HI = {"command": ["sh", "-c", "echo hi; exit 7"]}
# Runs until it is told to end, and says so; `exec` would hide the trap.
# stderr is closed to the shell's own words about its job, which may or may not be in time.
SCRIPT = "exec 2>/dev/null; trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1000 & wait $!; done"
LASTING = {"command": ["sh", "-c", SCRIPT]}


@pytest.mark.backends
def test_one_call(any_user_daemon):
    """The whole promise of the API in one curl."""
    daemon = any_user_daemon
    before = daemon.footprint()
    status, body = daemon.curl("-d", json.dumps(HI), "http://x/bottles?start=true&wait=exited")
    bottle = json.loads(body)
    assert status == 201, body
    assert (bottle["exit_code"], bottle["state"]) == (7, "exited")
    assert bottle["accelerator"] == daemon.row["accelerator"]
    assert bottle["boot"] in ("cold", "template") and (bottle["boot_reason"] is None) == (bottle["boot"] == "template")
    assert bottle["started_at"] and bottle["finished_at"] >= bottle["started_at"]
    assert daemon.log(bottle["slug"]) == "hi\n"
    plan = daemon.remove(bottle["slug"])
    assert all(item["outcome"] for item in plan["items"])
    assert daemon.footprint() == before


def test_accelerator_auto(new_daemon):
    """Left to choose, it takes KVM where a boot under KVM succeeds, else TCG; either way the guest runs."""
    daemon = new_daemon(config={"accelerator": "auto"}).start(timeout=40)
    bottle = daemon.run(HI)
    assert (bottle["exit_code"], bottle["state"]) == (7, "exited")
    assert bottle["accelerator"] in ("kvm", "tcg")
    told = daemon.get("/backends").json()
    assert bottle["backend"] == told["auto"]
    assert bottle["backend_reason"].startswith("auto: ") and f"{told['auto']} is taken" in bottle["backend_reason"]
    assert bottle["backend_reason"].endswith(told["kvm"]["detail"])


def test_created_bottle(daemon):
    plan = {**HI, "slug": "made", "labels": {"team": "ci"}}
    reply = daemon.post("/bottles", plan)
    assert reply.status == 201
    assert reply.headers["Location"] == "/bottles/made"
    assert reply.headers["ETag"]
    bottle = reply.json()
    assert (bottle["slug"], bottle["state"], bottle["exit_code"]) == ("made", "prepared", None)
    assert bottle["labels"] == {"team": "ci"}
    assert daemon.own_processes() == []
    got = daemon.get("/bottles/made")
    assert got.json() == bottle
    assert got.headers["ETag"] == reply.headers["ETag"]
    assert daemon.get("/bottles/made", headers={"If-None-Match": got.headers["ETag"]}).status == 304
    assert [b["slug"] for b in daemon.get("/bottles").json()["bottles"]] == ["made"]
    assert daemon.get("/bottles?label=team=ci&state=prepared").json()["bottles"] == [bottle]
    assert daemon.get("/bottles?label=team=other").json()["bottles"] == []


@pytest.mark.backends
def test_stop_and_start_runs_again(daemon):
    daemon.create({**LASTING, "slug": "twice"}, "?start=true&wait=running")
    control.follow(daemon, "twice", b"up\n")
    first = [p.pid for p in daemon.own_processes()]
    reply = daemon.post("/bottles/twice/start")
    assert (reply.status, reply.json()["state"]) == (200, "running"), reply
    reply = daemon.post("/bottles/twice/stop?wait=stopped&timeout=30s")
    assert reply.status in (200, 202), reply
    assert daemon.wait("twice", "stopped")["state"] == "stopped"
    assert daemon.own_processes() == []
    assert daemon.log("twice") == "up\nbye\n"
    reply = daemon.post("/bottles/twice/stop")
    assert (reply.status, reply.json()["state"]) == (200, "stopped"), reply

    assert daemon.post("/bottles/twice/start").status == 202
    again = daemon.wait("twice", "running")
    assert (again["state"], again["exit_code"]) == ("running", None)
    assert not set(first) & {p.pid for p in daemon.own_processes()}
    control.follow(daemon, "twice", b"up\nbye\nup\n")
    daemon.post("/bottles/twice/stop?wait=stopped&timeout=30s")
    assert daemon.log("twice").count("up\n") == 2
    assert daemon.log("twice").count("bye\n") == 2


def test_a_log_that_bottled_cuts_is_not_taken_for_whole(daemon):
    """Who follows it while bottled is ended can tell that from the bottle's end."""
    daemon.create({**LASTING, "slug": "cut"}, "?start=true&wait=running")
    with raw.Wire(daemon.socket) as wire:
        wire.send(b"GET /bottles/cut/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n").until(b"up\n")
        daemon.stop()
        while wire.more():
            pass
        assert not wire.left.endswith(b"0\r\n\r\n"), wire.left
    daemon.start()


def test_exited_bottle_starts_again(daemon):
    bottle = daemon.run({"slug": "again", "command": ["sh", "-c", "echo run; exit 4"]})
    assert bottle["exit_code"] == 4
    assert daemon.post("/bottles/again/start").status == 202
    assert daemon.wait("again", "exited")["exit_code"] == 4
    assert daemon.log("again").count("run\n") == 2


def test_stop_while_starting(daemon):
    daemon.create({**LASTING, "slug": "early"}, "?start=true")
    assert daemon.bottle("early")["state"] == "starting"
    reply = daemon.post("/bottles/early/stop")
    assert reply.status in (200, 202), reply
    assert daemon.wait("early", "stopped")["state"] == "stopped"
    assert daemon.own_processes() == []


def test_delete_while_starting(daemon):
    before = daemon.footprint()
    daemon.create({**LASTING, "slug": "early"}, "?start=true")
    assert daemon.own_processes()
    plan = daemon.remove("early")
    assert not [item for item in plan["items"] if item["outcome"].startswith("failed")]
    assert daemon.footprint() == before
    assert daemon.get("/bottles/early").problem == "not-found"
    # And the name is free again.
    daemon.create({**HI, "slug": "early"})


def test_delete_leaves_nothing(daemon):
    before = daemon.footprint()
    daemon.create({**LASTING, "slug": "gone"}, "?start=true&wait=running")
    during = daemon.footprint()
    for what in ("processes", "sockets", "ports", "state files", "run files"):
        assert set(during[what]) > set(before[what]), what
    assert during["rows"] != before["rows"]
    shown = daemon.get("/bottles/gone/cleanup-plan")
    assert shown.status == 200 and shown.headers["ETag"]
    assert daemon.footprint() == during, "showing the plan changed something"
    assert shown.json()["empty"] is False
    kinds = {item["kind"] for item in shown.json()["items"]}
    assert {"process", "socket", "port", "directory", "record"} <= kinds
    assert all("outcome" not in item or item["outcome"] is None for item in shown.json()["items"])

    stale = daemon.delete("/bottles/gone", headers={"If-Match": '"0123456789abcdef"'})
    assert (stale.status, stale.problem) == (412, "precondition-failed")
    done = daemon.delete("/bottles/gone", headers={"If-Match": shown.headers["ETag"]})
    assert done.status == 200, done
    items = done.json()["items"]
    assert {item["id"] for item in items} >= {item["id"] for item in shown.json()["items"]}
    assert all(item["outcome"] for item in items), items
    assert not [item for item in items if item["outcome"].startswith("failed")], items
    assert daemon.footprint() == before
    assert daemon.delete("/bottles/gone").problem == "not-found"


KILLED = {
    # process: (states that may follow, words of the reason)
    "the VM's": ({"failed"}, ("qemu", "VM", "virtual machine", "krun")),
    "gvproxy": ({"failed"}, ("gvproxy",)),
    "squid": ({"failed"}, ("squid", "pipelock", "proxy")),
    "bottle-shim": ({"failed"}, ("shim", "supervisor")),
}


@pytest.mark.backends
@pytest.mark.parametrize("name", KILLED)
def test_killed_from_outside(daemon, name):
    """Within a second or so the bottle is not running any more, says why, and has no process left."""
    states, words = KILLED[name]
    name = daemon.row["vmm"] if name == "the VM's" else name
    daemon.create({**LASTING, "slug": "shot"}, "?start=true&wait=running")
    victims = daemon.processes_named(name)
    assert victims, f"no {name} among {daemon.own_processes()}"
    with harness.Clock() as clock:
        os.kill(victims[-1].pid, signal.SIGKILL)
        bottle = daemon.wait("shot", "exited", timeout=20)
    assert bottle["state"] in states, bottle
    assert clock.seconds < 3, f"noticed after {clock.seconds:.1f} s"
    assert any(word.lower() in bottle["reason"].lower() for word in words), bottle["reason"]
    for process in victims + daemon.own_processes():
        assert processes.wait_gone(process.pid, 5), f"{process} lives on"
    assert daemon.own_processes() == []
    # A failed bottle can be stopped, started and deleted.
    assert daemon.post("/bottles/shot/stop").status == 200
    assert daemon.post("/bottles/shot/start").status == 202
    assert daemon.wait("shot", "running")["state"] == "running"


def test_wait_timeout_names_the_state(daemon):
    reply = daemon.post("/bottles?start=true&wait=exited&timeout=1s", {**LASTING, "slug": "slow"})
    assert (reply.status, reply.problem) == (504, "timeout")
    assert reply.json()["state"] in ("starting", "running")
    assert daemon.wait("slow", "running")["state"] == "running", "the bottle lives on"
    reply = daemon.get("/bottles/slow/wait?state=exited&timeout=1s")
    assert (reply.status, reply.problem, reply.json()["state"]) == (504, "timeout", "running")


def test_wait_ends_when_it_can_not_come(daemon):
    bottle = daemon.run({"command": ["true"], "slug": "short"})
    with harness.Clock() as clock:
        assert daemon.wait(bottle["slug"], "running")["state"] == "exited"
    assert clock.seconds < 2


@pytest.mark.parametrize(
    "command, code, words",
    [
        (["true"], 0, None),
        (["sh", "-c", "exit 255"], 255, None),
        (["sh", "-c", "kill -9 $$"], 137, None),
        (["/no/such/program"], 127, "/no/such/program"),
        (["/etc/passwd"], 126, "/etc/passwd"),
    ],
)
def test_exit_codes(shared, command, code, words):
    bottle = shared.run({"command": command})
    assert (bottle["state"], bottle["exit_code"]) == ("exited", code), bottle
    if words:
        assert words in (bottle["reason"] or "") + shared.log(bottle["slug"]), bottle


def test_two_bottles_at_once(daemon):
    for slug in ("one", "two"):
        daemon.create({**LASTING, "slug": slug}, "?start=true")
    bottles = [daemon.wait(slug, "running") for slug in ("one", "two")]
    assert [b["state"] for b in bottles] == ["running", "running"]
    assert bottles[0]["guest_ip"] != bottles[1]["guest_ip"]
    daemon.remove("one")
    assert daemon.bottle("two")["state"] == "running"
    assert daemon.processes_named("gvproxy")


def test_daemon_that_is_asked_to_end_leaves_bottles_running(daemon):
    daemon.create({**LASTING, "slug": "stays"}, "?start=true&wait=running")
    running = {p.pid for p in daemon.own_processes()}
    assert daemon.stop() == 0
    assert {p.pid for p in daemon.own_processes()} == running
    daemon.start()
    assert daemon.bottle("stays")["state"] == "running"


def test_chatty_command_does_not_fill_the_disk(new_daemon):
    """Logs are rotated at log_bytes; who follows one sees all of it, in order."""
    daemon = new_daemon(config={"log_bytes": 262144}).start()
    script = "i=0; while [ $i -lt 800 ]; do i=$((i+1)); printf '%01000d\\n' $i; [ $((i % 50)) != 0 ] || sleep 0.2; done; echo done"
    daemon.create({"slug": "chatty", "command": ["sh", "-c", script]}, "?start=true")
    lines = control.follow(daemon, "chatty", b"done\n").splitlines()
    assert [int(line) for line in lines[:-1]] == list(range(1, 801))
    daemon.wait("chatty", "exited")
    logs = daemon.state_dir / "bottles" / "chatty" / "logs"
    size = sum(path.stat().st_size for path in logs.glob("command.log*"))
    assert 0 < size <= 2 * 262144 + 4096, size
    assert daemon.log("chatty").endswith("done\n")
    assert daemon.get("/bottles/chatty/logs?stream=command&tail=1").text == "done\n"


def test_logs_are_there_from_the_first_start_on_and_can_be_kept(daemon):
    for slug in ("started", "never"):
        daemon.create({**HI, "slug": slug})
    stage = daemon.state_dir / "bottles" / "started"
    rendered = {file["name"] for file in daemon.get("/bottles/started/plan").json()["files"]}
    assert set(os.listdir(stage)) == rendered and daemon.log("started") == ""
    assert daemon.post("/bottles/started/start?wait=exited&timeout=60s").json()["state"] == "exited"
    assert set(os.listdir(stage)) == rendered | {"logs"}
    outcomes = {item["name"]: item["outcome"] for item in daemon.delete("/bottles/started?keep=logs").json()["items"]}
    kept = pathlib.Path(outcomes[f"{stage}/logs/command.log"].removeprefix("kept: moved to "))
    assert kept.read_text() == "hi\n" and kept.parent.parent == daemon.state_dir / "kept-logs"
    assert not stage.exists()
    assert daemon.delete("/bottles/never?keep=logs").status == 200
    assert os.listdir(daemon.state_dir / "kept-logs") == [kept.parent.name], "it had none"


def test_limit_on_running_bottles(new_daemon):
    daemon = new_daemon(config={"max_running": 1}).start()
    daemon.create({**LASTING, "slug": "one"}, "?start=true&wait=running")
    daemon.create({**LASTING, "slug": "two"})
    before = daemon.footprint()
    reply = daemon.post("/bottles/two/start")
    assert reply.status == 503 and reply.problem, reply
    assert daemon.footprint() == before
    assert daemon.bottle("two")["state"] == "prepared"
    daemon.post("/bottles/one/stop?grace=0s&wait=stopped&timeout=20s")
    assert daemon.post("/bottles/two/start").status == 202
