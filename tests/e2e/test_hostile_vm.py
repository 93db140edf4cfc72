"""A VM process that was taken over: what it can still do to its supervisor and to bottled.

A program of the test's own stands for QEMU, in QEMU's jail, and speaks the agent's protocol as it likes.
"""
import harness
import pytest
import vm_program

PRELUDE = vm_program.AGENT + '''HELLO, STARTED, OUTPUT, EXIT, FAILED, POWEROFF = 1, 2, 3, 4, 5, 66
send(HELLO, struct.pack("<I", PROTOCOL_VERSION))
FIRST = take()
'''
PLAN = {"backend": "qemu", "slug": "taken", "command": ["true"]}


@pytest.fixture(params=harness.USERS)
def taken_over(request, new_daemon):
    """Starts bottled with a QEMU that runs this program."""

    def start(program, **config):
        one = new_daemon(uid=harness.USERS[request.param])
        tools = one.base / "tools"
        tools.mkdir()
        qemu = tools / "qemu-system-x86_64"
        qemu.write_text(PRELUDE + program)
        qemu.chmod(0o755)
        tools.chmod(0o755)
        one.config |= {"tools_path": str(tools), **config}
        return one.start()

    return start


def test_words_that_are_not_utf8_are_still_told(taken_over):
    daemon = taken_over("send(STARTED)\nsend(EXIT, struct.pack('<II', 3, 0) + b'caf\\xe9 \\xff')\ntake()\n")
    bottle = daemon.run(PLAN)
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 3), bottle
    assert bottle["reason"] == "caf\ufffd \ufffd"


def test_a_failure_in_words_that_are_not_utf8(taken_over):
    daemon = taken_over("send(STARTED)\nsend(FAILED, b'\\xff' * 600)\ntake()\n")
    bottle = daemon.run({**PLAN})
    assert bottle["state"] == "failed" and "the guest: \ufffd" in bottle["reason"], bottle


def test_started_after_exit_does_not_lift_the_deadline(taken_over):
    daemon = taken_over("send(EXIT, struct.pack('<II', 3, 0))\nsend(STARTED)\ntime.sleep(600)\n")
    bottle = daemon.run(PLAN)
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 3), bottle


def test_a_flood_of_output_can_be_stopped(taken_over):
    daemon = taken_over("send(STARTED)\nwhile True:\n    send(OUTPUT, b'\\1' + b'x' * 60000)\n")
    daemon.create(PLAN, "?start=true&wait=running")
    assert daemon.post("/bottles/taken/stop?grace=1s&wait=stopped&timeout=20s").status == 200


TREE = """
os.chdir("/run/bottle")
os.makedirs("locked/inner")
os.mkdir("locked/sock.d")
try:
    os.symlink("/", "locked/root")
    sys.exit("a link could be made")
except PermissionError:
    pass  # the jail's filter
os.chmod("locked/inner", 0)
os.chmod("locked", 0)
for _ in range(DEPTH):
    os.mkdir("d")
    os.chdir("d")
send(STARTED)
time.sleep(600)
"""


@pytest.mark.parametrize("depth", [10, 3000])
def test_what_it_leaves_behind_can_be_removed(taken_over, depth):
    daemon = taken_over(TREE.replace("DEPTH", str(depth)))
    daemon.create(PLAN, "?start=true&wait=running")
    run_dir = daemon.run_dir / "b"
    assert any(run_dir.iterdir())
    plan = daemon.remove("taken")
    assert all(item["outcome"] != "failed" for item in plan["items"])
    assert not any(run_dir.iterdir())


# --- Its part of an egress report ----------------------------------------------------------------


SILENT = "send(STARTED)\nwhile True:\n    take()\n"
LIAR = """
send(STARTED)
kind, payload = take()
assert kind == 67, kind
head = payload[:4]
for number in range(256):
    send(6, head + bytes([number, 1]) + b'fine \\xff\\n')
    send(6, head + bytes([number, 0]) + b'not fine')
    send(6, struct.pack('<I', 999) + bytes([number, 0]) + b'another report')
send(7, struct.pack('<I', 999))
send(7, head)
send(6, head + bytes([0, 0]))
send(7, head)
take()
"""
FLOOD = """
send(STARTED)
kind, payload = take()
while True:
    send(6, payload[:4] + bytes([0, 1]) + b'x' * 120)
"""


def told(daemon):
    reply = daemon.post("/bottles/taken/egress-report", timeout=20)
    assert reply.status == 200, reply
    return {check["name"]: check for check in reply.json()["checks"]}, reply.json()["passed"]


def test_a_guest_that_does_not_answer_has_failed(taken_over):
    """Ten seconds are never passed, and what the host sees by itself is still told."""
    daemon = taken_over(SILENT)
    daemon.create(PLAN, "?start=true&wait=running")
    with harness.Clock() as clock:
        checks, passed = told(daemon)
    assert not passed and clock.seconds < 10
    assert (checks["public"]["got"], checks["public"]["passed"]) == ("the guest did not say", False)
    assert checks["gvproxy-network"]["passed"] and checks["gvproxy-rights"]["passed"]
    assert daemon.bottle("taken")["state"] == "running"


