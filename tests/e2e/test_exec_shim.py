"""Programs beside a bottle's command, at the supervisor's socket: what bottled is given, frame by frame.

The frames are those of guest/protocol.h, written down here a second time on purpose.
"""
import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import secrets
import select
import signal
import socket
import sqlite3
import struct
import threading
import time

import harness
import pytest
from conftest import finish
from test_exec import memory
from test_hostile_vm import PLAN, PRELUDE

LASTING = ["sh", "-c", "while :; do sleep 1000 & wait $!; done"]
OUTPUT, EXIT, EXEC, INPUT, SIGNAL, RESIZE, WINDOW = 8, 9, 68, 69, 70, 71, 80
TERMINAL, STDIN = 1, 2
WINDOW_MAX, INPUT_MAX = 128 * 1024, 16 * 1024
LOST = 0xFFFFFFFF


class Shim:
    """Speaks to a bottle's supervisor as bottled does."""

    def __init__(self, daemon, slug):
        with contextlib.closing(sqlite3.connect(daemon.state_dir / "bottled.db")) as store:
            (token,) = store.execute("SELECT shim_token FROM bottles WHERE slug = ?", (slug,)).fetchone()
        path = daemon.run_dir / "b" / hashlib.sha256(slug.encode()).hexdigest()[:16] / "shim.sock"
        self.lock = threading.Lock()
        self.wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire.settimeout(20)
        self.wire.connect(str(path))
        self.wire.send(json.dumps({"op": "hello", "token": token}).encode())
        self.status = json.loads(self.wire.recv(65536))
        self.pid = self.status["pid"]

    def exec(self, *command, **options):
        return Exec(self, command, **options)

    def run(self, *command, **options):
        with Exec(self, command, **options) as one:
            return one.result()

    def send(self, packet, descriptor):
        with self.lock:
            while select.select([self.wire], [], [], 0)[0]:  # who does not read what it is told is dropped
                self.wire.recv(65536)
            socket.send_fds(self.wire, [json.dumps(packet).encode()], [descriptor])

    def told(self, name):
        """What is known of an exec that nobody listens to."""
        self.wire.send(json.dumps({"op": "exec-result", "id": name}).encode())
        while True:
            packet = json.loads(self.wire.recv(65536))
            if packet.get("exec") == name and packet.get("asked"):
                return packet

    def close(self):
        self.wire.close()


class Exec:
    """One program. `window`: how much output is taken; more is granted as it comes, unless `lazy`."""

    def __init__(self, shim, command, env=(), workdir="", flags=0, timeout_ms=0, size=(0, 0), window=WINDOW_MAX, lazy=False):
        self.name, self.lazy = secrets.token_hex(8), lazy
        self.wire, theirs = socket.socketpair()
        self.wire.settimeout(60)
        shim.send({"op": "exec", "id": self.name, "detach": False}, theirs.fileno())
        theirs.close()
        strings = b"".join((s if isinstance(s, bytes) else s.encode()) + b"\0" for s in (workdir, *command, *env))
        self.send(EXEC, struct.pack("<IIHHII", flags, timeout_ms, *size, len(command), len(env)) + strings)
        self.grant(window)
        self.out, self.err, self.credit, self.exit, self.received = [], [], 0, None, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def send(self, kind, payload=b""):
        with contextlib.suppress(BrokenPipeError):  # it may have ended; what it said is still there to be read
            self.wire.sendall(struct.pack("<IB3xI", 4 + len(payload), kind, 0) + payload)

    def grant(self, count):
        if count:
            self.send(WINDOW, struct.pack("<I", count))

    def signal(self, number):
        self.send(SIGNAL, struct.pack("<I", number))

    def step(self):
        """Takes one frame; its type, or None at the end of the stream."""
        while len(self.received) < 8 or len(self.received) < 8 + struct.unpack("<I", self.received[:4])[0]:
            try:
                more = self.wire.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self.received, "a part of a frame"
                return None
            self.received += more
        length, kind, number = struct.unpack("<IB3xI", self.received[:12])
        payload, self.received = self.received[12 : 8 + length], self.received[8 + length :]
        assert number == 0 and self.exit is None, "something came after EXEC_EXIT"
        if kind == OUTPUT:
            assert len(payload) > 1
            (self.out if payload[0] == 1 else self.err).append(payload[1:])
            if not self.lazy:
                self.grant(len(payload) - 1)
        elif kind == WINDOW:
            (more,) = struct.unpack("<I", payload)
            self.credit += more
        else:
            assert kind == EXIT
            self.exit = (*struct.unpack("<II?", payload[:9]), payload[9:].decode())
        return kind

    def until(self, words):
        while words not in self.text:
            assert self.step(), self.text
        return self

    def feed(self, data):
        """Sends input as windows come."""
        while data:
            while not self.credit:
                assert self.step() != EXIT, self.exit
            piece = data[: min(self.credit, INPUT_MAX)]
            self.credit -= len(piece)
            self.send(INPUT, piece)
            data = data[len(piece) :]
        return self

    def end_input(self):
        self.send(INPUT)
        return self

    def result(self):
        while self.step() is not None:
            pass
        assert self.exit, "the stream was cut"
        return self

    @property
    def code(self):
        return self.exit[0]

    @property
    def text(self):
        return b"".join(self.out).decode()


