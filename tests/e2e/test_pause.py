"""Pause and resume: the machine stands still, and everything else about a paused bottle is defined."""
import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
import time

import control
import harness
import pace
import pytest

# A line every tenth of a second, by a shell of the guest's own.
TICKS = ["sh", "-c", "trap 'echo told; exit 5' TERM; n=0; while :; do echo $n; n=$((n + 1)); sleep 0.1; done"]


def ticks(daemon, slug):
    return len(daemon.log(slug).split())


def rest_of(daemon, slug, seconds):
    """How much the guest says while that much time passes on the host: a long poll that nothing ends."""
    before = ticks(daemon, slug)
    assert daemon.get(f"/bottles/{slug}/wait?state=stopped&timeout={seconds}s").status == 504
    return ticks(daemon, slug) - before


@pytest.mark.backends
def test_a_pause(daemon):
    daemon.create({"slug": "still", "command": TICKS}, "?start=true&wait=running")
    control.follow(daemon, "still", b"3\n")
    for _ in range(2):  # idempotent
        reply = daemon.post("/bottles/still/pause")
        assert (reply.status, reply.json()["state"]) == (200, "paused"), reply
    rest_of(daemon, "still", 1)  # what was on its way
    assert rest_of(daemon, "still", 3) == 0
    for _ in range(2):
        reply = daemon.post("/bottles/still/resume?wait=running")
        assert (reply.status, reply.json()["state"]) == (200, "running"), reply
    control.follow(daemon, "still", b"\n%d\n" % (ticks(daemon, "still") + 2))
    assert daemon.post("/bottles/still/exec", {"command": ["date", "+%s"]}).status == 200


def paused(daemon, slug, command=TICKS, marker=b"3\n", **plan):
    daemon.create({"slug": slug, "command": command, **plan}, "?start=true&wait=running")
    control.follow(daemon, slug, marker)
    assert daemon.post(f"/bottles/{slug}/pause").json()["state"] == "paused"


def clock_of(daemon, slug):
    return int(daemon.post(f"/bottles/{slug}/exec", {"command": ["date", "+%s"]}).json()["stdout"])


@pytest.fixture(scope="module")
def box(shared):
    """One bottle that the tests pause and resume."""
    shared.create({"slug": "box", "command": TICKS, "egress": {"allow": ["old.example"]}}, "?start=true&wait=running")
    control.follow(shared, "box", b"3\n")
    yield "box"


@pytest.fixture
def held(shared, box):
    reply = shared.post(f"/bottles/{box}/pause?wait=paused&timeout=10s")
    assert (reply.status, reply.json()["state"]) == (200, "paused"), reply
    yield box
    assert shared.post(f"/bottles/{box}/resume").json()["state"] == "running"


