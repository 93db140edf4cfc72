"""Programs that run beside a bottle's command and are spoken to: input, signals, a terminal, an end from outside."""
import base64
import hashlib
import json
import subprocess
import threading

import harness
import pytest
from pace import until
from test_exec import LASTING, SLUG, Lines, data_of, memory, run


@pytest.fixture(scope="module")
def box(shared):
    """A bottle that these tests share."""
    shared.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running")
    return shared


class Live(Lines):
    """An exec with its id known, and calls to it."""

    def __init__(self, daemon, command, **fields):
        super().__init__(daemon, command, **fields)
        self.daemon = daemon
        self.lines = iter(self)
        self.id = next(self.lines)["id"]
        self.path = f"/bottles/{SLUG}/execs/{self.id}"
        self.seen = b""

    def give(self, data, query="", status=200):
        reply = self.daemon.request("POST", f"{self.path}/stdin{query}", data, {"Content-Type": "application/octet-stream"})
        assert reply.status == status, reply
        return reply.json()

    def tell(self, what, body, status=200):
        reply = self.daemon.post(f"{self.path}/{what}", body)
        assert reply.status == status, reply
        return reply.json()

    def until(self, text):
        """Reads on until its output holds this."""
        while text not in self.seen:
            line = next(self.lines)
            assert "stream" in line, (line, self.seen)
            self.seen += data_of([line])

    def end(self):
        lines = list(self.lines)
        self.seen += data_of(lines)
        return lines[-1]


def test_a_conversation(box):
    with Live(box, "while read word; do echo got $word; done; echo over", stdin="first\n", stdin_open=True) as live:
        live.until(b"got first\n")
        assert live.give(b"second\n") == {"written": 7, "stdin_open": True}
        live.until(b"got second\n")
        assert live.give(b"") == {"written": 0, "stdin_open": True}
        assert live.give(b"third\n", "?eof=true") == {"written": 6, "stdin_open": False}
        assert live.end()["exit_code"] == 0
    assert live.seen.endswith(b"got third\nover\n")


def test_much_input_of_any_bytes(box):
    piece = bytes(range(256)) * 4096
    with Live(box, "sha256sum", stdin_open=True) as live:
        for _ in range(6):
            assert live.give(piece)["written"] == len(piece)
        for _ in range(500):
            live.give(b".")  # who has read the answer may give more at once
        live.give(b"", "?eof=true")
        assert live.end()["exit_code"] == 0
    assert live.seen.split()[0].decode() == hashlib.sha256(piece * 6 + b"." * 500).hexdigest()


def test_input_does_not_wait_for_a_reader(box):
    """Output that nobody reads holds up the output."""
    with Live(box, "head -c 20000000 /dev/zero & wc -c; wait", stdin_open=True) as live:
        assert live.give(b"x" * 1000000)["written"] == 1000000
        live.give(b"", "?eof=true")
        assert live.end()["exit_code"] == 0
    assert len(live.seen) > 20000000 and b"1000000\n" in live.seen


def test_input_that_is_not_read_waits_and_ends_with_it(box):
    answers = []
    with Live(box, "sleep 60", stdin_open=True) as live:
        thread = threading.Thread(target=lambda: answers.append(live.give(b"x" * 1000000)))
        thread.start()
        assert run(box, "echo another")["stdout"] == "another\n"
        until(lambda: box.post(f"{live.path}/stdin", None).status == 409)
        assert "one at a time" in box.post(f"{live.path}/stdin", None).json()["detail"]
        assert box.delete(live.path).status == 202
        assert live.end()["signal"] == 9
        thread.join(20)
    assert answers[0]["stdin_open"] is False and 0 < answers[0]["written"] < 1000000


def test_who_takes_no_input(box):
    with Live(box, "sleep 60") as live:
        assert "stdin_open" in live.give(b"x", status=409)["detail"]
    with Live(box, "cat; sleep 60", stdin_open=True) as live:
        live.give(b"x", "?eof=true")
        assert live.give(b"x", status=409)["type"].endswith(":input-closed")
        assert live.give(b"x", "?eof=maybe", status=400)["type"].endswith(":invalid-query")
        large = box.request("POST", f"{live.path}/stdin", b"x" * (1 << 20) + b"x", {"Content-Type": "application/octet-stream"})
        assert large.status == 413
    assert box.post(f"/bottles/{SLUG}/execs/{'0' * 16}/stdin", None).status == 404
    until(lambda: box.post(f"{live.path}/stdin", None).status == 404)


def test_signals(box):
    with Live(box, "trap 'echo caught' USR1; trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done") as live:
        live.until(b"up\n")
        assert live.tell("signal", {"signal": "USR1"}) == {"id": live.id, "state": "running"}
        live.until(b"caught\n")
        live.tell("signal", {"signal": "TERM"})
        assert live.end()["exit_code"] == 3
    assert live.tell("signal", {"signal": "TERM"})["state"] == "ended"


def test_a_terminal(box):
    script = "stty size; tty; echo up; while read -r word; do stty size; echo \"<$word>\"; done"
    with Live(box, script, tty=True, rows=33, cols=111, stdin_open=True) as live:
        live.until(b"33 111\r\n")
        live.until(b"up\r\n")
        live.tell("resize", {"rows": 7, "cols": 55})
        live.give(b"hello\n")
        live.until(b"7 55\r\n<hello>\r\n")
        live.give(b"", "?eof=true")
        assert live.end()["exit_code"] == 0
    assert b"/dev/pts/" in live.seen
    result = run(box, "stty size; echo oops >&2; sleep 60", tty=True, timeout_seconds=1)
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("24 80\r\noops\r\n", "", 124)


