"""Files of a guest that lies: a program of the test's own stands for the VM, and answers as the path says."""
import os
import socket

import conftest
import harness
import pytest
from pace import until
from test_exec import memory
from test_files import BYTES, FILE, FOLDER, where
from test_hostile_vm import PRELUDE

# What it answers: EXEC's arguments are the verb and the path. After that nothing of that exec is looked at.
GUEST = PRELUDE + '''
import threading
OUT, END, EXEC, INPUT, SIGNAL, WINDOW = 8, 9, 68, 69, 70, 80
lock = threading.Lock()

def tell(kind, number, payload=b""):
    with lock:
        send(kind, struct.pack("<I", number) + payload)

def say(number, data, stream=1):
    while data:
        tell(OUT, number, bytes([stream]) + data[:4000])
        data = data[4000:]

def end(number, code=0, signal=0, words=b""):
    tell(END, number, struct.pack("<II", code, signal) + b"\\0" + words)

def head(number, size, rest=b" 644 0 0 0"):
    say(number, b"file " + str(size).encode() + rest + b"\\n")

def act(number, verb, what):
    if what == "short":
        head(number, 1000), say(number, b"x" * 999), end(number)
    elif what == "long":
        head(number, 1000), say(number, b"x" * 5000), end(number)
    elif what == "unsized":
        head(number, "-"), say(number, b"x" * 3000), end(number, 5)
    elif what == "huge":
        head(number, 1 << 62)
    elif what == "endless":
        while number not in windows:
            time.sleep(0.01)
        say(number, b"archive\\n")
        windows[number] = windows.get(number, 0) - 8
        flood(number)
    elif what == "silent":
        pass
    elif what == "quiet":
        head(number, 1000), say(number, b"x" * 10)
    elif what == "early":
        end(number)
    elif what == "noise":
        flood(number, 2)
    elif what == "code":
        say(number, b"go \\x1b[31m away \\xff\\n", 2), end(number, 200)
    elif what == "killed":
        end(number, 137, 9)
    elif what.startswith("head"):
        say(number, HEADS[int(what[4:])]), end(number)
    elif what == "counts":
        say(number, b"unpacked 1 2 3\\n"), end(number)
    elif what == "done":
        say(number, b"unpacked 1 2 3\\nmore"), end(number)

HEADS = [b"file\\n", b"file 1\\n", b"file 1 644 0 0\\n", b"file x 644 0 0 0\\n", b"file -1 644 0 0 0\\n", b"file 1 999 0 0 0\\n",
         b"file 1 644 -1 0 0\\n", b"file 1 644 0 4294967296 0\\n", b"file 1 644 0 0 0 0\\n", b"file 1 77777 0 0 0\\n",
         b"\\n", b"archive\\n", b"x" * 400, b"file 18446744073709551616 644 0 0 0\\n", b"file  1 644 0 0 0\\n", b"file 1 644 0 0 x\\r\\nX-Evil: 1\\n"]
windows, floods = {}, {}

def flood(number, stream=1):
    """As much as it may, for ever."""
    floods[number] = stream
    say(number, b"\\0" * windows.pop(number, 0), stream)

send(STARTED)
while True:
    kind, payload = take()
    number = struct.unpack("<I", payload[:4])[0] if len(payload) >= 4 else 0
    if kind == EXEC:
        verb, path = payload[25:].split(b"\\0")[:2]
        threading.Thread(target=act, args=(number, verb, path.decode()[1:]), daemon=True).start()
    elif kind == WINDOW:
        windows[number] = windows.get(number, 0) + struct.unpack("<I", payload[4:8])[0]
        if number in floods:
            flood(number, floods[number])
'''


@pytest.fixture(scope="module")
def liar(row):
    one = harness.Daemon(config={"files_max_bytes": 8 << 20, "files_timeout": "1s"})
    try:
        tools = one.base / "tools"
        tools.mkdir()
        (tools / "qemu-system-x86_64").write_text(GUEST)
        (tools / "qemu-system-x86_64").chmod(0o755)
        tools.chmod(0o755)
        one.config["tools_path"] = str(tools)
        one.start()
        one.create({"backend": "qemu", "slug": "taken", "command": ["true"]}, "?start=true&wait=running")
        yield one
    finally:
        conftest.finish(one)


