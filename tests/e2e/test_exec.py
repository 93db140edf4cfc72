"""Programs beside a bottle's command, over HTTP: POST /bottles/{slug}/exec, in one answer and as it happens."""
import base64
import contextlib
import hashlib
import json
import re
import threading

import harness
import pace
import processes as processes_of
import pytest
import raw

LASTING = ["sh", "-c", "while :; do sleep 1000 & wait $!; done"]
SLUG = "box"
LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def box(shared):
    """A bottle that these tests share."""
    shared.create({"slug": SLUG, "command": LASTING, "env": {"FROM_PLAN": "plan", "BOTH": "plan"}, "workdir": "/work"}, "?start=true&wait=running")
    return shared


def run(daemon, command, slug=SLUG, status=200, **fields):
    command = ["sh", "-c", command] if isinstance(command, str) else command
    reply = daemon.post(f"/bottles/{slug}/exec", {"command": command, **fields}, timeout=100)
    assert reply.status == status, reply
    return reply.json()


class Lines:
    """An exec as it happens: `for line in lines`; leaves when closed."""

    def __init__(self, daemon, command, slug=SLUG, timeout=60, **fields):
        command = ["sh", "-c", command] if isinstance(command, str) else command
        self.connection = harness.UnixConnection(str(daemon.socket), timeout)
        self.connection.request("POST", f"/bottles/{slug}/exec", json.dumps({"command": command, **fields}),
                                {"Content-Type": "application/json", **LINES})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "application/x-ndjson"

    def __iter__(self):
        while line := self.response.readline():
            yield json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def data_of(lines, stream="stdout"):
    parts = [line for line in lines if line.get("stream") == stream]
    return b"".join(part["data"].encode() if "data" in part else base64.b64decode(part["base64"]) for part in parts)


ENDS = [
    ("exit 0", {"exit_code": 0, "signal": None, "timed_out": False, "reason": None}),
    ("exit 1", {"exit_code": 1}),
    ("exit 255", {"exit_code": 255}),
    (["/nowhere/to/be/found"], {"exit_code": 127}),
    (["no-such-program"], {"exit_code": 127, "signal": None}),
    (["/etc/hosts"], {"exit_code": 126}),
    ("kill -9 $$", {"exit_code": 137, "signal": 9, "timed_out": False}),
    ("kill -15 $$", {"exit_code": 143, "signal": 15}),
]


@pytest.mark.parametrize("command, expected", ENDS, ids=[str(end[0]) for end in ENDS])
def test_how_it_ends(box, command, expected):
    result = run(box, command)
    assert {name: result[name] for name in expected} == expected, result
    assert (result["reason"] is None) == (result["exit_code"] not in (126, 127)), result


def test_streams_environment_and_folder(box):
    result = run(box, 'pwd; echo "$FROM_PLAN $BOTH $MINE" >&2', env={"BOTH": "exec", "MINE": " a\n'b\" "})
    assert (result["stdout"], result["stderr"]) == ("/work\n", "plan exec  a\n'b\" \n")
    assert run(box, "pwd", workdir="/made/anew")["stdout"] == "/made/anew\n"
    assert run(box, 'printf "%s|" "$@"', status=200)["stdout"] == "|"
    words = ["printf", "%s|", "", " ", "a b", "$HOME", "*", "\u00e9\U0001f37e"]
    assert run(box, words)["stdout"] == "|".join(words[2:]) + "|"


def test_input(box):
    assert run(box, "cat; echo over", stdin="")["stdout"] == "over\n"
    assert run(box, "cat; echo over")["stdout"] == "over\n", "without input it reads nothing"
    text = "".join(f"line {n} \u00e9\n" for n in range(20000))
    result = run(box, "sha256sum", stdin=text)
    assert result["stdout"].split()[0] == hashlib.sha256(text.encode()).hexdigest()
    assert run(box, "head -n 1; exit 3", stdin=text)["exit_code"] == 3, "it need not read all"


