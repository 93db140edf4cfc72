"""bottled is killed in the middle of its work: what was acknowledged is there, and nothing half-made stays."""
import contextlib
import fcntl
import http.client
import json
import os
import subprocess
import threading

import harness
import pace
import pytest

CLIENTS = 8


class Load:
    """Calls on several connections until the daemon is gone; what was answered, by slug."""

    def __init__(self, daemon, method, path_of, body_of, slugs):
        self.daemon, self.method, self.path_of, self.body_of = daemon, method, path_of, body_of
        self.slugs, self.answers = iter(slugs), {}
        self.answered = threading.Condition()
        self.threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def _next(self):
        with self.answered:
            return next(self.slugs, None)

    def _client(self):
        connection = harness.UnixConnection(str(self.daemon.socket), 30)
        try:
            while (slug := self._next()) is not None:
                body = self.body_of(slug)
                headers = {"Content-Type": "application/json"} if body else {}
                connection.request(self.method, self.path_of(slug), body=body, headers=headers)
                status = harness.Reply(connection.getresponse()).status
                with self.answered:
                    self.answers[slug] = status
                    self.answered.notify_all()
        except (OSError, http.client.HTTPException):
            pass  # killed: this call has no answer
        finally:
            connection.close()

    def run_and_kill(self, after):
        """Kills the daemon once `after` calls were answered."""
        for thread in self.threads:
            thread.start()
        with self.answered:
            assert self.answered.wait_for(lambda: len(self.answers) >= after, 30)
        self.daemon.kill()
        for thread in self.threads:
            thread.join()
        return self.answers


def listed(daemon):
    return {bottle["slug"]: bottle for bottle in daemon.get("/bottles?limit=1000").json()["bottles"]}


def stage_directories(daemon):
    return set(os.listdir(daemon.state_dir / "bottles"))


@pytest.mark.parametrize("after", [20, 150])
def test_killed_while_creating(daemon, after):
    slugs = [f"b{number}" for number in range(400)]
    body = lambda slug: json.dumps({"command": ["true"], "slug": slug})  # noqa: E731
    answers = Load(daemon, "POST", lambda slug: "/bottles", body, slugs).run_and_kill(after)
    assert set(answers.values()) == {201}
    daemon.start()
    there = listed(daemon)
    assert set(answers) <= set(there), "an acknowledged bottle is lost"
    assert stage_directories(daemon) <= set(slugs)
    for slug in slugs:
        reply = daemon.post("/bottles", {"command": ["true"], "slug": slug})
        assert reply.status == (409 if slug in there else 201), (slug, reply)
    assert stage_directories(daemon) == set(slugs) == set(listed(daemon))
    for slug in slugs:
        plan = daemon.remove(slug)
        assert not [item for item in plan["items"] if item["outcome"].startswith("failed")]
    assert stage_directories(daemon) == set()


@pytest.mark.parametrize("after", [20, 150])
def test_killed_while_deleting(daemon, after):
    slugs = [f"b{number}" for number in range(300)]
    for slug in slugs:
        daemon.create({"command": ["true"], "slug": slug})
    answers = Load(daemon, "DELETE", lambda slug: f"/bottles/{slug}", lambda slug: None, slugs).run_and_kill(after)
    assert set(answers.values()) == {200}
    daemon.start()
    there = listed(daemon)
    assert not set(answers) & set(there), "a deleted bottle came back"
    for slug in slugs:
        if slug in there:  # and not finished meanwhile: what was begun is carried on at the start
            assert daemon.delete(f"/bottles/{slug}").status in (200, 404)
        daemon.create({"command": ["true"], "slug": slug})
    assert stage_directories(daemon) == set(slugs)


