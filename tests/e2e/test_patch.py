"""PATCH: labels and egress change while the bottle works, in force before it is answered, or not at all."""
import concurrent.futures
import http.client
import itertools
import threading
import time

import fake_daemon
import harness
import hold
import pytest
from pace import until

MERGE = {"Content-Type": "application/merge-patch+json"}
LASTING = ["sh", "-c", "echo up; while :; do sleep 1000 & wait $!; done"]


def patch(daemon, slug, body, **headers):
    return daemon.request("PATCH", f"/bottles/{slug}", body, headers={**MERGE, **headers})


def allowed(daemon, slug):
    """What GET says is allowed, by the plan and by the proxy's file."""
    plan = daemon.get(f"/bottles/{slug}/plan").json()
    name = next(file["name"] for file in plan["files"] if file["name"].startswith(("squid", "pipelock")))
    return plan["spec"].get("egress", {}).get("allow", []), daemon.get(f"/bottles/{slug}/plan/files/{name}").text


def test_at_rest(daemon):
    """Labels and egress of a prepared bottle; the generation, the ETag, the files and the row follow."""
    daemon.create({"slug": "rest", "command": ["true"], "labels": {"a": "1", "b": "2"}})
    before = daemon.get("/bottles/rest")
    reply = patch(daemon, "rest", {"labels": {"a": None, "c": "3"}, "egress": {"allow": ["new.example"]}})
    assert reply.status == 200, reply
    bottle = reply.json()
    assert bottle["labels"] == {"b": "2", "c": "3"}
    assert bottle["generation"] == before.json()["generation"] + 1
    assert bottle["updated_at"] >= before.json()["updated_at"]
    assert reply.headers["ETag"] != before.headers["ETag"]
    allow, text = allowed(daemon, "rest")
    assert allow == ["new.example"] and "new.example" in text
    stage = daemon.state_dir / "bottles" / "rest"
    assert any(file.is_file() and "new.example" in file.read_text() for file in stage.iterdir())
    daemon.kill()
    daemon.start()
    assert daemon.bottle("rest") == bottle
    assert allowed(daemon, "rest") == (allow, text)


def test_what_is_the_same_changes_nothing(daemon):
    daemon.create({"slug": "same", "command": ["true"], "labels": {"a": "1"}})
    before = daemon.get("/bottles/same")
    for body in ({}, {"labels": {"a": "1"}}, {"labels": {"b": None}}):
        reply = patch(daemon, "same", body)
        assert (reply.status, reply.json()) == (200, before.json()), body
        assert reply.headers["ETag"] == before.headers["ETag"]


def test_null_takes_all_away(daemon):
    daemon.create({"slug": "none", "command": ["true"], "labels": {"a": "1"}, "egress": {"allow": ["x.example"]}})
    reply = patch(daemon, "none", {"labels": None, "egress": None})
    assert (reply.status, reply.json()["labels"]) == (200, {})
    allow, text = allowed(daemon, "none")
    assert allow == [] and "x.example" not in text


def test_if_match(daemon):
    daemon.create({"slug": "pinned", "command": ["true"]})
    tag = daemon.get("/bottles/pinned").headers["ETag"]
    first = patch(daemon, "pinned", {"labels": {"a": "1"}}, **{"If-Match": tag})
    assert first.status == 200
    stale = patch(daemon, "pinned", {"labels": {"a": "2"}}, **{"If-Match": tag})
    assert (stale.status, stale.problem) == (412, "precondition-failed")
    assert daemon.bottle("pinned")["labels"] == {"a": "1"}
    assert patch(daemon, "pinned", {"labels": {"a": "3"}}, **{"If-Match": "*"}).status == 200
    assert patch(daemon, "nobody", {}).status == 404


def test_a_supervisor_that_hung_up_is_asked_again(fake):
    """It does that to a daemon that stood still. The bottle runs on, and an egress under way is sent again."""
    fake.start("dropped")
    fake.answers("dropped", egress="silent")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        change = pool.submit(patch, fake.daemon, "dropped", {"egress": {"allow": ["new.example"]}})
        until(lambda: fake.heard("dropped"))
        fake.answers("dropped", egress="ok")
        fake.say("dropped", b"hang up")
        assert change.result(30).status == 200
    assert len(fake.heard("dropped")) == 2
    assert fake.daemon.bottle("dropped")["state"] == "running"
    bottle = fake.daemon.post("/bottles/dropped/stop?wait=stopped&timeout=20s").json()
    assert bottle["state"] == "stopped", bottle


