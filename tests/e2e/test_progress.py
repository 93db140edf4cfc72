"""A start as it goes: POST /bottles and …/start with Accept: application/x-ndjson."""
import base64
import http.client
import json

import harness

LINES = {"Accept": "application/x-ndjson"}
RUN = "?start=true&wait=exited"


class Lines:
    """The answer to a POST, line by line."""

    def __init__(self, daemon, path, body=None, status=201):
        self.connection = harness.UnixConnection(str(daemon.socket), 100)
        text = None if body is None else json.dumps(body)
        headers = {**LINES, "Content-Type": "application/json"} if body else LINES
        self.connection.request("POST", path, body=text, headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == status, self.response.read()
        assert self.response.headers["Content-Type"] == "application/x-ndjson"

    def __iter__(self):
        return (json.loads(line) for line in self.response)

    def until(self, words):
        """Reads on until the command has printed that; the lines."""
        found = []
        for line in self:
            found.append(line)
            if words in printed(found):
                return found
        raise AssertionError(found)

    def close(self):
        self.response.close()
        self.connection.close()


def printed(lines):
    pieces = [line["data"].encode() if "data" in line else base64.b64decode(line["base64"]) for line in lines if "stream" in line]
    return b"".join(pieces)


def states(lines):
    return [line["state"] for line in lines if "state" in line]


def test_a_run_live(daemon):
    """Lines as they come, states in order, what was printed before the end, the exit code last."""
    script = "printf 'one\\377\\n'; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo two; printf 'no line end é'; exit 3"
    lines = Lines(daemon, f"/bottles{RUN}&timeout=90s", {"slug": "live", "command": ["sh", "-c", script]})
    assert lines.response.headers["Location"] == "/bottles/live"
    found = lines.until(b"one\xff\n")
    assert states(found) == ["prepared", "starting", "running"]
    assert "exit_code" not in found[0]
    # Another one that waits for the same run sees the same; a third leaves, and nothing comes of it.
    other = Lines(daemon, "/bottles/live/start?wait=exited", status=200)
    third = Lines(daemon, "/bottles/live/start?wait=exited", status=200)
    for one in (other, third):
        assert next(iter(one))["state"] == "running"
    third.close()
    assert daemon.bottle("live")["state"] == "running"
    assert daemon.post("/bottles/live/exec", {"command": ["touch", "/tmp/go"]}).status == 200
    rest = list(lines)
    assert printed(found + rest) == b"one\xff\ntwo\nno line end \xc3\xa9"
    assert states(rest) == ["stopping", "exited"]
    assert {k: rest[-1][k] for k in ("slug", "state", "exit_code", "reason")} == {
        "slug": "live", "state": "exited", "exit_code": 3, "reason": daemon.bottle("live")["reason"]}
    assert [line for line in found + rest if "exit_code" in line] == rest[-1:]
    assert list(other)[-1] == rest[-1]
    # Started again: what it printed in its first life is not said again.
    again = list(Lines(daemon, "/bottles/live/start?wait=running", status=200))
    assert states(again) == ["starting", "running"] and again[-1]["exit_code"] is None
    short = list(Lines(daemon, "/bottles/live/start?wait=exited&timeout=100ms", status=200))
    assert short[-1]["problem"]["status"] == 504 and short[-1]["state"] == "running" and short[-1]["exit_code"] is None
    assert printed(again + short).count(b"one") <= 1, "its second life may have said it by now"
    assert daemon.bottle("live")["state"] == "running", "it lives on"
    lines = Lines(daemon, "/bottles/live/start?wait=exited", status=200)
    assert next(iter(lines))["state"] == "running"
    daemon.remove("live")
    last = list(lines)[-1]
    # Its end and its removal are told apart only by which was seen first.
    assert last["exit_code"] is None and (last["state"] in ("stopped", "exited", "failed") or last["problem"]["status"] == 404)


def test_problems_before_any_line(shared):
    for path, body, status, problem in (
        (f"/bottles{RUN}", {"command": []}, 422, "invalid-plan"),
        (f"/bottles{RUN}", {"command": ["true"], "image": "oci:/nowhere"}, 422, "image-not-imported"),
        ("/bottles?start=true", {"command": ["true"]}, 406, "not-acceptable"),
        ("/bottles/nobody/start?wait=exited", None, 404, "not-found"),
        ("/bottles/nobody/start", None, 406, "not-acceptable"),
    ):
        reply = shared.post(path, body, headers=LINES)
        assert (reply.status, reply.problem) == (status, problem), reply
    assert shared.get("/bottles").json()["bottles"] == []
    assert shared.post("/bottles", {"slug": "plain", "command": ["true"]}).status == 201


def test_one_that_does_not_boot_stays_with_its_logs(new_daemon):
    daemon = new_daemon(config={"boot_timeout": "1s"})
    harness.Daemon.templates, kept = None, harness.Daemon.templates
    try:
        daemon.start()
    finally:
        harness.Daemon.templates = kept
    found = list(Lines(daemon, f"/bottles{RUN}", {"slug": "fails", "command": ["true"]}))
    last = found[-1]
    assert states(found)[-1] == "failed" and last["exit_code"] is None and last["reason"]
    assert last["problem"]["type"].endswith("boot-failed") and "console" in last["problem"]
    assert daemon.bottle("fails")["state"] == "failed"


def test_a_client_that_does_not_read(new_daemon):
    """It slows nobody, memory is bounded, and it is told that lines are missing."""
    daemon = new_daemon(config={"log_bytes": 65536}).start()
    script = "echo begin; head -c 6000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo end"
    lines = Lines(daemon, f"/bottles{RUN}&timeout=100s", {"slug": "chatty", "command": ["sh", "-c", script]})
    found = lines.until(b"begin")
    before = resident_kib(daemon.pid)
    assert daemon.wait("chatty", "exited", timeout=90)["exit_code"] == 0
    assert harness.SANITIZED or resident_kib(daemon.pid) - before < 2048
    found += list(lines)
    text = printed(found)
    assert b"[bottled: the log was rotated faster than it was read" in text
    assert text.endswith(b"end\n") and len(text) < 3000000
    assert found[-1]["exit_code"] == 0


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_the_daemons_end_cuts_it(daemon):
    """Without its last line it can not be taken for whole; the bottle runs on."""
    lines = Lines(daemon, f"/bottles{RUN}", {"slug": "kept", "command": ["sh", "-c", "echo hi; exec sleep 1000"]})
    lines.until(b"hi")
    daemon.stop()
    try:
        rest = lines.response.read()
        raise AssertionError(f"it ended as if it were whole: {rest}")
    except http.client.IncompleteRead:
        pass
    daemon.start()
    assert daemon.bottle("kept")["state"] == "running"
