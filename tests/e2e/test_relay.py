"""The guarded relay by itself (tests/tools/relay.c): what it refuses, cuts, passes and notes, before an engine that
lets everything through. So whatever is refused here, the relay refused."""
import json
import os
import pathlib
import resource
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import harness
import pace
import pytest
import rendering
from test_squid_conf import OTHER_USER, SQUID

RULES = ["allowed.example", "*.suffix.example", "port.example:8443", "ssh.example:22", "192.0.2.1"]
TOOL = harness.BUILD / "test-tools" / "relay"


class Engine:
    """A proxy without a rule. `heads`: what it was asked; after its 200 (or an answer of `status`) it sends everything back."""

    def __init__(self, port=0):
        self.heads, self.status, self.first = [], 200, b""
        self.tunnels = []
        self.resets = 0  # so many connections are reset unanswered
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if self.resets:
                self.resets -= 1
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                more = sock.recv(65536)
                if not more:
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            if not head.startswith(b"CONNECT"):
                self._answer(sock, head, rest)
                return
            sock.sendall(b"HTTP/1.1 %d words\r\n%s\r\n" % (self.status, b"" if self.status == 200 else b"Content-Length: 3\r\n"))
            if self.status != 200:
                sock.sendall(b"no\n")
                while sock.recv(4096):
                    pass
                return
            sock.sendall(self.first)
            self.tunnels.append(sock)
            while rest or (rest := sock.recv(1 << 20)):
                sock.sendall(rest)
                rest = b""
        except OSError:
            pass
        finally:
            sock.close()

    def _answer(self, sock, head, rest):
        """To http://: what came of the body; all of it in one answer, and it stays open as a proxy may."""
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        while len(rest) < length:
            rest += sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(rest), rest))
        if b"\r\nConnection: close" in head:
            sock.shutdown(socket.SHUT_WR)
        sock.settimeout(1)
        while more := sock.recv(65536):
            self.heads.append(more.decode(errors="replace"))

    def close(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Relay:
    def __init__(self, engine_port, *mode):
        self.process = subprocess.Popen([TOOL, str(engine_port), *mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.output = harness.Output(self.process.stdout)
        self.port = int(self.output.wait_line("^port ", 10)[5:])

    def rules(self, rules):
        start = len(self.output.lines)
        self.process.stdin.write(json.dumps(rules).encode() + b"\n")
        self.process.stdin.flush()
        assert self.output.wait_line("^rules ", 10, start)

    def dial(self):
        sock = socket.create_connection(("127.0.0.1", self.port), 20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def notes(self):
        """Everything that was noted until the end."""
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.output._thread.join(10)
        packets = [json.loads(line) for line in self.output.lines if line.startswith("{")]
        return [note for packet in packets for note in packet["egress"]], packets[-1]["totals"] if packets else None

    def close(self):
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def relay(engine):
    relay = Relay(engine.port)
    relay.rules(RULES)
    yield relay
    relay.close()


def everything(sock):
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        data += b"[reset]"
    return data


def ask(relay, request):
    """All that comes back."""
    with relay.dial() as sock:
        sock.sendall(request)
        return everything(sock)


def connect(relay, target, first=b""):
    """A tunnel, after its 200."""
    sock = relay.dial()
    sock.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target.encode(), target.encode()) + first)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    assert head.startswith(b"HTTP/1.1 200"), head
    return sock


def hello(name):
    """What a real TLS client says first."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def get(url, host=None, more=""):
    return f"GET {url} HTTP/1.1\r\nHost: {host or url.split('/')[2]}\r\n{more}\r\n".encode()


@pytest.mark.parametrize(
    "target, status",
    [
        ("allowed.example:443", 200),
        ("ALLOWED.example.:443", 200),
        ("allowed.example:80", 200),
        ("a.b.suffix.example:443", 200),
        ("port.example:8443", 200),
        ("192.0.2.1:443", 200),
        ("allowed.example:22", 403),
        ("port.example:443", 403),
        ("suffix.example:443", 403),
        ("notsuffix.example:443", 403),
        ("allowed.example.evil.example:443", 403),
        ("192.0.2.2:443", 403),
        ("3221225985:443", 403),
        ("0xc0000201:443", 403),
        ("0300.0.2.1:443", 403),
        ("[::ffff:192.0.2.1]:443", 403),
        ("[192.0.2.1]x:443", 400),
        ("user@allowed.example:443", 400),
        ("allowed.example", 400),
        ("allowed.example:0", 400),
        ("allowed.example:443:443", 400),
        ("allowed\0.example:443", 400),
        ("\xe4.example:443", 400),
    ],
)
def test_targets(engine, relay, target, status):
    with relay.dial() as sock, harness.Clock() as clock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
        answer = sock.recv(65536).decode()
    assert answer.startswith(f"HTTP/1.1 {status} "), answer
    assert clock.seconds < 2
    assert len(engine.heads) == (status == 200), "the engine hears only of what is allowed"


def test_a_refusal_says_what_and_how(relay):
    body = ask(relay, get("http://Denied.example:8080/x")).decode()
    assert "403 Forbidden" in body
    assert "may not reach denied.example:8080: no egress rule allows it" in body
    assert 'add "denied.example:8080" to egress.allow' in body
    assert 'add "denied.example" to egress.allow' in ask(relay, b"CONNECT denied.example:443 HTTP/1.1\r\n\r\n").decode()
    assert "its proxy takes http:// URLs and CONNECT" in ask(relay, get("https://allowed.example/")).decode()


HIDDEN = get("http://hidden.example/").decode()


@pytest.mark.parametrize(
    "request_",
    [
        "POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        "POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n" + HIDDEN,
        "POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        "GET http://allowed.example/ HTTP/1.1\nHost: allowed.example\n\n" + HIDDEN,
        "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nX: \0\r\n\r\n",
        "GET http://allowed.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
        "GET http://allowed.example/\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x00\x05hello",
        "GET http://allowed.example/ HTTP/1.1\r\nX: " + "a" * 9000,
    ],
)
def test_what_can_be_read_in_two_ways_is_not_passed_on(engine, relay, request_):
    answer = ask(relay, request_.encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 400 ") and b"[reset]" not in answer, answer
    assert engine.heads == []


@pytest.mark.parametrize("more, body", [("", ""), ("Content-Length: 5\r\n", "12345")])
def test_one_request_a_connection(engine, relay, more, body):
    """Neither at once nor later does a second request pass, allowed or not."""
    with relay.dial() as sock:
        first = f"GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nProxy-Connection: keep-alive\r\n{more}\r\n{body}"
        sock.sendall(first.encode() + HIDDEN.encode())
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"\r\n\r\n" + body.encode())
        try:
            sock.sendall(HIDDEN.encode())
        except OSError:
            pass
        assert everything(sock) in (b"", b"[reset]")
    relay.notes()  # and its end: all that it passed on is there
    assert len(engine.heads) == 1 and "hidden" not in engine.heads[0]
    assert "Connection: close" in engine.heads[0] and "keep-alive" not in engine.heads[0]


def test_large_body_and_answer(engine, relay):
    body = bytes(range(256)) * 16384  # 4 MiB
    head = b"POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: %d\r\n\r\n" % len(body)
    with relay.dial() as sock:
        sender = threading.Thread(target=sock.sendall, args=(head + body,))
        sender.start()
        answer = everything(sock)
        sender.join()
    assert answer.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    "target, first, passes",
    [
        ("allowed.example:443", hello("allowed.example"), True),
        ("Allowed.Example.:443", hello("allowed.example"), True),
        ("allowed.example:443", hello("ALLOWED.example"), True),
        ("allowed.example:443", hello("denied.example"), False),
        ("a.suffix.example:443", hello("b.suffix.example"), False),
        ("port.example:8443", hello("port.example"), True),
        ("port.example:8443", hello("denied.example"), False),
        ("allowed.example:443", hello(None), False),
        ("port.example:8443", hello(None), True),
        ("192.0.2.1:443", hello(None), True),
        ("192.0.2.1:443", hello("denied.example"), False),
        ("allowed.example:443", b"SSH-2.0-x\r\n", False),
        ("ssh.example:22", b"SSH-2.0-x\r\n", True),
        ("allowed.example:80", get("http://allowed.example/"), True),
        ("allowed.example:443", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
        ("allowed.example:443", b"\x16\x03\x01\x00\x00", False),
        ("allowed.example:443", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", False),
    ],
)
@pytest.mark.parametrize("how", ["whole", "with its head", "byte by byte"])
def test_hellos(engine, relay, target, first, passes, how):
    with connect(relay, target, first if how == "with its head" else b"") as sock:
        try:
            if how == "whole":
                sock.sendall(first)
            elif how == "byte by byte":
                for at in range(len(first)):
                    sock.sendall(first[at : at + 1])
        except OSError:
            assert not passes
        if passes:
            back = b""
            while len(back) < len(first):
                back += sock.recv(65536)
            assert back == first, "untouched"
        else:
            with harness.Clock() as clock:
                back = everything(sock)
            assert back in (b"", b"[reset]", b"\x15\x03\x03\x00\x02\x02\x70", b"\x15\x03\x03\x00\x02\x02\x70[reset]")
            assert clock.seconds < 2
    notes, totals = relay.notes()
    denied = [note for note in notes if note["verdict"] == "denied"]
    assert [note["count"] for note in denied] == [] if passes else [1], notes
    assert (totals["bytes_out"] > 0) == passes


def test_a_hello_that_does_not_come_to_its_end(relay):
    with connect(relay, "allowed.example:443") as sock, harness.Clock() as clock:
        sock.sendall(hello("allowed.example")[:100])
        assert everything(sock).startswith(b"\x15\x03\x03")
    assert 9 < clock.seconds < 12


def test_a_server_that_speaks_first(engine, relay):
    engine.first = b"SSH-2.0-server\r\n"
    for target in ("ssh.example:22", "allowed.example:443"):
        with connect(relay, target) as sock:
            assert sock.recv(100) == engine.first


def test_half_closed(relay):
    with connect(relay, "ssh.example:22") as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b"last words"
    with connect(relay, "ssh.example:22") as sock:
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""


def test_the_engines_own_refusal(engine, relay):
    engine.status = 403
    with relay.dial() as sock:
        sock.sendall(b"CONNECT allowed.example:443 HTTP/1.1\r\n\r\n")
        answer = sock.recv(65536)
        sock.sendall(b"CONNECT ssh.example:22 HTTP/1.1\r\n\r\n")
        answer += everything(sock)
    assert answer.replace(b"[reset]", b"").endswith(b"no\n"), answer
    assert len(engine.heads) == 1, "nothing follows it"
    notes, totals = relay.notes()
    assert [(n["verdict"], n["rule"], n["why"]) for n in notes] == [("denied", "allowed.example", "the engine answered 403")]


@pytest.mark.parametrize("target", ["10.0.0.7:8080", "localhost:8080"])
def test_an_address_that_is_not_public(engine, relay, target):
    """By CONNECT and by http:// alike it takes a rule that says so; the engine, which would refuse it, does not hear of it."""
    relay.rules([target])
    for line in (f"CONNECT {target}", f"GET http://{target}/"):
        with relay.dial() as sock:
            sock.sendall(f"{line} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = everything(sock)
        assert answer.startswith(b"HTTP/1.1 403 ") and b'"private": true' in answer, answer
    assert engine.heads == []
    relay.rules([{"host": target, "private": True}])
    connect(relay, target).close()
    assert len(engine.heads) == 1
    notes, totals = relay.notes()
    assert [(n["verdict"], n["why"]) for n in notes] == [("denied", "no rule for an address that is not public")] * 2 + [("allowed", None)]


def test_an_engine_that_reloads(engine, relay):
    """It is away for a moment, or resets what waited: nobody notices."""
    engine.resets = 2
    connect(relay, "allowed.example:443").close()
    engine.resets = 2
    assert ask(relay, get("http://allowed.example/")).startswith(b"HTTP/1.1 200")
    engine.close()
    back = []
    again = threading.Timer(0.5, lambda: back.append(Engine(engine.port)))
    again.start()
    connect(relay, "allowed.example:443").close()
    again.join()
    back[0].close()
    with harness.Clock() as clock:
        assert ask(relay, b"CONNECT allowed.example:443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    assert 2 < clock.seconds < 5


@pytest.fixture
def reloading():
    """A real squid, whose config may be read again (as SIGHUP makes it), and the relay before it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sq", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        config = pathlib.Path(folder) / "squid.conf"
        config.write_text(rendering.render("squid.conf", {"proxy": {"port": port, "rules": [{"host": "allowed.example"}, {"host": "lan.example"}]}}))
        out, end = os.pipe()
        user = []
        if os.getuid() == 0:
            user = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups"]
            os.fchown(end, OTHER_USER, OTHER_USER)
        squid = subprocess.Popen([*user, SQUID, "-N", "-f", config], stdin=subprocess.DEVNULL, stdout=end, stderr=end, cwd="/")
        os.close(end)
        words = harness.Output(os.fdopen(out, "rb"))
        assert words.wait_line("Accepting HTTP Socket", 20), words.text()
        relay = Relay(port)
        relay.rules(["allowed.example", "lan.example"])
        yield squid, words, relay
        relay.close()
        squid.terminate()
        squid.wait(20)


@pytest.mark.parametrize(
    "request_, then",
    [(get("http://allowed.example/"), b""), (b"CONNECT allowed.example:80 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n")],
    ids=["get", "connect"],
)
def test_a_real_squid_that_reloads_under_load(reloading, canaries, request_, then):
    squid, words, relay = reloading
    done, good, bad = threading.Event(), [], []

    def load():
        while not done.is_set():
            try:
                with relay.dial() as sock:
                    sock.sendall(request_)
                    answer = sock.recv(65536) if then else b""
                    sock.sendall(then)
                    answer += everything(sock)
            except OSError as fault:
                answer = repr(fault).encode()
            (good if b"hello from the allowed server" in answer else bad).append(answer)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        start, before = len(words.lines), len(good)
        squid.send_signal(signal.SIGHUP)
        assert words.wait_line("Accepting HTTP Socket", 20, start), words.text()
        pace.until(lambda: bad or len(good) >= before + 2 * len(threads), 20)
    done.set()
    for thread in threads:
        thread.join(20)
    assert not bad, (len(good), bad[:3])


def test_a_real_squids_refusal_is_the_end(reloading):
    """squid keeps the connection; nobody may go on on it unseen, nor wait for an answer that does not come."""
    *_, relay = reloading
    with relay.dial() as sock, harness.Clock() as clock:
        sock.sendall(b"CONNECT lan.example:443 HTTP/1.1\r\n\r\n")
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 403") and answer.rstrip().endswith(b"</html>"), answer[-200:]
    assert clock.seconds < 2


def test_rules_change(engine, relay):
    """What is still allowed lives on, what is not is cut at once; the same for requests under way."""
    kept, cut = connect(relay, "ssh.example:22"), connect(relay, "port.example:8443")
    relay.rules(["ssh.example:22", "new.example"])
    cut.settimeout(1)
    assert everything(cut) in (b"", b"[reset]")
    kept.sendall(b"alive")
    assert kept.recv(10) == b"alive"
    connect(relay, "new.example:443").close()
    assert ask(relay, b"CONNECT port.example:8443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403")
    kept.close()
    notes, _ = relay.notes()
    assert ("denied", "port.example", "its rule is gone") in [(n["verdict"], n["host"], n["why"]) for n in notes]


def test_many_changes_under_load(engine, relay):
    """100 changes, 20 tunnels that work and new ones all the time: none breaks."""
    done, faults, opened = threading.Event(), [], []

    def talk(again):
        try:
            sock = connect(relay, "ssh.example:22")
            while not done.is_set():
                sock.sendall(b"x" * 1000)
                got = 0
                while got < 1000:
                    got += len(sock.recv(1000))
                    assert got
                if again:
                    sock.close()
                    sock = connect(relay, "ssh.example:22")
                    opened.append(1)
            sock.close()
        except Exception as fault:  # noqa: BLE001 (reported below)
            faults.append(fault)

    threads = [threading.Thread(target=talk, args=(n % 4 == 0,)) for n in range(20)]
    for thread in threads:
        thread.start()
    took = []
    for n in range(100):
        with harness.Clock() as clock:
            relay.rules(["ssh.example:22", f"n{n}.example"])
        took.append(clock.seconds)
    done.set()
    for thread in threads:
        thread.join(10)
    assert faults == [] and len(opened) > 20
    assert max(took) < 1


def test_200_tunnels(engine, relay):
    socks = [connect(relay, "ssh.example:22") for _ in range(200)]
    for n, sock in enumerate(socks):
        sock.sendall(b"%d" % n)
    for n, sock in enumerate(socks):
        assert sock.recv(10) == b"%d" % n
        sock.close()
    notes, totals = relay.notes()
    assert totals["allowed"] == 200 and totals["denied"] == 0
    assert totals["bytes_out"] == totals["bytes_in"] == sum(len(b"%d" % n) for n in range(200))


def test_a_quiet_tunnel_has_no_timer(relay):
    """Longer than any of the relay's own timers for what has begun: the head's, the hello's, the last words'."""
    with connect(relay, "allowed.example:443") as silent, connect(relay, "ssh.example:22") as sock:
        sock.sendall(b"1")
        assert sock.recv(1) == b"1"
        time.sleep(12)
        sock.sendall(b"2")
        assert sock.recv(1) == b"2"
        silent.sendall(hello("allowed.example"))
        assert silent.recv(10)[:1] == b"\x16"


def test_10000_hosts(relay):
    with harness.Clock() as clock:
        for n in range(10000):
            with relay.dial() as sock:
                sock.sendall(b"CONNECT h%d.denied.example:443 HTTP/1.1\r\n\r\n" % n)
                assert sock.recv(20).startswith(b"HTTP/1.1 403"), n
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
    print(f"10,000 refusals in {clock.seconds:.1f} s")
    rss = next(int(line.split()[1]) for line in open(f"/proc/{relay.process.pid}/status") if line.startswith("VmHWM"))
    assert harness.SANITIZED or rss < 30000, "KiB"
    _, totals = relay.notes()
    assert totals["denied"] == 10000


def test_out_of_descriptors(engine):
    """Without any to accept with, the relay waits instead of spinning, and goes on when there are some again."""
    relay = Relay(engine.port)
    relay.rules(RULES)
    held = max(int(fd) for fd in os.listdir(f"/proc/{relay.process.pid}/fd")) + 1
    old = resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE, (held, old[1]))
    try:
        sock = relay.dial()
        sock.sendall(b"CONNECT denied.example:443 HTTP/1.1\r\n\r\n")
        begun = cpu_ticks(relay.process.pid)
        time.sleep(1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(10)
        assert cpu_ticks(relay.process.pid) - begun < 20
        resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE, old)
        assert sock.recv(100).startswith(b"HTTP/1.1 403")
        sock.close()
    finally:
        relay.close()


def cpu_ticks(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
