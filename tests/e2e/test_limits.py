"""Every limit of the daemon's configuration: what is at the limit is taken, what is one past it is refused by name, or the oldest goes;
and what a guest or a client floods, it floods within them."""
import contextlib
import json
import os
import pathlib
import re
import select

import control
import fake_daemon
import harness
import pytest
import raw
from pace import until
from slow_reads import SlowReads
from test_exec import memory

PLAN = {"command": ["true"]}
LASTING = {"command": ["sh", "-c", "while :; do sleep 1; done"]}
KIB, MIB = 1 << 10, 1 << 20


def refused(reply, status, problem, detail):
    assert (reply.status, reply.problem) == (status, problem), reply
    assert detail in str(reply.json()), reply


class Wires:
    """Raw connections, each with one request on its way."""

    def __init__(self, daemon):
        self.daemon, self.all = daemon, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for wire in self.all:
            wire.sock.close()

    def send(self, request):
        wire = raw.Wire(self.daemon.socket)
        self.all.append(wire)
        wire.send(request)
        return wire

    def answered(self, timeout=20):
        """The first that has an answer, which is then closed."""
        ready = select.select([wire.sock for wire in self.all], [], [], timeout)[0]
        assert ready, "no answer"
        wire = next(wire for wire in self.all if wire.sock in ready)
        answer = wire.answer()
        self.all.remove(wire)
        wire.sock.close()
        return answer


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def problem_of(answer):
    return answer.status, json.loads(answer.body)["type"].rsplit(":", 1)[-1]


# --- What is counted --------------------------------------------------------------------------------------------------


def bottles(daemon, limit):
    for number in range(limit):
        daemon.create({**PLAN, "slug": f"b{number}"})
    refused(daemon.post("/bottles", {**PLAN, "slug": "past"}), 503, "too-many-bottles", "max_bottles")
    daemon.remove("b0")
    daemon.create({**PLAN, "slug": "past"})


def running(daemon, limit):
    for number in range(limit):
        daemon.create({**PLAN, "slug": f"b{number}"}, "?start=true&wait=running")
    daemon.create({**PLAN, "slug": "past"})
    refused(daemon.post("/bottles/past/start"), 503, "too-many-bottles", "max_running")
    assert daemon.bottle("past")["state"] == "prepared"
    assert daemon.post("/bottles/b0/stop?grace=0s&wait=stopped").status == 200
    assert daemon.post("/bottles/past/start").status == 202


def connections(daemon, limit):
    with Wires(daemon) as wires:
        for _ in range(limit):  # a connection of before may be about to be seen to have left
            until(lambda: wires.send(get("/healthz")).answer().status == 200)
        answer = wires.send(get("/healthz")).answer()
        assert problem_of(answer) == (503, "too-many-connections") and answer.headers["retry-after"]
        assert wires.all[0].send(get("/healthz")).answer().status == 200, "who was there first is still served"
    until(lambda: daemon.get("/healthz").status == 200)  # once it has seen them leave


def waiters(daemon, limit):
    daemon.create({**PLAN, "slug": "slow"})
    with Wires(daemon) as wires:
        for _ in range(limit + 1):
            wires.send(get("/bottles/slow/wait?state=running&timeout=60s"))
        assert problem_of(wires.answered()) == (503, "too-many-waiters")
        assert len(select.select([wire.sock for wire in wires.all], [], [], 0)[0]) == 0, "the others go on waiting"
        assert daemon.get("/bottles/slow/wait?state=running&timeout=1ms").problem == "too-many-waiters"
        wires.all.pop().sock.close()
        until(lambda: daemon.get("/bottles/slow/wait?state=running&timeout=1ms").problem == "timeout")
        wires.send(get("/bottles/slow/wait?state=running&timeout=60s"))
        daemon.remove("slow")
        assert {problem_of(wires.answered()) for _ in range(limit)} == {(404, "not-found")}


def readers(daemon, limit):
    follow = get("/events").replace(b"\r\n\r\n", b"\r\nAccept: text/event-stream\r\n\r\n")
    with Wires(daemon) as wires:
        for _ in range(limit):
            assert wires.send(follow).until(b"\r\n").startswith(b"HTTP/1.1 200")
        assert problem_of(wires.send(follow).answer()) == (503, "too-many-readers")
        assert daemon.get("/events?limit=1").status == 200
        wires.all[0].sock.close()
        until(lambda: wires.send(follow).until(b"\r\n").startswith(b"HTTP/1.1 200"))


# --- What is measured -------------------------------------------------------------------------------------------------


