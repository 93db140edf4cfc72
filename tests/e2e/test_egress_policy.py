"""Egress rules in force: at the real squid alone, and in real bottles, whose egress changes while they work.

What a bottle's engine lets through is asked at its host port, where the bottle's relay dials; what the relay does, in
the cell, where gvproxy dials, or by the guest.
"""
import hashlib
import json
import os
import re
import socket
import sqlite3
import statistics
import threading
import time

import cell
import harness
import pytest
from test_squid_conf import squid  # noqa: F401  (a fixture)

pytestmark = pytest.mark.timeout(300)

LASTING = ["sh", "-c", "echo up; while :; do sleep 1000 & wait $!; done"]
ECHO = ("203.0.113.10", 8443)  # allowed.example, on a port that no canary has
CHANGES = 100
TUNNELS = 8


# --- Rules ---------------------------------------------------------------------------------------

RULES = [
    {"host": "example", "suffix": True},  # allows the names below by name, not where they lead
    {"host": "lan.example", "private": True},
    {"host": "intern.test", "suffix": True, "private": True, "port": 8080},
    {"host": "10.0.0.7", "private": True},
    {"host": "10.0.0.8"},
    {"host": "port.test", "port": 8443},
]
VERDICTS = [
    ("CONNECT lan.example:443", True),
    ("CONNECT LAN.Example.:443", True),
    ("GET http://lan.example/", True),
    ("CONNECT 10.0.0.7:443", True),
    ("CONNECT a.intern.test:8080", True),
    ("CONNECT allowed.example:443", True),
    # A private rule opens its own ports, its own name, its own address.
    ("CONNECT lan.example:22", False),
    ("CONNECT x.lan.test:443", False),
    ("CONNECT 10.0.0.5:443", False),
    ("CONNECT 10.0.0.7:22", False),
    ("CONNECT 10.0.0.8:443", False),
    ("CONNECT a.intern.test:443", False),
    ("CONNECT intern.test:8080", False),
    ("CONNECT metadata.example:80", False),
    ("CONNECT loopback.example:443", False),
    ("CONNECT 127.0.0.1:443", False),
    ("CONNECT 169.254.169.254:80", False),
    ("CONNECT port.test:443", False),
    ("GET http://port.test/", False),
]


def test_private_rules_open_their_own_host_and_no_other(squid):  # noqa: F811
    proxy = squid(RULES)
    wrong = []
    for line, allowed in VERDICTS:
        status = proxy.send(line)
        if (status != 403) != allowed:
            wrong.append(f"{line}: {status}")
    assert not wrong, "\n".join(wrong) + "\n" + proxy.text
    assert proxy.send("CONNECT port.test:8443") == 503, "allowed; nobody listens there"


def test_its_own_pages_are_nobodys(squid):  # noqa: F811
    """A rule for the proxy's own address gives no look into the proxy."""
    proxy = squid([{"host": "127.0.0.1", "private": True}, {"host": "proxy.internal", "private": True}])
    for line in ("GET http://127.0.0.1:PORT/squid-internal-mgr/info", "GET http://proxy.internal/squid-internal-mgr/menu",
                 "GET cache_object://127.0.0.1/info"):
        assert proxy.send(line) == 403, line


# --- Tunnels -------------------------------------------------------------------------------------


class Echo:
    """A server that sends back what it gets."""

    def __init__(self, address=ECHO):
        self.listener = socket.create_server(address, backlog=256)
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)

    def accept(self):
        while True:
            try:
                wire, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(wire,), daemon=True).start()

    def serve(self, wire):
        with wire:
            try:
                while data := wire.recv(65536):
                    wire.sendall(data)
            except OSError:
                pass  # a tunnel that was cut


def engine(port):
    """dial() of an engine at its port of the host."""
    return lambda: socket.create_connection(("127.0.0.1", port), 20)


class Refused(Exception):
    """The proxy's answer was not 200."""


class Tunnel:
    """CONNECT by one proxy, dialled again for up to a second while that opens its port anew, as the relay does."""

    retries = 0

    def __init__(self, dial, target):
        end = time.monotonic() + 1
        while True:
            self.wire = None
            try:
                self.wire = dial()
                self.wire.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
                head = self.read_head()
                break
            except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                if self.wire:
                    self.wire.close()
                Tunnel.retries += 1
                assert time.monotonic() < end, "the proxy does not answer"
        self.status = int(head.split()[1])

    def read_head(self):
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.wire.recv(4096)
            if not piece:
                raise ConnectionResetError("closed before an answer")
            head += piece
        return head

    def ping(self, data=b"x" * 1000):
        self.wire.sendall(data)
        got = b""
        while len(got) < len(data):
            piece = self.wire.recv(65536)
            if not piece:
                raise ConnectionResetError("the tunnel was closed")
            got += piece
        assert got == data

    def __enter__(self):
        if self.status != 200:
            self.wire.close()
            raise Refused(self.status)
        return self

    def __exit__(self, *_):
        self.wire.close()