def raw(daemon, text):
    """All that comes back, byte for byte."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(30)
        wire.connect(str(daemon.socket))
        wire.sendall(text.encode())
        parts = []
        while part := wire.recv(65536):
            parts.append(part)
        return b"".join(parts)


def taken(path, what=FILE):
    return where(path, what, "taken")


def fetch(daemon, path, what=FILE):
    head, _, body = raw(daemon, f"GET {taken(path, what)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    return head, body


def test_less_than_was_announced_is_cut(liar):
    head, body = fetch(liar, "/short")
    assert b"\r\nContent-Length: 1000\r\n" in head + b"\r\n" and len(body) == 999


def test_more_than_was_announced_is_cut_off(liar):
    head, body = fetch(liar, "/long")
    assert b"\r\nContent-Length: 1000\r\n" in head + b"\r\n" and body == b"x" * 1000


def test_what_has_no_size_ends_only_when_it_is_whole(liar):
    head, body = fetch(liar, "/unsized")
    assert b"Transfer-Encoding: chunked" in head and b"x" * 3000 in body.replace(b"\r\n", b"") and not body.endswith(b"\r\n0\r\n\r\n")


def test_what_has_no_end_is_cut(liar):
    before = memory(liar.pid)
    head, body = fetch(liar, "/endless", FOLDER)
    assert head.startswith(b"HTTP/1.1 200 ") and 8 << 20 <= len(body) < 9 << 20 and not body.endswith(b"\r\n0\r\n\r\n")
    assert memory(liar.pid) - before < 8 << 20
    assert liar.bottle("taken")["state"] == "running"


def test_a_guest_that_says_nothing(liar):
    for method, path, what in (("GET", "/silent", FILE), ("GET", "/silent", FOLDER), ("PUT", "/silent", FILE), ("PUT", "/silent", FOLDER)):
        with harness.Clock() as clock:
            reply = liar.request(method, taken(path, what), b"x" * 300000 if method == "PUT" else None, BYTES)
        assert (reply.status, reply.problem) == (504, "timeout") and clock.seconds < 10, reply
    head, body = fetch(liar, "/quiet")
    assert b"Content-Length: 1000" in head and body == b"x" * 10


@pytest.mark.parametrize("path", ["/early", "/noise", "/killed", "/counts", *(f"/head{number}" for number in range(16))])
def test_what_is_no_answer(liar, path):
    reply = liar.get(taken(path))
    assert (reply.status, reply.problem) == (502, "files-failed"), reply
    assert "X-Evil" not in str(reply.headers)


@pytest.mark.parametrize("path, what", [("/early", FILE), ("/early", FOLDER), ("/counts", FILE), ("/counts", FOLDER), ("/done", FOLDER)])
def test_done_before_all_was_given(liar, path, what):
    """It takes no input, and says that all is there."""
    reply = liar.request("PUT", taken(path, what), b"x" * 100000, BYTES)
    assert (reply.status, reply.problem) == (502, "files-failed"), reply


def test_its_words_do_no_harm(liar):
    reply = liar.get(taken("/code"))
    assert reply.status == 502 and reply.json()["detail"] == "taken: go ?[31m away \ufffd?", reply


def test_a_size_that_no_disk_has(liar):
    assert liar.get(taken("/huge")).problem == "file-too-large"


def test_nothing_is_left(liar):
    """After all that: no copy is still counted, and its sockets are closed."""
    until(lambda: len([link for link in (os.readlink(f"/proc/{liar.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{liar.pid}/fd"))
                       if link.startswith("socket:")]) < 12)
    for _ in range(70):
        assert liar.get(taken("/early")).status == 502
    assert liar.bottle("taken")["state"] == "running"