def test_time_is_up(box):
    with harness.Clock() as clock:
        result = run(box, "echo begun; sleep 1000 & sleep 1000", timeout_seconds=1)
    assert (result["exit_code"], result["timed_out"], result["stdout"]) == (124, True, "begun\n")
    assert 1 <= clock.seconds < 5
    assert not processes(box, "sleep 1000$", count=2), "the whole group"


def processes(daemon, pattern, count):
    """The guest's processes that match: those of the command are expected in any case."""
    listed = run(daemon, ["ps", "-o", "stat,args"])["stdout"].splitlines()
    found = [line for line in listed if re.search(pattern, line)]
    return found if len(found) >= count else []


def test_output_is_bounded(box):
    result = run(box, "head -c 300000 /dev/zero | tr '\\0' x; echo e >&2", max_output_bytes=100000)
    assert (result["stdout"], result["truncated"], result["stderr"], result["exit_code"]) == ("x" * 100000, True, "e\n", 0)
    assert run(box, "echo x", max_output_bytes=2)["truncated"] is False
    cut = run(box, "printf '\u00e9\u00e9'", max_output_bytes=3)
    assert (cut["stdout"], cut["truncated"]) == ("\u00e9", True), "not in the middle of a letter"
    assert run(box, "echo x", max_output_bytes=0)["stdout"] == ""


def test_bytes_that_are_no_text(box):
    result = run(box, "printf 'a\\377b'; printf 'ok\\0ok' >&2")
    assert base64.b64decode(result["stdout_base64"]) == b"a\xffb" and "stdout" not in result
    assert result["stderr"] == "ok\0ok"


def test_lines_as_they_happen(box):
    with Lines(box, "echo one; read x; echo two >&2; exit 5", stdin="") as lines:
        found = list(lines)
    assert re.fullmatch("[0-9a-f]{16}", found[0]["id"])
    assert found[1:-1] == [{"stream": "stdout", "data": "one\n"}, {"stream": "stderr", "data": "two\n"}]
    assert found[-1] == {"id": found[0]["id"], "exit_code": 5, "signal": None, "timed_out": False, "reason": None}
    with Lines(box, "echo begun; while :; do sleep 1; done") as lines:
        begun = iter(lines)
        next(begun)
        assert next(begun) == {"stream": "stdout", "data": "begun\n"}, "before its end"


def test_letters_that_a_frame_cuts(box):
    with Lines(box, "n=0; while [ $n -lt 300 ]; do printf '\\303'; printf '\\251'; n=$((n+1)); done; printf '\\303'") as lines:
        found = list(lines)
    assert data_of(found) == b"\xc3\xa9" * 300 + b"\xc3"
    odd = [line for line in found if "base64" in line]
    assert len(odd) == 1 and base64.b64decode(odd[0]["base64"]) == b"\xc3", "only what never became one"


def test_a_client_that_leaves_ends_it(box):
    with Lines(box, "echo $$; while :; do sleep 1; done") as lines:
        begun = iter(lines)
        next(begun)
        pid = next(begun)["data"].strip()
        assert run(box, f"kill -0 {pid}")["exit_code"] == 0
    pace.until(lambda: run(box, f"kill -0 {pid} 2>/dev/null")["exit_code"] == 1)