def ask(dial, target):
    tunnel = Tunnel(dial, target)
    tunnel.wire.close()
    return tunnel.status


# --- Timers --------------------------------------------------------------------------------------

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def timer(text, name):
    number, unit = re.search(rf"^{name} (\d+) (second|minute|hour|day)s?$", text, re.MULTILINE).groups()
    return int(number) * SECONDS[unit]


def scaled(name):
    """The real text but for one timer, of two seconds."""

    def edit(text):
        assert timer(text, name)
        return re.sub(rf"^{name} .*$", f"{name} 2 seconds", text, flags=re.MULTILINE)

    return edit


def test_the_timer_is_what_ends_a_quiet_tunnel_and_it_is_long(squid):  # noqa: F811
    """It does so when it is short; as it is, a tunnel outlives that by far."""
    rules = [{"host": "allowed.example", "port": ECHO[1]}]
    with Echo():
        quiet, real = squid(rules, edit=scaled("read_timeout")), squid(rules)
        with Tunnel(engine(real.port), "allowed.example:8443") as lives, Tunnel(engine(quiet.port), "allowed.example:8443") as one:
            one.ping()
            lives.ping()
            with harness.Clock() as until:
                assert one.wire.recv(1) == b"", "read_timeout ends a quiet tunnel"
            lives.ping()
    print(f"\nscaled to 2 s: a quiet tunnel ended after {until.seconds:.1f} s")
    assert 1 < until.seconds < 6
    assert timer(real.text, "read_timeout") > 86400
    assert timer(real.text, "client_lifetime") > 86400
    assert timer(real.text, "write_timeout") > 86400
    assert timer(real.text, "request_timeout") >= 3600


# --- In a bottle ---------------------------------------------------------------------------------


def proxy_port(daemon, slug):
    forwards = daemon.get(f"/bottles/{slug}/plan").json()["port_forwards"]
    return next(f["host_port"] for f in forwards if f["sidecar"] == "pipelock")


def change(daemon, slug, allow, **egress):
    return daemon.request("PATCH", f"/bottles/{slug}", {"egress": {"allow": allow, **egress}})


def start(daemon, slug, allow, query="?start=true&wait=running", **egress):
    bottle = daemon.create({"slug": slug, "command": LASTING, "egress": {"allow": allow, "engine": "squid", **egress}}, query)
    return bottle, engine(proxy_port(daemon, slug))


def squids(daemon):
    return daemon.processes_named("squid")


def test_a_change_is_in_force_when_it_is_answered(any_user_daemon):
    daemon = any_user_daemon
    bottle, dial = start(daemon, "swap", ["allowed.example", "lan.example"])
    assert bottle["engine"] == "squid"
    before = [(p.pid, p.start_time) for p in squids(daemon)]
    assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080", "lan.example:443")] == [200, 403, 403]
    reply = change(daemon, "swap", ["other.example:8080", {"host": "LAN.example.", "private": True}])
    assert reply.status == 200, reply
    assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080", "lan.example:443")] == [403, 200, 200]
    assert change(daemon, "swap", []).status == 200
    assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080", "lan.example:443")] == [403, 403, 403]
    assert [(p.pid, p.start_time) for p in squids(daemon)] == before, "the same process"
    # Another daemon finds the supervisor with the newest, and changes it again.
    daemon.kill()
    daemon.start()
    assert daemon.bottle("swap")["engine"] == "squid"
    assert ask(dial, "other.example:8080") == 403
    assert change(daemon, "swap", ["allowed.example"]).status == 200
    assert ask(dial, "allowed.example:443") == 200


def test_the_engine_sees_its_config_and_can_not_write_it(daemon):
    start(daemon, "ro", ["allowed.example"])
    inside = [p for p in squids(daemon) if (p.program or p.name).startswith("squid")]
    assert inside
    mounts = {line.split()[4]: line.split()[5] for line in open(f"/proc/{inside[0].pid}/mountinfo")}
    assert "ro" in mounts["/etc/bottle"].split(","), mounts
    assert "/etc/bottle/squid.conf" not in mounts


def test_while_it_starts(daemon):
    """The engine may not even listen yet: the change waits for it, and holds."""
    _, dial = start(daemon, "early", ["allowed.example"], query="?start=true")
    reply = change(daemon, "early", ["other.example:8080"])
    assert reply.status == 200, reply
    assert daemon.wait("early", "running")["state"] == "running"
    assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080")] == [403, 200]


