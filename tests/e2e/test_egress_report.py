"""The egress report: passes on a good bottle, fails on a broken one, and disturbs nobody."""
import concurrent.futures

import control
import harness
import pytest
from test_patch import LASTING

# Counts once a second, so that a pause or a signal would show.
COUNTING = ["sh", "-c", "trap 'echo caught' HUP INT TERM USR1; n=0; while :; do echo $n; n=$((n+1)); sleep 1; done"]
INSIDE = {"proxy-name", "other-name", "name-text", "dns-elsewhere", "gateway-ssh", "gateway-api", "public", "private-10",
          "private-172", "private-192", "shared-100", "metadata", "ipv6", "proxy-address", "proxy-denied", "forward-8888"}


def report(daemon, slug, status=200):
    reply = daemon.post(f"/bottles/{slug}/egress-report")
    assert reply.status == status, reply
    return reply.json()


def failed(told):
    return {check["name"]: check["got"] for check in told["checks"] if not check["passed"]}


@pytest.mark.backends
def test_good_bottle(any_user_daemon, canaries):
    daemon = any_user_daemon
    daemon.create({"slug": "good", "command": COUNTING}, "?start=true&wait=running")
    control.follow(daemon, "good", b"1\n")
    hits = len(canaries.hits)
    with harness.Clock() as clock:
        told = report(daemon, "good")
    assert told["passed"] is True and failed(told) == {}, told
    assert clock.seconds < 10
    names = [check["name"] for check in told["checks"]]
    vmm = daemon.row["vmm"]
    outside = {f"{name}-{what}" for name in ("gvproxy", names[-2].rpartition("-")[0]) for what in ("rights", "network")}
    assert len(names) == len(set(names)) and INSIDE < set(names), names
    assert set(names) - INSIDE == outside | {"pipelock-rights"}, (names, vmm)
    assert all(check["tried"] and check["expected"] and check["got"] for check in told["checks"])
    assert canaries.hits[hits:] == []
    # Again, and the command never noticed.
    assert report(daemon, "good")["passed"]
    lines = control.follow(daemon, "good", b"\n9\n").splitlines()
    assert lines == [str(n) for n in range(len(lines))], lines
    assert daemon.bottle("good")["state"] == "running"


def test_its_own_denials_are_seen_as_such(daemon):
    """The plan's rules do not decide: the report asks for what no rule allows."""
    daemon.create({"slug": "wide", "command": LASTING, "egress": {"allow": ["*.example", "example.com"]}}, "?start=true&wait=running")
    assert failed(report(daemon, "wide")) == {}


def test_broken_cell(new_daemon, canaries):
    """gvproxy in the host's network, without a filter: the report says so, from inside and from outside."""
    daemon = new_daemon(config={"libexec_dir": str(harness.BUILD / "open-cell"), "guest_dir": str(harness.BUILD / "guest")}).start()
    daemon.create({"slug": "broken", "command": LASTING}, "?start=true&wait=running")
    with harness.Clock() as clock:
        told = report(daemon, "broken")
    assert told["passed"] is False and clock.seconds < 10
    wrong = failed(told)
    assert {"dns-elsewhere", "gateway-ssh", "public", "private-10", "private-172", "private-192", "shared-100", "name-text",
            "gvproxy-network", "gvproxy-rights"} <= set(wrong), wrong
    assert wrong["public"] == "connected"
    assert wrong["gvproxy-network"] == "it is in the host's network"
    assert not {"proxy-name", "forward-8888"} & set(wrong), wrong


def test_only_a_running_bottle(daemon):
    assert daemon.post("/bottles/nobody/egress-report").problem == "not-found"
    daemon.create({"slug": "idle", "command": ["true"]})
    reply = daemon.post("/bottles/idle/egress-report")
    assert (reply.status, reply.problem) == (409, "wrong-state")
    daemon.post("/bottles/idle/start?wait=exited")
    reply = daemon.post("/bottles/idle/egress-report")
    assert (reply.status, reply.problem) == (409, "wrong-state")


def test_one_at_a_time(daemon):
    daemon.create({"slug": "twice", "command": LASTING}, "?start=true&wait=running")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: daemon.post("/bottles/twice/egress-report"), range(4)))
    assert sorted(reply.status for reply in replies) == [200, 409, 409, 409], replies
    assert next(reply for reply in replies if reply.status == 200).json()["passed"]


def test_bottle_that_ends_meanwhile(daemon):
    """The request is answered at once, and the stop is not held up."""
    daemon.create({"slug": "ends", "command": LASTING}, "?start=true&wait=running")
    with concurrent.futures.ThreadPoolExecutor() as pool, harness.Clock() as clock:
        asked = pool.submit(daemon.post, "/bottles/ends/egress-report")
        daemon.wait("ends", "running")
        stopped = daemon.post("/bottles/ends/stop?grace=0s&wait=stopped")
        assert stopped.json()["state"] == "stopped"
        assert asked.result().status in (200, 409), asked.result()
    assert clock.seconds < 8


def test_what_a_supervisor_says_is_checked(fake):  # noqa: F811
    fake.start("odd")
    fake.answers("odd", report={"error": "the agent\u001b[2J is away"})
    reply = fake.daemon.post("/bottles/odd/egress-report")
    assert (reply.status, reply.problem) == (500, "report-failed") and "agent?[2J is away" in reply.json()["detail"]
    fake.answers("odd", report={"checks": []})
    assert report(fake.daemon, "odd") == {"passed": False, "checks": []}, "nothing tried is nothing proved"
    check = {"name": "n", "tried": "t" * 400, "expected": 7, "got": "\u0007", "passed": True}
    fake.answers("odd", report={"checks": [check, {"passed": 1}, 5]})
    told = report(fake.daemon, "odd")
    assert told["passed"] is False and len(told["checks"]) == 3
    assert told["checks"][0] == {"name": "n", "tried": "t" * 263, "expected": "", "got": "?", "passed": True}
    fake.answers("odd", report={"checks": [check]})
    assert report(fake.daemon, "odd")["passed"] is True


def test_restart_of_bottled_meanwhile(daemon):
    """Its answer is nobody's then, and does no harm."""
    daemon.create({"slug": "kept", "command": LASTING}, "?start=true&wait=running")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(lambda: daemon.post("/bottles/kept/egress-report"))
        daemon.wait("kept", "running")
        daemon.kill()
        assert asked.exception() is not None or asked.result().status == 200
    daemon.start()
    assert daemon.bottle("kept")["state"] == "running"
    reply = daemon.post("/bottles/kept/egress-report")
    assert reply.status in (200, 500), reply
