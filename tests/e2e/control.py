"""The negative control: the bottle's guest and gvproxy, from the bottle's own files, without a cell around them.

What this guest reaches is what the cell has to be credited for. Speaks the agent's protocol
(guest/protocol.h) in the shim's place.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time

import harness
import processes

HEADER = struct.Struct("<IBxxx")
HELLO, STARTED, OUTPUT, EXIT, FAILED, START = 1, 2, 3, 4, 5, 64
BOOT_SECONDS = 90
IN_CREATE = 0x100


def follow(daemon, slug, marker, stream="command", timeout=60):
    """Reads a log as it grows until `marker` is in it; the text so far. `timeout`: how long it may not grow."""
    connection = harness.UnixConnection(str(daemon.socket), timeout)
    data = b""
    try:
        connection.request("GET", f"/bottles/{slug}/logs?stream={stream}&follow=true")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while marker not in data:
            piece = response.read1(65536)
            assert piece, f"the log ended without {marker!r}: {data!r}"
            data += piece
        return data.decode(errors="replace")
    except TimeoutError:
        raise AssertionError(f"{timeout} s without a word after {data[-500:]!r}") from None
    finally:
        connection.close()


def start_frame(plan, command):
    """START's payload: counts, then NUL-terminated strings."""
    strings = ["control", f"{plan['guest_ip']}/24", plan["gateway"], "/", "", *command]
    env = [f"{name}={value}" for name, value in plan["guest"]["env"].items()]
    payload = struct.pack("<II", len(command), len(env)) + b"".join(s.encode() + b"\0" for s in strings + env)
    payload += struct.pack("<Q8s", int(time.time() * 1000), b"") + os.urandom(64)
    payload += bytes(8)  # no mounts
    return HEADER.pack(len(payload), START) + payload


def read_exactly(channel, count):
    data = b""
    while len(data) < count:
        piece = channel.recv(count - len(data))
        if not piece:
            raise AssertionError("the guest is gone before its command ended")
        data += piece
    return data


def converse(channel, plan, command):
    """From HELLO to EXIT; what the command wrote."""
    output = b""
    while True:
        length, kind = HEADER.unpack(read_exactly(channel, HEADER.size))
        payload = read_exactly(channel, length)
        if kind == HELLO:
            channel.sendall(start_frame(plan, command))
        elif kind == OUTPUT:
            output += payload[1:]
        elif kind == FAILED:
            raise AssertionError(payload.decode(errors="replace"))
        elif kind == EXIT:
            return output.decode(errors="replace")


@contextlib.contextmanager
def running(argv, log, **options):
    with open(log, "wb") as out:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options)
    processes.waited_for.add(child.pid)
    try:
        yield child
    finally:
        child.kill()
        child.wait(10)
        processes.waited_for.discard(child.pid)


def wait_file(path, child, timeout=10):
    """Blocks until the file is there: inotify says when its folder changes."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(watch, bytes(path.parent), IN_CREATE) >= 0
        end = time.monotonic() + timeout
        while not path.exists():
            assert child.poll() is None and time.monotonic() < end, f"{path} did not come"
            if select.select([watch], [], [], 1)[0]:
                os.read(watch, 4096)
    finally:
        os.close(watch)


def dry_plan():
    """A bottle's resolved plan with its files."""
    daemon = harness.Daemon()
    try:
        daemon.start()
        return daemon.post("/plans", {"command": ["true"], "backend": "qemu", "slug": "control"}).json()
    finally:
        daemon.close()


def run_unconfined(script):
    """Runs a shell script in a guest whose gvproxy has no cell; what it wrote."""
    plan = dry_plan()
    files = {file["name"]: file["content"] for file in plan["files"]}
    base = pathlib.Path(tempfile.mkdtemp(prefix="bc", dir="/tmp"))
    try:
        config = base / "gvproxy.yaml"
        config.write_text(files["gvproxy.yaml"].replace("/run/bottle", str(base)))
        places = {
            "/run/bottle": str(base),
            "/vm/kernel": str(harness.BUILD / "guest" / "vmlinuz"),
            "/vm/initrd": str(harness.BUILD / "guest" / "initramfs.img"),
            "/vm/image": str(harness.BUILD / "guest" / "images" / "busybox.erofs"),
        }
        argv = json.loads(files["qemu.json"])["argv"]
        for inside, outside in places.items():
            argv = [argument.replace(inside, outside) for argument in argv]
        argv = without_monitor(argv)
        gvproxy = shutil.which("gvproxy", path=f"{harness.ROOT}/.tools/bin:{os.environ['PATH']}")
        with running([gvproxy, "-config", str(config)], base / "gvproxy.log") as proxy:
            wait_file(base / "net.sock", proxy)
            return boot(argv, base, plan, ["sh", "-c", script])
    finally:
        shutil.rmtree(base, ignore_errors=True)


def boot(argv, base, plan, command):
    """A TCG boot hangs now and then before its first output: tried twice."""
    number = agent_descriptor(argv)
    for attempt in (1, 2):
        ours, theirs = socket.socketpair()
        with ours:
            options = {"pass_fds": (number,), "preexec_fn": lambda: os.dup2(theirs.fileno(), number)}
            with running(argv, base / "console.log", **options):
                theirs.close()
                ours.settimeout(BOOT_SECONDS / 2)
                try:
                    return converse(ours, plan, command)
                except TimeoutError:
                    with contextlib.suppress(FileNotFoundError):
                        (base / "vm.sock").unlink()
                    if attempt == 2:
                        raise AssertionError((base / "console.log").read_text(errors="replace")[-3000:])
    return None


def without_monitor(argv):
    """Nobody has its other end here."""
    at = next(place for place, argument in enumerate(argv) if argument.startswith("socket,id=qmp,"))
    assert argv[at - 1] == "-chardev" and argv[at + 1 : at + 3] == ["-mon", "chardev=qmp,mode=control"], argv
    return argv[: at - 1] + argv[at + 3 :]


def agent_descriptor(argv):
    """The number in "-chardev socket,…,fd=N"."""
    found = [part for argument in argv for part in argument.split(",") if part.startswith("fd=")]
    assert len(found) == 1, argv
    return int(found[0][3:])