def test_many_changes_at_once(daemon):
    """They are made one after the other; the last one's rules are those in force."""
    _, dial = start(daemon, "many", ["allowed.example"])
    replies = [None] * 8

    def make(n):
        replies[n] = change(daemon, "many", [f"n{n}.example"])

    threads = [threading.Thread(target=make, args=(n,)) for n in range(len(replies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert [reply.status for reply in replies] == [200] * len(replies), replies
    allow = daemon.get("/bottles/many/plan").json()["spec"]["egress"]["allow"]
    assert [n for n in range(len(replies)) if ask(dial, f"n{n}.example:443") == 200] == [int(allow[0][1])]


class Load:
    """Clients that do not end: tunnels that live through all, new ones all the time, and one that is never allowed."""

    def __init__(self, dial):
        self.dial, self.over, self.broken, self.opened, self.pings = dial, threading.Event(), [], 0, [0] * TUNNELS
        self.slowest = 0.0
        jobs = [lambda n=n: self.live(n) for n in range(TUNNELS)] + [self.open_anew, self.try_forbidden]
        self.up = threading.Barrier(len(jobs) + 1)
        self.threads = [threading.Thread(target=self.run, args=(job,), daemon=True) for job in jobs]

    def run(self, job):
        try:
            job()
        except Exception as fault:  # whatever it is, the test shows it
            self.broken.append(repr(fault))
            self.up.abort()

    def live(self, number):
        with Tunnel(self.dial, "allowed.example:8443") as tunnel:
            tunnel.ping()
            self.up.wait(30)
            while not self.over.is_set():
                tunnel.ping()
                self.pings[number] += 1
                self.over.wait(0.002)

    def open_anew(self):
        self.up.wait(30)
        while not self.over.is_set():
            with harness.Clock() as clock, Tunnel(self.dial, "allowed.example:8443") as tunnel:
                tunnel.ping()
            self.slowest = max(self.slowest, clock.seconds)
            self.opened += 1

    def try_forbidden(self):
        self.up.wait(30)
        while not self.over.is_set():
            status = ask(self.dial, "never.example:443")
            assert status == 403, f"never.example: {status}"

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.up.wait(30)
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(30)


def test_a_hundred_changes_under_load(daemon):
    """Zero broken tunnels that stay allowed, each change within a second, none lets through what neither side allows."""
    keep = "allowed.example:8443"
    _, dial = start(daemon, "busy", [keep])
    if os.geteuid() == 0:
        dial = cell.relay_of(daemon)  # where gvproxy dials; only root can get there
    times, wrong, Tunnel.retries = [], [], 0
    with Echo(), Load(dial) as load:
        for n in range(CHANGES):
            with harness.Clock() as clock:
                reply = change(daemon, "busy", [keep, f"n{n}.example"])
            times.append(clock.seconds)
            assert reply.status == 200, reply
            found = [ask(dial, f"n{k}.example:443") for k in (n, n - 1)]
            if found != [200, 403]:
                wrong.append((n, found))
    print(f"\n{CHANGES} changes: median {statistics.median(times) * 1000:.0f} ms, slowest {max(times) * 1000:.0f} ms; "
          f"{sum(load.pings)} exchanges in {TUNNELS} tunnels, {load.opened} new ones (slowest {load.slowest * 1000:.0f} ms, "
          f"{Tunnel.retries} dialled again), broken: {len(load.broken)}")
    assert not load.broken, load.broken
    assert not wrong
    assert max(times) < 1
    assert min(load.pings) > CHANGES and load.opened > CHANGES


# A tunnel of each number, whose first line comes back once all are there.
MANY = 200
TOGETHER = f"""mkdir /tmp/got
for n in $(seq {MANY}); do
  {{ printf 'CONNECT allowed.example:8443 HTTP/1.1\\r\\nHost: allowed.example:8443\\r\\n\\r\\nhello %s\\n' $n; sleep 1000; }} |
    nc proxy.internal 8888 >/tmp/got/$n &
done
while [ $(cat /tmp/got/* | grep -c hello) -lt {MANY} ]; do usleep 100000; done
for f in /tmp/got/*; do grep -qx "hello ${{f##*/}}" $f || exit 1; done"""


class Gathering(Echo):
    """Sends back nothing until as many peers are there as are waited for."""

    def __init__(self, count):
        super().__init__()
        self.barrier = threading.Barrier(count)

    def serve(self, wire):
        try:
            self.barrier.wait(100)
        except threading.BrokenBarrierError:
            wire.close()
            return
        super().serve(wire)


REQUESTS = """for host in allowed denied; do
  for i in $(seq 30); do wget -q -O /dev/null http://$host.example/ 2>/dev/null; done
  grep -c ' 06 ' /proc/net/tcp
done"""


def test_the_guest_keeps_the_ports_of_its_connections(daemon):
    """Who closes first keeps the port (state 06, TIME_WAIT). gvproxy would drop the next connection from one that it
    keeps itself, and its guest wait for up to a minute."""
    plan = {"slug": "ports", "command": ["sh", "-c", REQUESTS], "egress": {"allow": ["allowed.example"]}}
    daemon.create(plan, "?start=true&wait=exited&timeout=60s")
    allowed, both = map(int, daemon.log("ports", "command").split())
    assert allowed >= 29 and both >= 58


def test_200_tunnels_at_once_from_a_guest(daemon):
    plan = {"slug": "many", "command": ["sh", "-c", TOGETHER], "egress": {"allow": ["allowed.example:8443"]}}
    with Gathering(MANY):
        bottle = daemon.run(plan, timeout=100)
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 0), (bottle, daemon.log("many"))


# --- Changes that can't be made ------------------------------------------------------------------


class Shim:
    """Speaks to a bottle's supervisor as bottled does."""

    def __init__(self, daemon, slug):
        with sqlite3.connect(daemon.state_dir / "bottled.db") as store:
            (token,) = store.execute("SELECT shim_token FROM bottles WHERE slug = ?", (slug,)).fetchone()
        path = daemon.run_dir / "b" / hashlib.sha256(slug.encode()).hexdigest()[:16] / "shim.sock"
        self.wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire.settimeout(20)
        self.wire.connect(str(path))
        self.wire.send(json.dumps({"op": "hello", "token": token}).encode())
        assert "state" in json.loads(self.wire.recv(65536))

    def egress(self, number, body):
        """Sends a change; the error of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        memory = os.memfd_create("egress")
        os.write(memory, data)
        socket.send_fds(self.wire, [json.dumps({"op": "egress", "id": number}).encode()], [memory])
        os.close(memory)
        while True:
            answer = json.loads(self.wire.recv(65536))
            if "applied" in answer:
                assert answer["applied"] == number
                return answer["error"]

    def close(self):
        self.wire.close()


def test_what_the_shim_refuses_changes_nothing(daemon):
    _, dial = start(daemon, "firm", ["allowed.example"])
    good = daemon.get("/bottles/firm/plan/files/squid.conf").text
    bad = good.replace("http_access deny all", "acl broken nonsense\nhttp_access deny all")
    shim = Shim(daemon, "firm")
    cases = [
        (b"{", "new egress"),
        ({"rules": [], "files": []}, "no config"),
        ({"rules": ["*"], "files": [{"name": "squid.conf", "content": good}]}, "rule 0"),
        ({"rules": [], "files": [{"name": "../squid.conf", "content": good}]}, "another engine"),
        ({"rules": [], "files": [{"name": "pipelock.yaml", "content": good}]}, "squid.conf, not pipelock.yaml"),
        ({"rules": [], "files": [{"name": "squid.conf", "content": bad}]}, "FATAL"),
        ({"rules": [], "files": [{"name": "squid.conf", "content": "nonsense\n" * 3}]}, "refuses"),
    ]
    for number, (body, words) in enumerate(cases, 1):
        error = shim.egress(number, body)
        assert error and words in error, (body, error)
        assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080")] == [200, 403]
    more = good.replace("http_access deny all", "acl more dstdomain -n other.example\nhttp_access allow more\nhttp_access deny all")
    assert shim.egress(50, {"rules": ["other.example:8080"], "files": [{"name": "squid.conf", "content": more}]}) is None
    assert ask(dial, "other.example:8080") == 200
    shim.close()
    assert daemon.bottle("firm")["state"] == "running"


def test_an_engine_that_does_not_take_it(daemon):
    """Stopped, it can't say that it did: the answer says so, and once it goes on it has the old config."""
    _, dial = start(daemon, "stuck", ["allowed.example"])
    engine = [p for p in squids(daemon) if (p.program or p.name).startswith("squid")][-1]
    os.kill(engine.pid, 19)
    try:
        with harness.Clock() as clock:
            reply = change(daemon, "stuck", ["other.example:8080"])
    finally:
        os.kill(engine.pid, 18)
    assert reply.status != 200 and reply.problem == "egress-not-applied", reply
    assert clock.seconds < 10
    assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080")] == [200, 403]
    assert change(daemon, "stuck", ["other.example:8080"]).status == 200
    assert [ask(dial, t) for t in ("allowed.example:443", "other.example:8080")] == [403, 200]


# --- The engine ----------------------------------------------------------------------------------


def test_the_engine_that_a_plan_asks_for(daemon):
    bottle = daemon.create({"slug": "named", "command": ["true"], "egress": {"engine": "squid"}})
    assert bottle["engine"] == "squid"
    assert daemon.get("/bottles/named/plan").json()["engine"] == "squid"
    auto = daemon.create({"slug": "auto", "command": ["true"]})
    assert auto["engine"] == daemon.get("/bottles/auto/plan").json()["engine"]
    daemon.restart()
    assert daemon.bottle("named") == bottle and daemon.bottle("auto") == auto