def body(daemon, limit):
    plan = json.dumps(PLAN)
    assert daemon.post("/plans", plan.ljust(limit)).status == 200
    refused(daemon.post("/plans", plan.ljust(limit + 1)), 413, "body-too-large", str(limit))
    chunk = b"%x\r\n%b\r\n0\r\n\r\n"
    for length, status in ((limit, 200), (limit + 1, 413)):
        with raw.Wire(daemon.socket) as wire:
            wire.send(b"POST /plans HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk % (length, plan.ljust(length).encode()))
            assert wire.answer().status == status


def disk(daemon, limit):
    def asked(mib):
        return {**PLAN, "resources": {"disk_mib": mib}}

    assert daemon.post("/plans", asked(limit)).status == 200
    daemon.create({**asked(limit), "slug": "at"})
    for path in ("/plans", "/bottles"):
        reply = daemon.post(path, asked(limit + 1))
        refused(reply, 422, "invalid-plan", "max_disk_mib")
        assert reply.pointers == ["/resources/disk_mib"]


def events(daemon, limit):
    """A client that makes as many events as it likes: the newest are kept, and who comes too late is told."""

    def page(query):
        return daemon.get(f"/events{query}").json()

    for _ in range((limit - 1) // 3):  # prepared, deleting, cleanup.finished
        daemon.create({**PLAN, "slug": "again"})
        daemon.remove("again")
    made = 3 * ((limit - 1) // 3)
    for number in range(limit - made):
        daemon.create({**PLAN, "slug": f"more{number}"})
    at = page("?after=0&limit=1")
    assert (at["first"], at["gap"], at["events"][0]["id"]) == (1, False, 1)
    daemon.create({**PLAN, "slug": "past"})
    past = page("?after=0&limit=1")
    assert (past["first"], past["gap"], past["events"][0]["id"]) == (2, True, 2)
    assert not page("?after=1&limit=1")["gap"]
    assert daemon.rows()["events"] == limit


# --- What a guest may take --------------------------------------------------------------------------------------------


def logs_of(daemon, slug):
    return {path.name: path.stat().st_size for path in (daemon.state_dir / "bottles" / slug / "logs").iterdir()}


def log(daemon, limit):
    script = f"head -c {limit} /dev/zero; while [ ! -e /go ]; do sleep 0.1; done; printf y"
    daemon.create({"slug": "prints", "command": ["sh", "-c", script]}, "?start=true&wait=running")
    until(lambda: logs_of(daemon, "prints").get("command.log") == limit)
    assert "command.log.1" not in logs_of(daemon, "prints")
    assert daemon.post("/bottles/prints/exec", {"command": ["touch", "/go"]}).json()["exit_code"] == 0
    daemon.wait("prints", "exited")
    sizes = logs_of(daemon, "prints")
    assert (sizes["command.log"], sizes["command.log.1"]) == (1, limit)


def shim(daemon, limit):
    """A supervisor that needs more is at its end, and its bottle with it; no other one. What it starts has limits of its own."""

    def data_limit(process):
        found = re.search(r"Max data size +(\S+) +(\S+)", pathlib.Path(f"/proc/{process.pid}/limits").read_text())
        return found.groups()

    daemon.create({**LASTING, "slug": "one"}, "?start=true&wait=running")
    assert data_limit(daemon.processes_named("bottle-shim")[0]) == (str(limit * MIB), "unlimited")
    gvproxy = str(daemon.get("/limits").json()["daemon"]["gvproxy_memory_mib"] * MIB)
    assert data_limit(daemon.processes_named("gvproxy")[0]) == (gvproxy, gvproxy)
    before = {process.pid for process in daemon.own_processes()}
    daemon.create({**PLAN, "slug": "large", "env": {f"A{n}": "x" * 100000 for n in range(8)}})
    assert daemon.post("/bottles/large/start?wait=running&timeout=60s").status in (500, 503, 504)
    large = daemon.bottle("large")
    assert large["state"] == "failed" and large["reason"], large
    assert {process.pid for process in daemon.own_processes()} == before
    assert daemon.post("/bottles/one/exec", {"command": ["true"]}).json()["exit_code"] == 0


# key: (its value here, what is tried, whether a supervisor stands for real bottles, other keys)
LIMITS = {
    "max_bottles": (2, bottles, True, {}),
    "max_running": (2, running, True, {}),
    "max_connections": (8, connections, True, {"max_waiters": 4}),
    "max_event_readers": (2, readers, True, {"event_heartbeat": "200ms"}),
    "max_waiters": (2, waiters, True, {}),
    "max_body_bytes": (2048, body, True, {}),
    "max_disk_mib": (64, disk, True, {}),
    "event_rows": (1000, events, True, {}),
    "log_bytes": (4096, log, False, {}),
    "shim_memory_mib": (1, shim, False, {}),
}
CHANGED = {"shim_memory_mib"}  # by a sanitizer, which needs more than any limit
# Those that are tried where their subject is.
ELSEWHERE = {
    "image_max_bytes": "e2e/test_images.py",
    "image_max_files": "e2e/test_images.py",
    "files_max_bytes": "e2e/test_files.py",
    "template_max_mib": "unit/test_templates.c",
    "bottle_pids": "unit/test_cgroup.c",
    "idempotency_rows": "e2e/test_idempotency.py",
}


def test_no_limit_is_left_out(shared):
    """A new key that limits something needs a row here, or a test that is named."""
    named = {key for key in shared.get("/limits").json()["daemon"] if re.search(r"max_|_max|_rows|log_bytes|_pids", key)}
    assert named - {"shim_memory_mib"} <= set(LIMITS) | set(ELSEWHERE), "has no test of what is at the limit and past it"
    for key, name in ELSEWHERE.items():
        assert key in (harness.ROOT / "tests" / name).read_text(), f"{name} says nothing of {key}"


@pytest.mark.parametrize("key", [pytest.param(key, marks=[pytest.mark.plain] if key in CHANGED else []) for key in LIMITS])
def test_at_the_limit_and_one_past_it(new_daemon, key):
    value, attempt, fake, others = LIMITS[key]
    daemon = new_daemon(config={key: value, **others})
    with fake_daemon.installed(daemon) if fake else contextlib.nullcontext():
        daemon.start()
        assert daemon.get("/limits").json()["daemon"][key] == value
        attempt(daemon, value)
        if fake:
            for bottle in daemon.get("/bottles?limit=1000").json()["bottles"]:
                daemon.remove(bottle["slug"])
            daemon.stop()


# --- Floods -----------------------------------------------------------------------------------------------------------

FLOOD = """
(i=0; while [ $i -lt 300 ]; do i=$((i+1)); printf '%01000d console\\n' $i; done; echo the console is over) > /dev/console &
yes "$(printf '%01000d command' 7)" | head -n 8000
wait
echo the command is over
"""


@pytest.mark.plain
def test_a_guest_that_floods_its_console_and_its_output(new_daemon):
    """Eight megabytes by one way and 300 KiB by the other, which is slow: the newest are kept, within the bound of each stream."""
    bound = 64 * KIB
    daemon = new_daemon(config={"log_bytes": bound}).start()
    daemon.create({"slug": "loud", "command": ["sh", "-c", FLOOD]}, "?start=true&wait=running")
    shim = daemon.processes_named("bottle-shim")[0].pid
    before = {pid: memory(pid) for pid in (daemon.pid, shim)}
    peak = dict(before)
    while daemon.get("/bottles/loud/wait?state=exited&timeout=500ms").status == 504:
        for pid in peak:
            with contextlib.suppress(FileNotFoundError, TypeError):
                peak[pid] = max(peak[pid], memory(pid))
        assert sum(logs_of(daemon, "loud").values()) <= 2 * len(logs_of(daemon, "loud")) * (bound + 64 * KIB)
    assert daemon.bottle("loud")["exit_code"] == 0
    sizes = logs_of(daemon, "loud")
    for stream, last in (("command", "the command is over"), ("console", "the console is over")):
        kept = sizes[f"{stream}.log"] + sizes[f"{stream}.log.1"]
        assert bound < kept <= 2 * bound, sizes
        assert last in daemon.log("loud", stream)[-4000:]
    grown = {pid: peak[pid] - before[pid] for pid in peak}
    assert max(grown.values()) < 8 * MIB, grown


READS = """
until [ -e /dev/go ]; do sleep 0.1; done
for i in $(seq 64); do
    (dd if=/dev/vdb of=/dev/null bs=4k skip=$((i * 100)) count=1 iflag=direct 2>/dev/null && echo one is read) &
done
until read -r reads _ </sys/block/vdb/inflight && [ "$reads" -ge 64 ]; do :; done
echo all wait
wait
echo all are read
exec sleep 1000
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may hold up the reads of a file")
def test_a_guest_that_reads_much_at_once_from_a_slow_disk(daemon):
    """Each read that waits has a thread of QEMU's, with its stack: that they are few keeps the machine within its memory."""
    daemon.create({"slug": "b", "command": ["sh", "-c", READS], "resources": {"disk_mib": 32}}, "?start=true&wait=running")
    daemon.post("/bottles/b/stop?wait=stopped&grace=0s")
    with SlowReads(daemon.state_dir / "bottles" / "b" / "disk.ext4") as reads:
        daemon.post("/bottles/b/start?wait=running")
        reads.hold()
        assert daemon.post("/bottles/b/exec", {"command": ["touch", "/dev/go"]}).json()["exit_code"] == 0
        control.follow(daemon, "b", b"all wait\n")
        until(lambda: len(reads.held) >= 16, 20)
        with contextlib.suppress(AssertionError):
            until(lambda: len(reads.held) > 16, 1)
        assert len(reads.held) == 16, daemon.bottle("b")
    assert control.follow(daemon, "b", b"all are read\n").count("one is read") == 64
