"""A flood may hurt its own bottle. It may not hurt another one, bottled, or the disk.

Each runs in a bottle of its own, beside a second one that works: it fetches a page through its proxy, again and
again, and says so. During a flood that one goes on, bottled answers, and the disk does not fill up.
"""
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shlex
import socket
import threading
import time

import baits
import ear as ears
import floods
import harness
import pytest
import table
import test_attacks

LOG_BYTES = 65536
STATE_MAX = 24 << 20  # logs of two bottles, and the database with what it has not merged yet
GROWTH_MAX = 32 << 20  # of bottled's memory
ANSWER_MAX = 1.0  # seconds, GET /healthz
GAP_MAX = 6.0  # seconds between two pages of the bottle that works: the machine has few processors
WORK = "n=0; while :; do wget -q -O /dev/null http://allowed.example/ && n=$((n+1)) && echo tick $n; usleep 100000; done"
PATIENCE = 60


class Follower:
    """Reads the log of a bottle's command as it grows; when each line that matches came."""

    def __init__(self, daemon, slug, pattern):
        self.times, self.found = [], threading.Condition()
        self._pattern, self._rest = re.compile(pattern), b""
        self._connection = harness.UnixConnection(str(daemon.socket), PATIENCE * 10)
        self._connection.request("GET", f"/bottles/{slug}/logs?stream=command&follow=true")
        self._response = self._connection.getresponse()
        self.text, self._thread = b"", threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            while piece := self._response.read1(65536):
                with self.found:
                    lines = (self._rest + piece).decode(errors="replace").split("\n")
                    self._rest = lines.pop().encode()[-4000:]
                    self.times += [time.monotonic()] * sum(bool(self._pattern.match(line)) for line in lines)
                    self.text = (self.text + piece)[-4000:]
                    self.found.notify_all()
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # closed, or the daemon ended

    def wait(self, test, timeout):
        with self.found:
            return self.found.wait_for(lambda: test(self.text), timeout)

    def close(self):
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()