def test_a_new_size_is_told(box):
    with Live(box, "trap 'stty size; exit 5' WINCH; echo up; while :; do sleep 0.05; done", tty=True) as live:
        live.until(b"up\r\n")
        live.tell("resize", {"rows": 7, "cols": 55})
        assert live.end()["exit_code"] == 5
    assert live.seen == b"up\r\n7 55\r\n"


def test_interrupt_by_a_terminal(box):
    with Live(box, "echo up; sleep 60", tty=True, stdin_open=True) as live:
        live.until(b"up\r\n")
        live.give(b"\x03")
        end = live.end()
    assert end["signal"] == 2 or end["exit_code"] == 130, end


def test_kill_of_a_detached_one(box):
    command = ["sh", "-c", "sleep 60 & sleep 60"]
    path = box.post(f"/bottles/{SLUG}/exec", {"command": command, "detach": True}).headers["Location"]
    assert box.delete(path).status == 202
    until(lambda: box.get(path).json()["state"] == "ended")
    assert box.get(path).json()["signal"] == 9
    assert box.delete(path).status == 200, "once more does no harm"
    assert box.delete(f"/bottles/{SLUG}/execs/{'0' * 16}").status == 404


BAD = [
    ("exec", {"command": ["true"], "detach": True, "stdin_open": True}, {"/stdin_open": "unsupported"}),
    ("exec", {"command": ["true"], "tty": 1, "rows": 0, "cols": 65536},
     {"/tty": "wrong-type", "/rows": "out-of-range", "/cols": "out-of-range"}),
    ("signal", {}, {"/signal": "required"}),
    ("signal", {"signal": "SEGVX"}, {"/signal": "unknown-value"}),
    ("signal", {"signal": "SIGINT"}, {"/signal": "unknown-value"}),
    ("signal", {"signal": 9}, {"/signal": "wrong-type"}),
    ("signal", {"signal": "TERM", "x": 1}, {"/x": "unknown-field"}),
    ("resize", {"rows": 1}, {"/cols": "required"}),
    ("resize", {"rows": 0, "cols": "a"}, {"/rows": "out-of-range", "/cols": "wrong-type"}),
]


@pytest.mark.parametrize("call, body, faults", BAD, ids=[f"{bad[0]} {bad[1]}"[:60] for bad in BAD])
def test_bad_bodies(box, call, body, faults):
    reply = box.post(f"/bottles/{SLUG}/exec" if call == "exec" else f"/bottles/{SLUG}/execs/{'0' * 16}/{call}", body)
    assert reply.status == 422 and reply.json()["type"].endswith(":invalid-exec"), reply
    assert {fault["pointer"]: fault["code"] for fault in reply.json()["errors"]} == faults


def test_whole_answers_do_not_multiply(box):
    """Escaped, a NUL takes six bytes: the answer of 6 MiB of them has 36 MiB, of which little is there at once."""
    before = memory(box.pid)
    ask = {"command": ["sh", "-c", "head -c 6291456 /dev/zero; printf '\\351' >&2"], "max_output_bytes": 8388608}
    reply = box.post(f"/bottles/{SLUG}/exec", ask)
    assert reply.json()["stdout"] == "\0" * 6291456 and reply.json()["truncated"] is False
    assert base64.b64decode(reply.json()["stderr_base64"]) == b"\xe9"
    assert memory(box.pid) - before < 24 << 20


def test_all_together_are_bounded(box):
    body = {"command": ["sleep", "60"], "max_output_bytes": 8388608}
    replies, threads = [], []
    for _ in range(36):
        threads.append(threading.Thread(target=lambda: replies.append(box.post(f"/bottles/{SLUG}/exec", {**body, "timeout_seconds": 2}))))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    refused = [reply for reply in replies if reply.status == 503]
    assert len(replies) == 36 and 1 <= len(refused) <= 6, [reply.status for reply in replies]
    assert all(reply.json()["type"].endswith(":too-many-execs") for reply in refused)
    assert run(box, "exit 0", max_output_bytes=8388608)["exit_code"] == 0


def test_the_lines_of_the_readme(box, tmp_path):
    """With curl, a pipe at its input."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 16384)
    with Live(box, "sha256sum", stdin_open=True) as live:
        where = f"{live.path}/stdin"
        script = (f"split -b 1M --filter='curl -sS --fail --unix-socket {box.socket} --data-binary @- http://x{where}' file && "
                  f"curl -sS --fail --unix-socket {box.socket} -X POST 'http://x{where}?eof=true'")
        subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=60)
        assert live.end()["exit_code"] == 0
    assert live.seen.split()[0].decode() == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    body = json.dumps({"command": ["sh", "-c", "echo one; echo two"]})
    status, lines = box.curl("-N", "-H", "Accept: application/x-ndjson", "-d", body, f"http://x/bottles/{SLUG}/exec")
    assert status == 200 and json.loads(lines.splitlines()[-1])["exit_code"] == 0


def test_a_bottle_that_ends_takes_them_along(daemon):
    daemon.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running")
    with Live(daemon, "sleep 1000", stdin_open=True) as live, harness.Clock() as clock:
        daemon.post(f"/bottles/{SLUG}/stop?grace=1s&wait=stopped")
        end = live.end()
    assert end["exit_code"] is None and end["reason"] and clock.seconds < 30, end
