"""kill -9 of each part of one bottle: its state and reason are right within a second, its other parts are gone, its
neighbour does not notice, and it can be started again."""
import os
import re
import signal
import subprocess

import fake_daemon
import harness
import processes
import pytest

STAYS = ["sh", "-c", "echo up; while :; do sleep 1000 & wait $!; done"]
SECONDS = 1.0

# Which process of the bottle's, by its program (and where several are, which), and what the reason says. bottle-cell
# becomes gvproxy, and the relay is the shim's own.
PARTS = {
    "shim and relay": ("bottle-shim", 0, r"the supervisor was killed or is lost \(killed by signal 9"),
    "VMM": (None, -1, r"^the VM ended before its command did"),
    "gvproxy, once bottle-cell": ("gvproxy", -1, r"^gvproxy ended unexpectedly .*logs\?stream=gvproxy"),
    "proxy": ("squid", -1, r"^pipelock ended unexpectedly .*logs\?stream=pipelock"),
    "the VM's jail": ("bwrap of the VM", 0, r"^the VM ended before its command did \(killed by signal 9"),
    "the cell's jail": ("bwrap of gvproxy", 0, r"^gvproxy ended unexpectedly \(killed by signal 9"),
}


def bottle_of(daemon, others):
    """The shim that is not one of `others`, and all processes below it."""
    (shim,) = [one for one in daemon.processes_named("bottle-shim") if one.pid not in others and one.parent == daemon.pid]
    return shim, processes.descendants(shim.pid)


def find(daemon, shim, parts, program, which):
    if program == "bottle-shim":
        return shim
    if program and program.startswith("bwrap of "):
        inner = daemon.row["vmm"] if program.endswith("the VM") else program.removeprefix("bwrap of ")
        target = next(one for one in parts if one.program == inner)
        table = {one.pid: one for one in parts}
        while target.parent != shim.pid:
            target = table[target.parent]
        return target
    name = program or daemon.row["vmm"]
    return [one for one in parts if one.program == name or one.program.startswith(f"{name}-")][which]


@pytest.fixture(scope="module", params=harness.USERS)
def pair(request, row):
    daemon = harness.Daemon(uid=harness.USERS[request.param])
    try:
        daemon.start()
        daemon.create({"slug": "neighbour", "command": STAYS}, "?start=true&wait=running")
        yield daemon, {one.pid for one in daemon.own_processes()}
        for slug in ("neighbour", "victim"):
            daemon.delete(f"/bottles/{slug}")
    finally:
        fault = daemon.close()
        assert fault is None, fault


@pytest.mark.parametrize("part", PARTS)
def test_killed(pair, part):
    daemon, neighbours = pair
    program, which, reason = PARTS[part]
    if daemon.bottle("victim") is None:
        daemon.create({"slug": "victim", "command": STAYS})
    reply = daemon.post("/bottles/victim/start?wait=running&timeout=60s")
    assert (reply.status, reply.json()["state"], reply.json()["reason"]) == (200, "running", None), "it starts again"
    shim, parts = bottle_of(daemon, neighbours)
    target = find(daemon, shim, parts, program, which)
    with harness.Clock() as clock:
        os.kill(target.pid, signal.SIGKILL)
        bottle = daemon.wait("victim", "failed")
    assert bottle["state"] == "failed" and re.search(reason, bottle["reason"]), (target, bottle)
    assert clock.seconds < SECONDS, f"it took {clock.seconds:.2f} s to be known"
    for one in daemon.own_processes():
        assert one.pid in neighbours or processes.wait_gone(one.pid, SECONDS), f"{one} of the killed bottle is left"
    assert {one.pid for one in daemon.own_processes()} == neighbours, "its neighbour's parts are there"
    assert daemon.bottle("neighbour")["state"] == "running"
    assert bottle["exit_code"] is None and bottle["finished_at"], bottle


def test_what_only_stands_in_the_run_directory_lives_on(new_daemon):
    """As an ordinary user all processes are that user's: a shell that looks at a socket is no part of a bottle."""
    daemon = new_daemon(uid=harness.OTHER_USER if os.getuid() == 0 else None)
    with fake_daemon.installed(daemon) as fake:
        daemon.start()
        fake.start("one")
        place, = (daemon.run_dir / "b").iterdir()
        ids = {} if daemon.uid is None else {"user": daemon.uid, "group": daemon.uid, "extra_groups": []}
        with subprocess.Popen(["sleep", "1000"], cwd=place, **ids) as visitor:
            try:
                assert daemon.post("/bottles/one/stop?wait=stopped").json()["state"] == "stopped"
                assert not place.exists() and visitor.poll() is None
            finally:
                visitor.kill()
        daemon.remove("one")