def test_detached(box):
    reply = box.post(f"/bottles/{SLUG}/exec", {"command": ["sh", "-c", "cat >/tmp/left; sleep 0.3; exit 4"], "detach": True, "stdin": "kept"})
    assert reply.status == 202, reply
    identity = reply.json()["id"]
    where = reply.headers["Location"]
    assert where == f"/bottles/{SLUG}/execs/{identity}"
    assert box.get(where).json() == {"id": identity, "state": "running"}
    pace.until(lambda: box.get(where).json()["state"] == "ended")
    assert box.get(where).json() == {"id": identity, "state": "ended", "exit_code": 4, "signal": None, "timed_out": False, "reason": None}
    assert run(box, "cat /tmp/left")["stdout"] == "kept"
    events = box.get(f"/events?slug={SLUG}&type=exec.finished&limit=1000").json()["events"]
    assert [event["detail"]["exit_code"] for event in events if event["detail"]["id"] == identity] == [4]
    assert box.get(f"/bottles/{SLUG}/execs/{'0' * 16}").status == 404
    assert box.get(f"/bottles/{SLUG}/execs/UPPER").status == 404


def test_64_at_once(box):
    results = {}

    def one(number):
        results[number] = run(box, f"echo {number}; cat; exit {number}", stdin=f"in {number}\n")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(pace.stretched(100))
    assert {number: (r["exit_code"], r["stdout"]) for number, r in results.items()} == {
        number: (number, f"{number}\nin {number}\n") for number in range(64)
    }


def test_the_65th_is_told(box):
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(Lines(box, "echo up; exec sleep 1000")) for _ in range(64)]
        for lines in many:
            begun = iter(lines)
            next(begun)
            next(begun)
        result = run(box, "exit 0")
        assert result["exit_code"] is None and "too many" in result["reason"], result
    pace.until(lambda: run(box, "exit 0")["exit_code"] == 0)


AMOUNT = 20 << 20