@pytest.fixture(scope="module")
def shim(shared):
    """Of a bottle that these tests share."""
    shared.create({"slug": "box", "command": LASTING, "env": {"A": "plan", "B": "plan"}, "workdir": "/work"}, "?start=true&wait=running")
    one = Shim(shared, "box")
    yield one
    one.close()
    bottle = shared.bottle("box")
    assert bottle["state"] == "running", f"a test was the bottle's end: {bottle['reason']}"


# --- How it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, options, expected",
    [
        (["true"], {}, (0, 0, False, "")),
        (["false"], {}, (1, 0, False, "")),
        (["sh", "-c", "exit 255"], {}, (255, 0, False, "")),
        (["/etc/hosts"], {}, (126, 0, False, 'the command "/etc/hosts" can not be run: Permission denied')),
        (["nope"], {}, (127, 0, False, 'the command "nope" was not found in the directories of PATH')),
        (["true"], {"workdir": "/etc/hosts/x"}, (126, 0, False, 'the work directory "/etc/hosts/x" can not be used: Not a directory')),
        (["sh", "-c", "kill -9 $$"], {}, (137, 9, False, "")),
        (["sh", "-c", "sleep 1000 & wait"], {"timeout_ms": 200}, (124, 9, True, "")),
        (["sleep", "1000"], {"timeout_ms": 200, "flags": TERMINAL | STDIN}, (124, 9, True, "")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_how_it_ends(shim, command, options, expected):
    assert shim.run(*command, **options).exit == expected


def test_environment_and_folder(shim):
    one = shim.run("sh", "-c", 'pwd; echo "$A $B $C"; cat; echo no >&2', env=["B=mine", "C= x "])
    assert (one.text, b"".join(one.err)) == ("/work\nplan mine  x \n", b"no\n")
    assert shim.run("pwd", workdir="/tmp/new er").text == "/tmp/new er\n"


def commands(shim):
    """Of all processes of the guest."""
    return shim.run("sh", "-c", "cat /proc/[0-9]*/cmdline").text


def test_a_timeout_ends_the_whole_group(shim):
    one = shim.run("sh", "-c", "sleep 7654 & sleep 7654 & echo up; wait", timeout_ms=300)
    assert one.exit[:3] == (124, 9, True)
    assert "sleep\0007654" not in commands(shim)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_signal_reaches_the_group(shim, number):
    with shim.exec("sh", "-c", "trap 'echo usr; exit 3' USR1; echo up; sleep 1000 & wait") as one:
        one.until("up\n").signal(number)
        expected = (3, 0, False, "") if number == signal.SIGUSR1 else (128 + number, number, False, "")
        assert one.result().exit == expected


def test_what_it_leaves_behind(shim):
    """A process that holds its pipes is waited for a second at most, and lives on."""
    with harness.Clock() as clock:
        one = shim.run("sh", "-c", "(sleep 0.2; echo second; exec sleep 4321) & echo $!; exit 5")
    pid, words = one.text.splitlines()
    assert (words, one.code) == ("second", 5) and 0.8 < clock.seconds < 10
    assert "sleep\0004321" in commands(shim)
    assert shim.run("kill", pid).code == 0


def zombies(shim):
    return shim.run("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '").text.strip()


LEFT_BEHIND = int(os.environ.get("EXECS", 32))


def test_no_zombies(shim):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        ends = list(pool.map(lambda _: shim.run("sh", "-c", "sleep 0.1 &").exit, range(LEFT_BEHIND)))
    assert ends == [(0, 0, False, "")] * LEFT_BEHIND
    assert zombies(shim) == "0"


def test_64_at_once_and_no_more(shim):
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(shim.exec("cat", flags=STDIN)) for _ in range(64)]
        for number, one in enumerate(many):
            one.feed(f"in {number}\n".encode()).until("in")
        more = shim.run("true")
        assert (more.code, more.exit[3]) == (LOST, "too many programs run beside the bottle's command")
        for one in many:
            one.end_input()
        assert [(one.result().code, one.text) for one in many] == [(0, f"in {n}\n") for n in range(64)]
    assert shim.run("true").code == 0


# --- Windows -------------------------------------------------------------------------------------

AMOUNT = int(os.environ.get("AMOUNT", 8_000_000))
LINE = b"0123456789abcde\n"


def test_a_stream_that_is_blocked_blocks_no_other(shim):
    """One program's input and another's output go nowhere; a third's output is all there, memory is flat."""
    with shim.exec("sleep", "1000", flags=STDIN) as deaf, shim.exec("yes", window=5000, lazy=True) as mute:
        while not deaf.credit:
            deaf.step()
        while deaf.credit:
            deaf.feed(b"x" * deaf.credit)
        before = memory(shim.pid)
        with harness.Clock() as clock, shim.exec("sh", "-c", f"yes {LINE[:-1].decode()} | head -c {AMOUNT}") as one:
            one.result()
        got = b"".join(one.out)
        print(f"{len(got)} bytes in {clock.seconds:.2f} s")
        assert one.code == 0 and len(got) == AMOUNT
        assert hashlib.sha256(got).digest() == hashlib.sha256((LINE * (AMOUNT // 16 + 1))[:AMOUNT]).digest()
        assert memory(shim.pid) - before < 1 << 20
        while len(mute.text) < 5000:
            mute.step()
        mute.wire.settimeout(0.3)
        with pytest.raises(TimeoutError):
            mute.step()
        assert len(mute.text) == 5000, "a window was exceeded"
        for one in (deaf, mute):
            one.wire.settimeout(20)
            one.signal(9)
            one.grant(WINDOW_MAX if one.lazy else 0)  # what waits in the program's pipe is still owed
            assert one.result().exit[:2] == (137, 9)


def test_input_comes_through_whole(shim):
    data = secrets.token_bytes(1 << 20)
    with shim.exec("sha256sum", flags=STDIN) as one:
        one.feed(data).end_input()
        assert one.result().text.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_that_nobody_reads_is_no_fault(shim):
    """The program has closed its input, or has ended: what comes is thrown away."""
    with shim.exec("sh", "-c", "exec <&-; echo closed; sleep 1", flags=STDIN) as one:
        one.until("closed").feed(b"x" * 300_000).end_input()
        assert one.result().code == 0
    with shim.exec("true", flags=STDIN) as one:
        while not one.credit:
            one.step()
        one.send(INPUT, b"x")
        one.end_input()
        assert one.result().code == 0


# --- A terminal ----------------------------------------------------------------------------------


def test_a_terminal(shim):
    # A shell's read ends at a signal.
    loop = 'until [ "$l" = two ]; do read -r l && echo "got $l"; done; cat; echo over'
    with shim.exec("sh", "-c", f"tty; stty size; trap 'stty size' WINCH; {loop}", flags=TERMINAL | STDIN, size=(24, 80)) as one:
        one.until("24 80\r\n").feed(b"one\n").until("got one\r\n")
        one.send(RESIZE, struct.pack("<HH", 50, 132))
        one.until("50 132\r\n").feed(b"two\n").until("got two\r\n")
        one.end_input()
        assert one.result().exit == (0, 0, False, "")
        assert one.text.startswith("/dev/pts/") and one.text.endswith("over\r\n") and not one.err
    with shim.exec("sh", "-c", "echo up; sleep 1000", flags=TERMINAL | STDIN) as one:
        one.until("up").feed(b"\x03")
        assert one.result().exit[:2] == (130, 2), "Ctrl-C"


# --- When bottled is gone, or wrong ---------------------------------------------------------------


def ended(shim, name, timeout=20):
    end = time.monotonic() + timeout
    while (told := shim.told(name))["state"] == "running":
        assert time.monotonic() < end, told
        time.sleep(0.02)
    return told


def test_it_goes_on_alone_and_its_result_is_kept(shim):
    with shim.exec("sh", "-c", "yes | head -c 3000000; exit 7") as one:
        one.until("y\n")
        assert shim.told(one.name)["state"] == "running"
    assert ended(shim, one.name) == {"exec": one.name, "state": "ended", "exit_code": 7, "signal": None, "timed_out": False,
                                     "reason": None, "asked": True}
    assert shim.told("0" * 16) == {"exec": "0" * 16, "state": "unknown", "asked": True}


@pytest.mark.parametrize("window", [0, WINDOW_MAX], ids=["quiet", "while it prints"])
def test_a_kill_right_before_the_close_is_heard(shim, window):
    """Also when the supervisor finds out by writing that nobody is there."""
    with shim.exec("yes", window=window, lazy=True) as one:
        if window:
            one.step()
        one.signal(9)
    assert ended(shim, one.name)["signal"] == 9


BAD = {
    "garbage": b"\xff" * 40,
    "not an exec": struct.pack("<IB3xI", 8, WINDOW, 0) + b"\1\0\0\0",
    "no arguments": struct.pack("<IB3xI", 25, EXEC, 0) + struct.pack("<IIHHII", 0, 0, 0, 0, 0, 0) + b"\0",
    "lying counts": struct.pack("<IB3xI", 25, EXEC, 0) + struct.pack("<IIHHII", 0, 0, 0, 0, 1 << 31, 1 << 31) + b"\0",
    "too long": struct.pack("<IB3xI", 1 << 30, EXEC, 0),
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD)
def test_a_bad_beginning_is_no_exec(shim, words):
    mine, theirs = socket.socketpair()
    with mine:
        mine.settimeout(20)
        name = secrets.token_hex(8)
        shim.send({"op": "exec", "id": name, "detach": False}, theirs.fileno())
        theirs.close()
        mine.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert mine.recv(100) == b""
        assert shim.told(name)["state"] == "unknown"


@pytest.mark.parametrize(
    "flags, kind, payload",
    [(0, INPUT, b""), (0, INPUT, b"x"), (STDIN, INPUT, b"x" * (INPUT_MAX + 1)), (0, WINDOW, struct.pack("<I", WINDOW_MAX)),
     (0, WINDOW, bytes(4)), (0, SIGNAL, bytes(4)), (0, SIGNAL, struct.pack("<I", 65)), (0, RESIZE, b"123"), (0, EXEC, b""), (0, OUTPUT, b"\1x")],
)
def test_what_bottled_may_not_say_never_reaches_the_guest(shim, flags, kind, payload):
    with shim.exec("sh", "-c", "echo up; sleep 1", flags=flags) as one:
        one.until("up")
        one.send(kind, payload)
        assert one.step() is None and one.exit is None
    assert ended(shim, one.name)["exit_code"] == 0


def test_input_after_its_end(shim):
    with shim.exec("sh", "-c", "cat; sleep 1", flags=STDIN) as one:
        one.feed(b"x").end_input().until("x")
        one.end_input()
        assert one.step() is None
    assert ended(shim, one.name)["exit_code"] == 0


# --- An end that is none --------------------------------------------------------------------------


CUTS = {
    "the VM is killed": lambda daemon, shim: os.kill(next(p["pid"] for p in shim.status["processes"] if p["name"] == "qemu"), signal.SIGKILL),
    "the command ends": lambda daemon, shim: shim.run("touch", "/tmp/go"),
    "stop": lambda daemon, shim: daemon.post("/bottles/cut/stop?grace=5s"),
    "stop at once": lambda daemon, shim: daemon.post("/bottles/cut/stop?grace=0s"),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_cut_is_never_an_exit(shared, cut):
    command = ["sh", "-c", "trap 'exit 0' TERM; while [ ! -e /tmp/go ]; do sleep 0.1; done"]
    shared.create({"slug": "cut", "command": command}, "?start=true&wait=running")
    shim = Shim(shared, "cut")
    try:
        with shim.exec("sh", "-c", "echo up; exec sleep 1000") as loud, shim.exec("sleep", "1000", window=0, flags=STDIN) as mute:
            loud.until("up")
            cut(shared, shim)
            for one in (loud, mute):
                code, number, timed_out, words = one.result().exit
                assert (code, number, timed_out) == (LOST, 0, False) and words
    finally:
        shim.close()
        shared.remove("cut")


# --- A guest that was taken over ------------------------------------------------------------------

PUPPET = """
class Puppet:
    def __init__(self, payload):
        self.id = payload[:4]
        self.args = payload[25:].split(b"\\0")

    def say(self, kind, payload=b"", number=None):
        send(kind, (self.id if number is None else struct.pack("<I", number)) + payload)

def u32(*numbers):
    return struct.pack("<%dI" % len(numbers), *numbers)

send(STARTED)
known = []
while True:
    kind, payload = take()
    if kind == 68:
        known.append(Puppet(payload))
        exec(known[-1].args[0].decode(), globals(), {"exec": known[-1], "first": known[0]})
"""


@pytest.fixture(scope="module")
def puppets(row):
    """A bottled whose bottles' agents do what the exec's first argument says, in Python."""
    one = harness.Daemon()
    tools = one.base / "tools"
    tools.mkdir()
    qemu = tools / "qemu-system-x86_64"
    qemu.write_text(PRELUDE + PUPPET)
    qemu.chmod(0o755)
    one.config["tools_path"] = str(tools)
    try:
        one.start()
        yield one
    finally:
        finish(one)


@contextlib.contextmanager
def puppet(daemon):
    daemon.create(PLAN, "?start=true&wait=running")
    shim = Shim(daemon, PLAN["slug"])
    try:
        yield shim
    finally:
        shim.close()
        daemon.remove(PLAN["slug"])


LIES = [
    "exec.say(8, b'\\1x', 77)",
    "exec.say(8, b'\\1' + b'x' * 1001)",
    "exec.say(8, b'\\1' + b'x' * 1000); exec.say(8, b'\\2x')",
    "exec.say(8, b'\\1')",
    "exec.say(8, b'\\0x')",
    "exec.say(8, b'\\3x')",
    "exec.say(8)",
    "send(8, b'123')",
    "exec.say(80, u32(0))",
    "exec.say(80, u32(131073))",
    "exec.say(80, u32(0xffffffff))",
    "exec.say(80, u32(100000)); exec.say(80, u32(100000))",
    "exec.say(80, b'123')",
    "exec.say(80, u32(1), 0)",
    "exec.say(9, u32(0, 0))",
    "exec.say(9, u32(0, 0) + b'\\2')",
    "exec.say(9, u32(256, 0) + b'\\0')",
    "exec.say(9, u32(0xffffffff, 0) + b'\\0')",
    "exec.say(9, u32(0, 65) + b'\\0')",
    "exec.say(9, u32(0, 0) + b'\\0', 0)",
    "exec.say(68, b'x' * 40)",
    "send(200, b'')",
    "agent.sendall(b'\\xff' * 4096)",
    "agent.sendall(u32(1 << 20) + b'\\x08\\0\\0\\0')",
]


@pytest.mark.parametrize("lie", LIES)
def test_a_guest_that_breaks_the_rules_has_failed(puppets, lie):
    with puppet(puppets) as shim:
        with shim.exec(lie, window=1000, lazy=True) as one:
            one.result()
        assert one.code == LOST and one.exit[3], "nothing that it said is an exit"
        bottle = puppets.wait("taken", "failed")
        assert bottle["state"] == "failed" and "protocol" in bottle["reason"], bottle


def test_an_end_is_the_last_word(puppets):
    with puppet(puppets) as shim:
        one = shim.run("exec.say(9, u32(3, 0) + b'\\0' + b'caf' + b'z' * 5000); exec.say(8, b'\\1x')")
        assert one.code == 3 and len(one.exit[3]) < 256
        bottle = puppets.wait("taken", "failed")
        assert bottle["state"] == "failed" and "protocol" in bottle["reason"], bottle


CRUMBS = """
for _ in range(131072 // 2):
    agent.sendall(u32(8) + b'\\x50\\0\\0\\0' + exec.id + u32(1))
taken = 0
while True:
    kind, payload = take()
    if kind == 80:
        for number in range(struct.unpack("<I", payload[4:])[0]):
            exec.say(8, b'\\1x' if number % 2 else b'\\2x')
"""


@pytest.mark.plain
def test_crumbs_are_not_kept(puppets):
    """Every byte of output and of the input's window in a frame of its own, to a reader that does not read."""
    with puppet(puppets) as shim:
        before = memory(shim.pid)
        with shim.exec(CRUMBS, lazy=True) as one:
            wait_quiet(shim.pid)
            assert memory(shim.pid) - before < 512 << 10
            while len(one.out) + len(one.err) < WINDOW_MAX:
                one.step()
            assert len(b"".join(one.out + one.err)) == WINDOW_MAX
            assert one.credit == WINDOW_MAX // 2
            assert puppets.bottle("taken")["state"] == "running"


def wait_quiet(pid):
    """Until the process has not worked for 0.3 s."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < 0.3:
        with open(f"/proc/{pid}/stat") as stat:
            now = stat.read().rsplit(")", 1)[1].split()[11:13]
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.02)


@pytest.mark.plain
def test_a_guest_that_does_not_read(puppets):
    """What bottled says waits in bottled, not in the supervisor, which goes on working."""
    with puppet(puppets) as shim:
        before = memory(shim.pid)
        with shim.exec("while True: time.sleep(1000)") as one:
            one.wire.settimeout(0.5)
            frame = struct.pack("<IB3xIHH", 8, RESIZE, 0, 1, 1)
            with pytest.raises(TimeoutError):
                for _ in range(200):
                    one.wire.sendall(frame * 10_000)
            assert memory(shim.pid) - before < 2 << 20
            assert shim.told(one.name)["state"] == "running"
        with harness.Clock() as clock:
            assert puppets.post("/bottles/taken/stop?grace=0s&wait=stopped&timeout=20s").status == 200
        assert clock.seconds < 10


def test_a_channel_that_was_closed(puppets):
    with puppet(puppets) as shim:
        one = shim.run("agent.shutdown(2); time.sleep(1000)")
        assert one.exit == (LOST, 0, False, "the guest's agent is gone")
        assert shim.run("x").exit[0] == LOST
