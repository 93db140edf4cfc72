"""bottled is killed and started again: its bottles neither end nor get lost."""
import os
import re
import signal
import sqlite3
import subprocess

import processes
import pytest

GATED = ["sh", "-c", "echo up; while :; do sleep 1000 & wait $!; done"]


@pytest.mark.backends
def test_running_bottle_is_taken_over(daemon):
    daemon.create({"slug": "kept", "command": GATED}, "?start=true&wait=running")
    before = daemon.bottle("kept")
    running = {p.pid for p in daemon.own_processes()}
    daemon.kill()
    assert {p.pid for p in daemon.own_processes()} == running, "the crash took processes with it"
    daemon.start()
    after = daemon.bottle("kept")
    assert (after["state"], after["started_at"]) == ("running", before["started_at"])
    assert {p.pid for p in daemon.own_processes()} == running

    # Taken over means in charge: it can be stopped, and leaves nothing.
    daemon.remove("kept")
    assert daemon.own_processes() == []


def test_end_is_noticed_after_the_restart(daemon):
    """The command ends by itself while the second bottled looks on."""
    daemon.create({"slug": "ends", "command": ["sh", "-c", "sleep 6; exit 9"]}, "?start=true&wait=running")
    daemon.kill()
    daemon.start()
    assert daemon.bottle("ends")["state"] == "running"
    bottle = daemon.wait("ends", "exited")
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 9)


@pytest.mark.backends
def test_end_while_bottled_was_down(daemon):
    daemon.create({"slug": "alone", "command": ["sh", "-c", "sleep 1; echo last words; exit 5"]}, "?start=true&wait=running")
    daemon.kill()
    for shim in daemon.processes_named("bottle-shim"):
        assert processes.wait_gone(shim.pid, 30), "the guest's command has ended, the shim has not"
    assert daemon.own_processes() == []
    daemon.start()
    bottle = daemon.bottle("alone")
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 5)
    assert bottle["finished_at"] >= bottle["started_at"]
    assert daemon.log("alone") == "last words\n"


def test_shim_killed_while_bottled_was_down(daemon):
    """Without a word from the shim it is a failure with a reason, never 'running'."""
    daemon.create({"slug": "lost", "command": GATED}, "?start=true&wait=running")
    shims = daemon.processes_named("bottle-shim")
    daemon.kill()
    processes.end_processes(shims)
    for process in daemon.own_processes():
        assert processes.wait_gone(process.pid, 10), f"{process} outlives its shim"
    daemon.start()
    bottle = daemon.bottle("lost")
    assert bottle["state"] == "failed" and bottle["reason"], bottle
    assert daemon.post("/bottles/lost/start").status == 202
    assert daemon.wait("lost", "running")["state"] == "running"


def test_killed_while_starting(daemon):
    daemon.create({"slug": "young", "command": ["sh", "-c", "echo up; exit 6"]}, "?start=true")
    daemon.kill()
    daemon.start()
    bottle = daemon.wait("young", "exited")
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 6), bottle


def test_prepared_bottles_survive(daemon):
    plans = [daemon.create({"slug": f"kept-{n}", "command": ["true"]}) for n in range(5)]
    before = {p["slug"]: daemon.get(f"/bottles/{p['slug']}/plan").json() for p in plans}
    listed = daemon.get("/bottles").json()
    daemon.kill()
    daemon.start()
    assert daemon.get("/bottles").json() == listed
    for slug, plan in before.items():
        assert daemon.get(f"/bottles/{slug}/plan").json() == plan


def test_supervisor_that_is_stuck_while_starting(new_daemon):
    """Nothing comes from it any more: the bottle ends as failed all the same, and can be started again."""
    daemon = new_daemon(config={"boot_timeout": "1s", "sidecar_timeout": "100ms"}).start()
    daemon.create({"slug": "stuck", "command": ["true"]})
    assert daemon.post("/bottles/stuck/start").status == 202
    (shim,) = daemon.processes_named("bottle-shim")
    os.kill(shim.pid, signal.SIGSTOP)
    bottle = daemon.wait("stuck", "failed", timeout=30)
    words = "neither brought the bottle up|did not end, though its bottle had"  # by then it may have been giving up
    assert bottle["state"] == "failed" and re.search(words, bottle["reason"]), bottle
    assert all(processes.wait_gone(one.pid, 5) for one in daemon.own_processes())
    assert daemon.post("/bottles/stuck/start").status == 202


def test_supervisor_that_is_stuck_while_giving_up(fake):
    fake.answers("stuck", hello="stopping")
    fake.daemon.create({"slug": "stuck", "command": ["true"]}, "?start=true")
    bottle = fake.daemon.wait("stuck", "failed", timeout=30)
    assert bottle["state"] == "failed" and "it did not end, though its bottle had" in bottle["reason"], bottle
    assert fake.daemon.own_processes() == []


def test_a_reused_pid_is_left_alone(daemon):
    """The stored pid is another process now; also one that began at the very moment that is stored."""
    daemon.create({"slug": "lost", "command": GATED}, "?start=true&wait=running")
    shims = daemon.processes_named("bottle-shim")
    daemon.kill()
    processes.end_processes(shims)
    foreign = subprocess.Popen(["sleep", "1000"])
    processes.waited_for.add(foreign.pid)
    try:
        began = processes.Process(foreign.pid).start_time
        for start_time in (began + 1, began):
            with sqlite3.connect(daemon.state_dir / "bottled.db") as database:
                database.execute(
                    "UPDATE bottles SET state = 'running', shim_pid = ?, shim_start_time = ?, shim_token = 'x'", (foreign.pid, start_time)
                )
            daemon.start()
            assert daemon.bottle("lost")["state"] == "failed", daemon.bottle("lost")
            daemon.stop()
        assert foreign.poll() is None, "a process that is not ours was ended"
    finally:
        foreign.kill()
        foreign.wait()
        processes.waited_for.discard(foreign.pid)
    daemon.start()