def test_a_flood_while_another_is_blocked(box):
    """A reader that does not read stops its own program only; what streams is all there, and not kept in memory."""
    with Lines(box, f"head -c {AMOUNT} /dev/zero") as blocked, Lines(box, ["sleep", "60"], stdin="x" * 1000000):
        before = memory(box.pid)
        digest, count = hashlib.sha256(), 0
        with Lines(box, f"yes 0123456789abcde | head -c {AMOUNT}") as lines:
            for line in lines:
                if "stream" in line:
                    digest.update(line["data"].encode())
                    count += len(line["data"])
        assert line["exit_code"] == 0 and count == AMOUNT
        assert digest.hexdigest() == hashlib.sha256(b"0123456789abcde\n" * (AMOUNT // 16)).hexdigest()
        assert memory(box.pid) - before < 8 << 20
        assert len(data_of(blocked)) == AMOUNT, "it was only waiting"


def memory(pid):
    """Of a program with a sanitizer it says nothing, since that keeps what was freed: 0."""
    if harness.SANITIZED:
        return 0
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) << 10


def test_nothing_is_left_in_the_guest(box):
    def many():
        for _ in range(5):
            ends.append(run(box, ["sh", "-c", "sleep 0.1 &"])["exit_code"])

    ends, threads = [], [threading.Thread(target=many) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(pace.stretched(100))
    assert ends == [0] * 100
    pace.until(lambda: not processes(box, r"^Z|sleep 0[.]1$", count=1))


def test_bottled_restarts_meanwhile(daemon):
    daemon.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running")
    with Lines(daemon, "echo begun; read x </tmp/go 2>/dev/null; while [ ! -e /tmp/go ]; do sleep 0.1; done; yes | head -c 1000000; exit 6") as lines:
        begun = iter(lines)
        identity = next(begun)["id"]
        next(begun)
        daemon.kill()
        with contextlib.suppress(OSError, ValueError, harness.http.client.HTTPException):
            assert not [line for line in begun if "exit_code" in line], "a stream that broke does not look like an end"
    daemon.start()
    assert daemon.get(f"/bottles/{SLUG}/execs/{identity}").json()["state"] == "running"
    run(daemon, "touch /tmp/go")
    pace.until(lambda: daemon.get(f"/bottles/{SLUG}/execs/{identity}").json()["state"] == "ended")
    assert daemon.get(f"/bottles/{SLUG}/execs/{identity}").json()["exit_code"] == 6


def test_what_bottled_cuts_is_not_taken_for_whole(daemon):
    """It ends while a program runs: neither form of the answer comes to an end by itself."""
    daemon.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running")
    body = json.dumps({"command": ["sh", "-c", "echo begun; sleep 1000"]}).encode()
    head = b"POST /bottles/%b/exec HTTP/1.1\r\nHost: x\r\nAccept: %%b\r\nContent-Length: %d\r\n\r\n" % (SLUG.encode(), len(body))
    with raw.Wire(daemon.socket) as lines, raw.Wire(daemon.socket) as whole:
        lines.send(head % b"application/x-ndjson" + body).until(b"begun")
        whole.send(head % b"application/json" + body).until(b"\r\n\r\n")
        daemon.stop()
        for wire in (lines, whole):
            while wire.more():
                pass
            assert not wire.left.endswith(b"0\r\n\r\n"), wire.left
    daemon.start()


def test_a_vm_that_dies_is_no_exit(daemon):
    daemon.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running")
    with Lines(daemon, "echo begun; while :; do sleep 1; done") as lines:
        begun = iter(lines)
        next(begun)
        next(begun)
        processes_of.end_processes(daemon.processes_named("qemu-system-x86_64"))
        last = list(begun)[-1]
    assert last["exit_code"] is None and last["reason"], last
    daemon.wait(SLUG, "failed")
    reply = daemon.post(f"/bottles/{SLUG}/exec", {"command": ["true"]})
    assert reply.status == 409 and reply.json()["type"].endswith("wrong-state"), reply
    assert daemon.get(f"/bottles/{SLUG}/execs/{'0' * 16}").status == 409


def test_where_there_is_none(daemon):
    assert daemon.post("/bottles/nobody/exec", {"command": ["true"]}).status == 404
    daemon.create({"slug": SLUG, "command": ["true"]})
    assert daemon.post(f"/bottles/{SLUG}/exec", {"command": ["true"]}).status == 409


BAD = [
    ({}, {"/command": "required"}),
    ({"command": []}, {"/command": "too-short"}),
    ({"command": [""]}, {"/command/0": "too-short"}),
    ({"command": "true"}, {"/command": "wrong-type"}),
    ({"command": ["a\0b"]}, {"/command/0": "pattern"}),
    ({"command": ["true"], "workdir": "tmp"}, {"/workdir": "pattern"}),
    ({"command": ["true"], "workdir": "/a/../b"}, {"/workdir": "pattern"}),
    ({"command": ["true"], "env": {"1A": ""}}, {"/env/1A": "pattern"}),
    ({"command": ["true"], "stdin": 1}, {"/stdin": "wrong-type"}),
    ({"command": ["true"], "timeout_seconds": 0}, {"/timeout_seconds": "out-of-range"}),
    ({"command": ["true"], "max_output_bytes": 8388609, "stdio": 1}, {"/max_output_bytes": "out-of-range", "/stdio": "unknown-field"}),
]


@pytest.mark.parametrize("body, faults", BAD, ids=[str(bad[0])[:60] for bad in BAD])
def test_bad_bodies(box, body, faults):
    reply = box.post(f"/bottles/{SLUG}/exec", body)
    assert reply.status == 422 and reply.json()["type"].endswith("invalid-exec"), reply
    assert {fault["pointer"]: fault["code"] for fault in reply.json()["errors"]} == faults


def test_it_can_not_be_given_so(box):
    reply = box.request("POST", f"/bottles/{SLUG}/exec", {"command": ["true"]}, headers={"Accept": "text/html"})
    assert reply.status == 406


def test_its_input_and_environment_are_in_no_log(box):
    run(box, "cat", stdin="a-word-of-the-input", env={"HIDDEN": "a-word-of-the-environment"})
    assert "a-word-of-the" not in box.output.text()
    for stream in ("shim", "console", "command", "vmm"):
        assert "a-word-of-the" not in box.log(SLUG, stream)