def test_hanging_up_gains_no_time(fake):
    """One that does not do what it is told is killed when it would have been."""
    fake.start("deaf")
    fake.answers("deaf", stop="silent")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, harness.Clock() as clock:
        removal = pool.submit(fake.daemon.delete, "/bottles/deaf")
        until(lambda: fake.heard("deaf"))
        told = time.monotonic()
        until(lambda: time.monotonic() > told + 3)
        fake.say("deaf", b"hang up")
        assert removal.result(30).status == 200
    assert clock.seconds < 7, clock.seconds


def test_live(fake):
    """The supervisor gets rules and files, and only then the answer comes and GET shows them."""
    fake.start("live")
    before = fake.daemon.bottle("live")
    with harness.Clock() as clock:
        reply = patch(fake.daemon, "live", {"egress": {"allow": ["new.example", "*.more.example:8443"]}})
    assert reply.status == 200 and clock.seconds < 1, (reply, clock.seconds)
    assert reply.json()["generation"] == before["generation"] + 1 and reply.json()["state"] == "running"
    (heard,) = fake.heard("live")
    allow, text = allowed(fake.daemon, "live")
    assert heard["egress"]["rules"] == allow == ["new.example", "*.more.example:8443"]
    assert [file["content"] for file in heard["egress"]["files"]] == [text]


def test_labels_do_not_ask_the_supervisor(fake):
    fake.start("tagged")
    fake.answers("tagged", egress="silent")
    assert patch(fake.daemon, "tagged", {"labels": {"a": "1"}}).json()["labels"] == {"a": "1"}
    assert fake.heard("tagged") == []


def test_refused(fake):
    """A supervisor that says no runs on with the old egress, and that is what all say, after a restart as well."""
    fake.start("no")
    before = fake.daemon.bottle("no")
    fake.answers("no", egress={"error": "the proxy does not\nread it"})
    reply = patch(fake.daemon, "no", {"egress": {"allow": ["new.example"]}, "labels": {"a": "1"}})
    assert (reply.status, reply.problem) == (500, "egress-not-applied"), reply
    assert "read it" in reply.json()["detail"]
    assert fake.daemon.bottle("no") == before
    assert allowed(fake.daemon, "no")[0] == ["old.example"]
    fake.daemon.kill()
    fake.daemon.start()
    assert fake.daemon.bottle("no") == before
    assert allowed(fake.daemon, "no")[0] == ["old.example"]
    assert len(fake.heard("no")) == 1, "there was nothing to send again"
    fake.answers("no", egress="ok")
    assert patch(fake.daemon, "no", {"egress": {"allow": ["third.example"]}}).status == 200


def ask(fake, slug, allow):
    """A PATCH that may never be answered."""
    try:
        return patch(fake.daemon, slug, {"egress": {"allow": allow}}).status
    except (OSError, http.client.HTTPException):
        return None


def wait_heard(fake, slug, count):
    until = time.monotonic() + 10
    while len(fake.heard(slug)) < count:
        assert time.monotonic() < until, fake.heard(slug)
        time.sleep(0.01)


@pytest.mark.parametrize("answer", ["ok", {"error": "no"}], ids=["taken", "refused"])
def test_killed_before_the_answer(fake, answer):
    """bottled dies between the store and the supervisor's answer: the next one asks again before it is ready."""
    fake.start("cut")
    fake.answers("cut", egress="silent")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, fake, "cut", ["new.example"])
        wait_heard(fake, "cut", 1)
        assert allowed(fake.daemon, "cut")[0] == ["old.example"], "not in force, as far as is known"
        fake.answers("cut", egress=answer)
        fake.daemon.kill()
        assert asked.result() is None
    fake.daemon.start()
    first, second = fake.heard("cut")
    assert first == second
    assert allowed(fake.daemon, "cut")[0] == (["new.example"] if answer == "ok" else ["old.example"])
    fake.daemon.kill()
    fake.daemon.start()
    assert len(fake.heard("cut")) == 2, "it was settled"