def test_a_guest_that_lies_about_itself(taken_over):
    """It may say that it is well; it can't add checks, take back its first word, or hurt by its words."""
    daemon = taken_over(LIAR)
    daemon.create(PLAN, "?start=true&wait=running")
    checks, passed = told(daemon)
    assert passed and checks["public"]["got"] == "fine ??", checks
    assert len(checks) == 21
    assert daemon.bottle("taken")["state"] == "running"


def test_a_flood_of_checks(taken_over):
    daemon = taken_over(FLOOD)
    daemon.create(PLAN, "?start=true&wait=running")
    checks, passed = told(daemon)
    assert not passed and checks["proxy-name"]["passed"] and checks["public"]["got"] == "the guest did not say"
    with harness.Clock() as clock:
        assert daemon.get("/bottles/taken").status == 200
    assert clock.seconds < 1
    assert daemon.post("/bottles/taken/stop?grace=0s&wait=stopped&timeout=20s").status == 200


@pytest.mark.parametrize("frame", ["6, b'\\0' * 5", "6, b'\\0' * 127", "6, b'\\0\\0\\0\\0\\0\\2'", "7, b''", "7, b'12345'", "67, b'12345'",
                                   "10, b'123'", "10, b'x' * 305", "11, b''", "11, b'\\3words'"])
def test_a_malformed_frame_ends_the_bottle(taken_over, frame):
    daemon = taken_over(f"send(STARTED)\nsend({frame})\ntime.sleep(600)\n")
    daemon.create(PLAN, "?start=true")
    bottle = daemon.wait("taken", "failed")
    assert bottle["state"] == "failed" and "protocol" in bottle["reason"], bottle


STREAMS = """send(STARTED)
for number in range(1000000):
    send({kind}, struct.pack("<I", number) + {rest})
time.sleep(600)
"""


@pytest.mark.parametrize("kind, rest", [(8, "b'\\1x'"), (9, "bytes(9)"), (80, "bytes([0, 1, 0, 0])")])
def test_a_million_streams_that_nobody_asked_for(taken_over, kind, rest):
    daemon = taken_over(STREAMS.format(kind=kind, rest=rest))
    daemon.create(PLAN, "?start=true")
    bottle = daemon.wait("taken", "failed")
    assert bottle["state"] == "failed" and "protocol" in bottle["reason"], bottle
    assert daemon.get("/healthz").status == 200


# --- Its secrets, and what it says happened -------------------------------------------------------


KEEPER = """
(first, payload), (second, start) = first_frame, take()
assert (first, second) == (72, 64), (first, second)
assert struct.unpack("<III", payload[:12]) == (0, 0, 1) and payload[12:].startswith(b"A=") and payload.endswith(b"\\0"), payload
send(STARTED)
send(10, struct.pack("<I", 0) + b"nobody asked")
kind, payload = take()
assert kind == 72 and struct.unpack("<II", payload[:8]) == (1, 1), payload
send(10, struct.pack("<I", 99) + b"another one")
send(10, payload[:4] + b"no \\xff room")
send(10, payload[:4])
kind, payload = take()
send(10, payload[:4])
take()
"""


def test_a_guest_that_does_not_take_its_secrets(taken_over):
    daemon = taken_over("first_frame = FIRST\n" + KEEPER, secret_env="HOME")
    plan = {**PLAN, "secrets": {"A": {"from_env": "HOME"}}, "reload_signal": "HUP"}
    daemon.create(plan, "?start=true&wait=running")
    reply = daemon.post("/bottles/taken/secrets/reload")
    assert (reply.status, reply.problem) == (500, "secrets-not-applied") and "no \ufffd room" in reply.json()["detail"], reply
    reply = daemon.post("/bottles/taken/secrets/reload")
    assert (reply.status, reply.json()) == (200, {"secrets": ["A"], "signal": "HUP"})
    assert daemon.bottle("taken")["state"] == "running"


def test_a_flood_of_events(taken_over):
    daemon = taken_over("send(STARTED)\nfor n in range(200000):\n    send(11, b'\\1' + b'w\\xff\\n' * 300)\ntake()\n")
    daemon.create(PLAN, "?start=true&wait=running")
    with harness.Clock() as clock:
        assert daemon.post("/bottles/taken/stop?grace=2s&wait=stopped&timeout=30s").status == 200
    told = daemon.get("/events?slug=taken&type=guest.out-of-memory").json()["events"]
    assert 1 <= len(told) <= 2 + clock.seconds, told
    assert told[0]["detail"]["reason"].startswith("w\ufffd?w") and len(told[0]["detail"]["reason"]) < 300