def test_many_creates_of_one_name(daemon):
    """One wins; whoever loses finds the winner's bottle there already."""
    for round_ in range(5):
        answers, lock = [], threading.Barrier(CLIENTS)

        def create():
            lock.wait()
            reply = daemon.post("/bottles", {"command": ["true"], "slug": f"one{round_}"})
            found = daemon.get(f"/bottles/one{round_}").status
            answers.append((reply.status, found))

        threads = [threading.Thread(target=create) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(status for status, _ in answers) == [201] + [409] * (CLIENTS - 1)
        assert {found for _, found in answers} == {200}, answers
    assert len(listed(daemon)) == 5


def test_stage_files_are_derived(daemon):
    """Missing or changed files are made again before the bottle starts; a folder that is gone too."""
    daemon.create({"slug": "spoilt", "command": ["sh", "-c", "exit 3"]})
    stage = daemon.state_dir / "bottles" / "spoilt"
    wanted = {file.name: file.read_bytes() for file in stage.iterdir() if file.is_file()}
    assert "gvproxy.yaml" in wanted
    (stage / "gvproxy.yaml").write_text("stack: {}\n")
    (stage / "squid.conf").write_bytes(b"")
    (stage / "qemu.json").unlink()
    reply = daemon.post("/bottles/spoilt/start?wait=exited&timeout=60s")
    assert reply.json()["exit_code"] == 3, reply
    assert {name: (stage / name).read_bytes() for name in wanted} == wanted


def test_torn_files_do_not_keep_it_from_starting(daemon):
    """Files of no bytes, as a crash of the host leaves them, and litter in its folders."""
    daemon.create({"slug": "kept", "command": ["sh", "-c", "exit 3"]})
    daemon.kill()
    stage = daemon.state_dir / "bottles" / "kept"
    for name in ("gvproxy.yaml", "qemu.json"):
        (stage / name).write_bytes(b"")
    (daemon.state_dir / "kvm-probe.json").write_bytes(b"")
    (daemon.run_dir / "b" / "0123456789abcdef").mkdir(parents=True, exist_ok=True)
    (daemon.run_dir / "b" / "0123456789abcdef" / "exit.json").write_bytes(b"")
    daemon.start()
    assert daemon.bottle("kept")["state"] == "prepared"
    reply = daemon.post("/bottles/kept/start?wait=exited&timeout=60s")
    assert reply.json()["exit_code"] == 3, reply
    assert {item["outcome"] for item in daemon.post("/cleanup").json()["items"]} == {"removed"}


def test_second_daemon_on_the_same_state(daemon):
    """Two daemons would fight over the bottles: the second says so and ends with 1; the first goes on."""
    other = harness.Daemon(base=daemon.base)
    try:
        other.config = dict(daemon.config)
        other.spawn()
        assert other.process.wait(20) == 1
        assert other.output.wait_line("(another|already|lock)", 5), other.output.text()
        assert daemon.get("/healthz").status == 200
    finally:
        if other.process.poll() is None:
            other.kill()
        harness.processes.waited_for.discard(other.pid)
        harness.Daemon.living.remove(other)


def test_a_delete_that_rests_takes_the_tag_that_began_it(new_daemon):
    """What it pinned down is what it removes, however often it is asked for."""
    daemon = new_daemon(uid=harness.OTHER_USER if os.getuid() == 0 else None).start()  # root gets past any mode
    daemon.create({"slug": "stuck", "command": ["true"]})
    tag = {"If-Match": daemon.get("/bottles/stuck/cleanup-plan").headers["ETag"]}
    folder = daemon.state_dir / "bottles"
    folder.chmod(0o500)
    assert daemon.delete("/bottles/stuck", headers=tag).problem == "cleanup-failed"
    folder.chmod(0o700)
    assert daemon.delete("/bottles/stuck", headers=tag).status == 200
    assert daemon.get("/bottles/stuck").status == 404


def test_second_daemon_on_the_same_run_directory(daemon, tmp_path):
    """It would take the first one's bottles for what no bottle owns."""
    argv = [daemon.argv()[0], "--state-dir", tmp_path / "s", "--run-dir", daemon.run_dir, "--socket", tmp_path / "sock"]
    ended = subprocess.run(argv, env=daemon.environment(), capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and f"another bottled runs on {daemon.run_dir}; give this one a run_dir of its own" in ended.stderr, ended


@pytest.mark.parametrize("name", ["state_dir/lock", "run_dir/run.lock"])
def test_a_lock_that_is_about_to_go(new_daemon, name):
    """A bottled that is killed while it starts a program leaves its locks to that, until its exec."""
    daemon = new_daemon().start()
    daemon.create({"slug": "one", "command": ["true"]})
    daemon.kill()
    folder, file = name.split("/")
    path = getattr(daemon, folder) / file
    with open(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        daemon.spawn()
        pace.until(lambda: daemon.process.poll() is not None or path_is_open(daemon.process.pid, path), 20)
    # Where it did not wait it has ended, or is about to.
    assert daemon.output.wait_line(r"^ready on ", 20), daemon.output.text()
    assert daemon.bottle("one")["state"] == "prepared"


def path_is_open(pid, path):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # it is closed meanwhile
            if os.readlink(f"/proc/{pid}/fd/{fd}") == str(path):
                return True
    return False


def test_a_delete_that_is_interrupted_goes_on_where_it_was(new_daemon):
    """Its directory can't be removed; then bottled is killed; what was done before is told at the end."""
    daemon = new_daemon(uid=harness.OTHER_USER if os.getuid() == 0 else None).start()  # root gets past any mode
    daemon.create({"slug": "stuck", "command": ["sleep", "1000"]}, "?start=true")
    before = daemon.get("/bottles/stuck/cleanup-plan").json()
    bottles = daemon.state_dir / "bottles"
    bottles.chmod(0o500)
    try:
        reply = daemon.delete("/bottles/stuck")
        assert reply.status == 500 and reply.problem == "cleanup-failed", reply
        outcomes = {item["name"]: item.get("outcome", "") for item in reply.json()["cleanup"]["items"]}
        assert outcomes[str(bottles / "stuck")].startswith("failed: "), outcomes
        assert daemon.bottle("stuck")["state"] == "deleting"
        daemon.kill()
        daemon.start()
        assert daemon.bottle("stuck")["state"] == "deleting"
        assert daemon.delete("/bottles/stuck").status == 500
    finally:
        bottles.chmod(0o700)
    done = daemon.remove("stuck")
    told = {(item["kind"], item["name"]): item["outcome"] for item in done["items"]}
    assert {(item["kind"], item["name"]) for item in before["items"]} <= set(told)
    assert {outcome for outcome in told.values()} == {"killed", "removed", "released", "deleted"}
    assert daemon.bottle("stuck") is None and os.listdir(bottles) == []
