"""Kind stops: SIGTERM, time to end, the disk written, then the plug; and what a disk keeps when everything is killed."""
import time

import harness
import pace
import processes as processes_of
import pytest
import test_exec

SLUG = "kind"
# What it does at SIGTERM is asked of a file then: its children, too, have SIGTERM from the stop.
COMMAND = """
(trap 'echo told >> /told; [ "$(cat /mode)" = left ] && /bin/sleep 4 && echo left > /left; exit' TERM; while :; do sleep 0.1; done) &
trap 'case "$(cat /mode)" in deaf) ;; *) echo kind > /kind; sleep 1; exit 5;; esac' TERM
touch /dev/shm/ready
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def kept(row):
    """A bottle with a disk."""
    daemon = harness.Daemon()
    try:
        daemon.start()
        daemon.create({"slug": SLUG, "command": ["sh", "-c", COMMAND], "resources": {"disk_mib": 64}})
        yield daemon
    finally:
        daemon.delete(f"/bottles/{SLUG}")
        fault = daemon.close()
        assert fault is None, fault


def run(daemon, command, **fields):
    return test_exec.run(daemon, command, slug=SLUG, **fields)["stdout"]


def start(daemon, mode):
    assert daemon.post(f"/bottles/{SLUG}/start?wait=running&timeout=60s").status == 200
    assert run(daemon, f"echo {mode} > /mode; while ! [ -e /dev/shm/ready ]; do sleep 0.1; done") == ""


def stop(daemon, grace="30s"):
    with harness.Clock() as clock:
        reply = daemon.post(f"/bottles/{SLUG}/stop?grace={grace}&wait=stopped&timeout=90s")
    assert reply.status == 200, reply
    bottle = reply.json()
    assert bottle["state"] == "stopped", bottle
    return bottle, clock.seconds


def test_a_command_and_what_it_leaves_behind_have_their_time(kept):
    start(kept, "left")
    bottle, seconds = stop(kept)
    assert (bottle["exit_code"], bottle["reason"]) == (5, None) and 4 <= seconds < 20, seconds


def test_one_that_does_not_listen_is_killed_and_the_disk_is_written(kept):
    start(kept, "deaf")
    assert run(kept, "cat /kind /left /told") == "kind\nleft\ntold\n", "what was written last is there; nobody was told twice"
    test_exec.run(kept, "trap 'echo bye > /exec; exit' TERM; echo begun > /begun; while :; do sleep 0.1; done", slug=SLUG,
                  detach=True, status=202)
    pace.until(lambda: run(kept, "cat /begun 2>/dev/null") == "begun\n")
    run(kept, "dd if=/dev/urandom of=/big bs=1M count=5 2>/dev/null; sha256sum /big > /sum")
    assert kept.post(f"/bottles/{SLUG}/stop?grace=10m").json()["state"] == "stopping"
    bottle, seconds = stop(kept, grace="1s")
    assert 1 <= seconds < 15, "the shorter grace holds"
    assert bottle["exit_code"] is None and "did not end within the grace" in bottle["reason"]


def test_a_kill_of_everything_takes_nothing_that_was_written(kept):
    start(kept, "kind")
    assert run(kept, "sha256sum -c /sum; cat /exec") == "/big: OK\nbye\n", "other programs are asked to end as well"
    run(kept, "echo old > /old; head -c 3000000 /big > /older")
    time.sleep(6)  # what nobody synced is on the disk by then
    run(kept, "echo new > /new; sync /new /; head -c 3000000 /big > /torn")
    processes_of.end_processes(kept.own_processes())
    kept.kill()
    kept.start()
    assert kept.wait(SLUG, "failed")["state"] == "failed"
    start(kept, "kind")
    assert run(kept, "cat /old /new; head -c 3000000 /big | cmp - /older && sha256sum -c /sum") == "old\nnew\n/big: OK\n"


def test_one_that_never_ran_is_stopped_as_it_is(kept):
    kept.create({"slug": "never", "command": ["true"]})
    with harness.Clock() as clock:
        reply = kept.post("/bottles/never/stop?wait=stopped&timeout=30s")
    assert (reply.status, reply.json()["state"]) == (200, "prepared") and clock.seconds < 5, reply
    kept.remove("never")