def test_supervisor_died_before_the_answer(fake):
    """It ends the bottle; the new egress is stored and holds for the next start."""
    fake.start("gone")
    fake.answers("gone", egress="die")
    reply = patch(fake.daemon, "gone", {"egress": {"allow": ["new.example"]}})
    assert (reply.status, reply.json()["state"]) == (200, "failed"), reply
    assert allowed(fake.daemon, "gone")[0] == ["new.example"]
    fake.daemon.restart()
    assert allowed(fake.daemon, "gone")[0] == ["new.example"]


def test_silent_supervisor_is_ended(fake):
    """Nobody knows what it lets through. Others' requests are not held up meanwhile."""
    fake.start("mute")
    fake.answers("mute", egress="silent")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, fake, "mute", ["new.example"])
        wait_heard(fake, "mute", 1)
        with harness.Clock() as clock:
            assert fake.daemon.bottle("mute")["state"] == "running"
            other = fake.start("other")
        assert other["state"] == "running" and clock.seconds < 5
        assert asked.result() == 200
    bottle = fake.daemon.bottle("mute")
    assert bottle["state"] == "failed" and "egress" in bottle["reason"], bottle


def test_stop_and_delete_do_not_wait_for_the_answer(fake):
    for slug, verb in (("stops", lambda: fake.daemon.post("/bottles/stops/stop?wait=stopped").status),
                       ("goes", lambda: fake.daemon.delete("/bottles/goes").status)):
        fake.start(slug)
        fake.answers(slug, egress="silent")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = pool.submit(ask, fake, slug, ["new.example"])
            wait_heard(fake, slug, 1)
            with harness.Clock() as clock:
                assert verb() in (200, 202)
            assert clock.seconds < 5
            assert asked.result() in (200, 404)


def test_many_at_once(fake):
    """Each is applied whole, one after the other; the last answer's generation is what GET shows."""
    fake.start("busy")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: patch(fake.daemon, "busy", {"egress": {"allow": [f"n{n}.example"]}}), range(24)))
    assert [reply.status for reply in replies] == [200] * 24
    last = max((reply.json() for reply in replies), key=lambda bottle: bottle["generation"])
    assert fake.daemon.bottle("busy") == last
    sent = [entry["egress"]["rules"] for entry in fake.heard("busy")]
    assert len(sent) == 24 and allowed(fake.daemon, "busy")[0] == sent[-1]


def keep_patching(fake, slug, names, answered):
    """One change after the other, until nobody answers any more."""
    for name in names:
        try:
            reply = patch(fake.daemon, slug, {"egress": {"allow": [name]}})
        except (OSError, http.client.HTTPException):
            return
        assert reply.status == 200, reply
        answered.append(name)


def test_killed_at_any_instant(fake):
    """bottled dies in the middle of changes, again and again: what GET says is what the supervisor has."""
    fake.start("torn")
    names = (f"n{n}.example" for n in itertools.count())
    for wait_ms in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55):
        answered = []
        client = threading.Thread(target=keep_patching, args=(fake, "torn", names, answered))
        client.start()
        before = len(fake.heard("torn"))
        wait_heard(fake, "torn", before + 1)
        time.sleep(wait_ms / 1000)
        fake.daemon.kill()
        client.join()
        fake.daemon.start()
        heard = [entry["egress"]["rules"] for entry in fake.heard("torn")]
        assert allowed(fake.daemon, "torn")[0] == heard[-1]
        assert not answered or [answered[-1]] in heard, "an answer is a promise"
        assert fake.daemon.bottle("torn")["state"] == "running"


def test_deleted_while_a_change_is_under_way(new_daemon, tmp_path):
    """What was begun before writes nothing into the bottle's directory once that is being removed."""
    held = hold.Hold(tmp_path)
    daemon = new_daemon(env={**held.env, "MALLOC_PERTURB_": "165"})
    with fake_daemon.installed(daemon) as fake, concurrent.futures.ThreadPoolExecutor() as pool:
        daemon.start()
        fake.start("one")
        fake.answers("one", egress="silent")
        changed = pool.submit(patch, daemon, "one", {"egress": {"allow": ["new.example"]}})
        until(lambda: fake.heard("one"))
        held.begin("access", "/bottles/one")
        try:
            assert daemon.delete("/bottles/one").status == 200
            assert changed.result().status in (200, 404)
        finally:
            held.release("access")
        assert daemon.get("/bottles/one").status == 404
        assert daemon.stop() == 0, "which waits for all that is under way"
        assert list((daemon.state_dir / "bottles").iterdir()) == []