class Watch:
    """Asks bottled how it is, all the while; the longest it took."""

    def __init__(self, daemon):
        self.daemon, self.longest, self.asked = daemon, 0.0, 0
        self._end, self._thread = threading.Event(), threading.Thread(target=self._ask, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _ask(self):
        while not self._end.wait(0.05):
            with harness.Clock() as clock:
                fine = self.daemon.get("/healthz", timeout=30).status == 200
            self.longest, self.asked = max(self.longest, clock.seconds if fine else 999), self.asked + 1


def size_of(folder):
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
    return total


def memory_of(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) << 10


def received(daemon, gateway):
    """The bytes that a bottle's gvproxy took in from its guest."""
    for path in daemon.run_dir.glob("b/*/net/api.sock"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(b"GET /stats HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        config = pathlib.Path(f"{daemon.state_dir}/bottles/{test_attacks.SLUG}/gvproxy.yaml").read_text()
        if gateway in config and path.parent.parent.name == identity_of(test_attacks.SLUG):
            return json.loads(answer.split(b"\r\n\r\n", 1)[1])["BytesReceived"]
    return 0


def identity_of(slug):
    return hashlib.sha256(slug.encode()).hexdigest()[:16]


@pytest.fixture(scope="module", params=test_attacks.USERS)
def who(request):
    return request.param


@pytest.fixture(scope="module")
def ear(canaries):
    with ears.Ear(range(20000, 32768), test_attacks.SERVERS, {baits.REBINDING}) as one:
        yield one


@pytest.fixture(scope="module")
def neighbours(row, who, ear):
    """(daemon, follower of the bottle that works)"""
    config = {"guest_dir": str(test_attacks.GUEST_DIR), "log_bytes": LOG_BYTES}
    daemon = harness.Daemon(uid=test_attacks.USERS[who], config=config)
    follower = None
    try:
        daemon.start()
        work = {"slug": "works", "command": ["sh", "-c", WORK], "egress": {"allow": ["allowed.example"]}}
        daemon.create(work, "?start=true&wait=running&timeout=90s")
        follower = Follower(daemon, "works", r"tick \d+$")
        assert follower.wait(lambda text: b"tick 3\n" in text, PATIENCE), follower.text
        yield daemon, follower
        daemon.remove("works")
    finally:
        if follower:
            follower.close()
        fault = daemon.close()
    assert fault is None, fault


@pytest.fixture(scope="module")
def heard_without_cell(row, who, ear):
    """{flood: packets that the ear heard of a few of it, sent without a cell}"""
    wanted = [flood for flood in floods.FLOODS if flood.control]

    def commands(world):
        return [shlex.join(["attacker", flood.name, *map(str, flood.arguments(world, flood.control))]) for flood in wanted]

    with test_attacks.attacked(test_attacks.USERS[who], ear, [], commands, libexec_dir=str(test_attacks.OPEN_CELL)) as (_, heard, _world):
        def counts():
            return {flood.name: heard.count(lambda packet, said: flood.name.encode() in said) for flood in wanted}

        until = time.monotonic() + 20  # what gvproxy passes on may come late
        while not all(counts().values()) and time.monotonic() < until:
            ear.settle()
        return counts()


def felt(daemon, flood, world, bottle):
    """(did it arrive, in a few words)"""
    if flood.felt == floods.END or bottle["state"] == "failed":
        return bottle["state"] == "failed", f"its own bottle: {bottle['reason']}"
    if flood.felt == floods.SAID:
        return True, "it was sent, says the kernel"
    if flood.felt == floods.NETWORK:
        try:
            count = received(daemon, world.gw)
        except (ConnectionError, FileNotFoundError):  # what was sent last ended it
            bottle.update(daemon.wait(test_attacks.SLUG, "failed", 15))
            return True, f"its own bottle: {bottle['reason']}"
        return count >= flood.least, f"gvproxy took {count} bytes"
    rotated = daemon.state_dir / "bottles" / test_attacks.SLUG / "logs" / f"{flood.felt}.log.1"
    return rotated.exists(), f"its {flood.felt} log was rotated"


def let_loose(daemon, flood, world):
    """Runs a flood; (the bottle afterwards, seconds from its begin to its end)."""
    attack = shlex.join(["attacker", flood.name, *map(str, flood.arguments(world))])
    script = f"echo go; {attack}; echo over; exec sleep 100000"
    daemon.create(test_attacks.plan([], ["sh", "-c", script]), "?start=true&wait=running&timeout=90s")
    follower = Follower(daemon, test_attacks.SLUG, "go$")
    try:
        assert follower.wait(lambda text: follower.times, PATIENCE), "it did not begin"
        begun = follower.times[0]
        if flood.felt == floods.END:
            daemon.wait(test_attacks.SLUG, "failed", 15)
            return daemon.bottle(test_attacks.SLUG), time.monotonic() - begun
        end = time.monotonic() + PATIENCE
        while not follower.wait(lambda text: b"over\n" in text, 0.5):
            if daemon.bottle(test_attacks.SLUG)["state"] != "running":
                return daemon.bottle(test_attacks.SLUG), time.monotonic() - begun
            assert time.monotonic() < end, follower.text
        seconds = time.monotonic() - begun
        said = re.search(rb'"back": "([^"]*)"', follower.text)
        assert said and flood.said.search(said[1].decode()), follower.text[-500:]
        return daemon.bottle(test_attacks.SLUG), seconds
    finally:
        follower.close()


def stalled(daemon):
    logs = {stream: daemon.log("works", stream)[-1500:] for stream in ("command", "gvproxy", "shim", "console")}
    return f"the other bottle does not go on: {daemon.bottle('works')['state']}, {logs}"


def longest_gap(times, begun, ended):
    marks = [begun, *(at for at in times if begun < at < ended), ended]
    return max(after - before for before, after in zip(marks, marks[1:]))


@pytest.mark.backends
@pytest.mark.parametrize("flood", floods.FLOODS, ids=lambda flood: flood.name)
def test_flood(row, who, neighbours, ear, heard_without_cell, flood, record_property):
    daemon, follower = neighbours
    world = table.World(daemon.post("/plans", test_attacks.plan([], ["true"])).json(), None, daemon.run_dir, ear)
    heard, pid, memory, begun = ear.begin(), daemon.pid, memory_of(daemon.pid), time.monotonic()
    with Watch(daemon) as watch:
        try:
            bottle, seconds = let_loose(daemon, flood, world)
            arrived, control = felt(daemon, flood, world, bottle)
            ticks = len(follower.times)
            assert follower.wait(lambda _: len(follower.times) > ticks, GAP_MAX), stalled(daemon)
            ear.settle()
            ended, size, growth = time.monotonic(), size_of(daemon.state_dir), memory_of(daemon.pid) - memory
        finally:
            daemon.delete(f"/bottles/{test_attacks.SLUG}")
    gap = longest_gap(follower.times, begun, ended)
    words = f"{bottle['state']} in {seconds:.1f} s; the other: gap {gap:.1f} s; healthz {watch.longest * 1000:.0f} ms; disk {size >> 10} KiB"
    if flood.control:
        control = f"without a cell: heard {heard_without_cell[flood.name]} packets"
        arrived = arrived and heard_without_cell[flood.name] > 0
    record_property("attack", (f"{harness.name_of(row)}, {who}", flood.name, words, control))
    assert flood.state.search(bottle["state"]) and flood.reason.search(str(bottle["reason"])), bottle
    assert seconds <= flood.ends_within, words
    assert arrived, control
    assert not heard.counts, {str(packet): count for packet, count in heard.counts.items()}
    assert gap <= GAP_MAX and watch.longest <= ANSWER_MAX and watch.asked > 5, words
    assert size <= STATE_MAX and growth <= GROWTH_MAX, (words, growth)
    assert daemon.pid == pid and daemon.process.poll() is None
    assert daemon.bottle("works")["state"] == "running"