REFUSED = {
    "start": ("POST", "/start", None),
    "exec": ("POST", "/exec", {"command": ["true"]}),
    "egress report": ("POST", "/egress-report", None),
    "secrets": ("POST", "/secrets/reload", None),
    "a file out": ("GET", "/files?path=/etc/passwd", None),
    "a file in": ("PUT", "/files?path=/tmp/x", b"x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_the_guest_can_do_is_refused(shared, held, name):
    method, path, body = REFUSED[name]
    headers = {"Content-Type": "application/octet-stream"} if isinstance(body, bytes) else {}
    reply = shared.request(method, f"/bottles/{held}{path}", body, headers=headers)
    assert (reply.status, reply.problem) == (409, "wrong-state") and "paused" in reply.json()["detail"], reply


def test_what_needs_no_guest_is_done(shared, held):
    reply = shared.request("PATCH", f"/bottles/{held}", {"egress": {"allow": ["new.example"]}, "labels": {"a": "1"}})
    assert (reply.status, reply.json()["state"], reply.json()["labels"]) == (200, "paused", {"a": "1"}), reply
    for path in ("", "/stats", "/logs", "/plan", "/cleanup-plan"):
        assert shared.get(f"/bottles/{held}{path}").status == 200
    assert [one["slug"] for one in shared.get("/bottles?state=paused").json()["bottles"]] == [held]


def test_a_program_stands_still_with_it(shared, box):
    """It can be asked after meanwhile, and goes on after."""
    made = shared.post(f"/bottles/{box}/exec", {"command": ["sh", "-c", "sleep 1; exit 7"], "detach": True}).json()
    assert shared.post(f"/bottles/{box}/pause").status == 200
    assert shared.get(f"/bottles/{box}/wait?state=stopped&timeout=2s").status == 504
    assert shared.get(f"/bottles/{box}/execs/{made['id']}").json()["state"] == "running"
    assert shared.post(f"/bottles/{box}/resume").status == 200
    # Its own clock stood still: it has its second before it.
    done = shared.post(f"/bottles/{box}/exec", {"command": ["sleep", "2"]}).json()
    assert done["exit_code"] == 0
    pace.until(lambda: shared.get(f"/bottles/{box}/execs/{made['id']}").json()["state"] == "ended")
    assert shared.get(f"/bottles/{box}/execs/{made['id']}").json()["exit_code"] == 7


def test_a_report_under_way_ends(shared, box):
    connection = harness.UnixConnection(str(shared.socket), 30)
    connection.request("POST", f"/bottles/{box}/egress-report")
    shared.post(f"/bottles/{box}/pause")
    reply = harness.Reply(connection.getresponse())
    connection.close()
    # Or it was over before, or the pause came first.
    assert (reply.status, reply.problem) in ((500, "report-failed"), (200, None), (409, "wrong-state")), reply
    shared.post(f"/bottles/{box}/resume")
    assert shared.post(f"/bottles/{box}/egress-report").json()["passed"] is True


def test_all_at_once_end_in_one_state(shared, box):
    """Pauses and resumes from many clients: each answer is the state it asked for, or what came after it."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        verbs = ["pause", "resume"] * 12
        replies = list(pool.map(lambda verb: shared.post(f"/bottles/{box}/{verb}"), verbs))
    assert {reply.status for reply in replies} == {200}
    assert shared.post(f"/bottles/{box}/resume").json()["state"] == "running"
    control.follow(shared, box, b"\n%d\n" % (ticks(shared, box) + 2))


def test_the_clock_after_a_long_one(shared, box):
    """The guest's wall clock stood still by so much, and is right at once."""
    assert shared.post(f"/bottles/{box}/pause").status == 200
    assert shared.get(f"/bottles/{box}/wait?state=stopped&timeout=6s").status == 504
    assert shared.bottle(box)["state"] == "paused", "gvproxy is not taken for dead meanwhile"
    assert shared.post(f"/bottles/{box}/resume").status == 200
    assert abs(clock_of(shared, box) - time.time()) < 2


class Hose:
    """A server that sends without an end; `sent` counts."""

    def __init__(self, address):
        self.listener, self.sent, self.moved = socket.create_server(address), 0, threading.Condition()

    def __enter__(self):
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def serve(self):
        wire, _ = self.listener.accept()
        with wire, contextlib.suppress(OSError):
            wire.recv(4096)
            wire.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            while True:
                wire.sendall(bytes(65536))
                with self.moved:
                    self.sent += 65536
                    self.moved.notify_all()

    def more(self, count):
        """Waits until so much more was sent."""
        with self.moved:
            until = self.sent + count
            assert self.moved.wait_for(lambda: self.sent >= until, 60), f"{self.sent} bytes, not {until}"


@pytest.mark.usefixtures("canaries")
def test_a_download_under_way(shared):
    """What comes for the guest has nowhere to go meanwhile: all that carries it waits, and none of it is taken for dead."""
    get = "wget -q -O /dev/null http://allowed.example:8443/"
    plan = {"slug": "loading", "command": ["sh", "-c", get], "egress": {"allow": ["allowed.example:8443"]}}
    with Hose(("203.0.113.10", 8443)) as hose:
        shared.create(plan, "?start=true&wait=running")
        hose.more(8 << 20)
        assert shared.post("/bottles/loading/pause").json()["state"] == "paused"
        assert shared.get("/bottles/loading/wait?state=failed&timeout=6s").status == 504
        assert shared.bottle("loading")["state"] == "paused"
        assert shared.post("/bottles/loading/resume").json()["state"] == "running"
        hose.more(8 << 20)
        shared.remove("loading")


WRONG = {"prepared": ["pause", "resume"], "exited": ["pause", "resume"]}


@pytest.mark.parametrize("state", WRONG)
def test_states_that_do_not_allow_it(shared, state):
    slug = f"is-{state}"
    shared.create({"slug": slug, "command": ["true"]}, "?start=true&wait=exited" if state == "exited" else "")
    for verb in WRONG[state]:
        reply = shared.post(f"/bottles/{slug}/{verb}")
        assert (reply.status, reply.problem) == (409, "wrong-state") and f"is {state}" in reply.json()["detail"], reply
    assert shared.post(f"/bottles/none/{verb}").status == 404


def test_stopped_deleted_restarted(any_user_daemon):
    """A stop lets the command take its leave; over a restart of bottled it is paused still."""
    daemon = any_user_daemon
    paused(daemon, "one")
    daemon.kill()
    daemon.start()
    assert daemon.bottle("one")["state"] == "paused"
    bottle = daemon.post("/bottles/one/stop?wait=stopped&timeout=60s").json()
    assert (bottle["state"], bottle["exit_code"], bottle["reason"]) == ("stopped", 5, None), bottle
    assert "told" in daemon.log("one")
    assert daemon.post("/bottles/one/start?wait=running&timeout=60s").status == 200
    assert daemon.post("/bottles/one/pause").status == 200
    reply = daemon.post("/bottles/one/restart?wait=running&timeout=60s")
    assert (reply.status, reply.json()["state"], reply.json()["restarts"]) == (200, "running", 0), reply
    assert daemon.post("/bottles/one/pause").status == 200
    with harness.Clock() as clock:
        daemon.remove("one")
    assert clock.seconds < 5 and daemon.own_processes() == []


def test_a_vmm_that_does_not_answer(daemon):
    """Stopped from outside it gives no answer: a problem in time, and a delete that works."""
    paused(daemon, "deaf")
    assert daemon.post("/bottles/deaf/resume").status == 200
    machine = daemon.processes_named(daemon.row["vmm"])[-1]
    os.kill(machine.pid, signal.SIGSTOP)
    reply = daemon.post("/bottles/deaf/pause")
    assert (reply.status, reply.problem) == (500, "pause-failed"), reply
    assert daemon.bottle("deaf")["state"] == "running"
    daemon.remove("deaf")
    assert daemon.own_processes() == []
