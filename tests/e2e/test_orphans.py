"""What no bottle owns: shown by GET /cleanup-plan, removed by POST /cleanup, and nothing else is touched."""
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess

import harness
import invariants
import processes
import pytest
from pace import until

PLAN = {"command": ["sh", "-c", "echo up; sleep 1000"]}


def forget(daemon, *slugs):
    """The rows go, as when an older database is put back; the daemon is not there meanwhile."""
    connection = sqlite3.connect(daemon.state_dir / "bottled.db")
    with connection:
        connection.executemany("DELETE FROM bottles WHERE slug = ?", [(slug,) for slug in slugs])
    connection.close()
    for slug in slugs:
        daemon.ledger.forget(slug)


def had_run(daemon, slug):
    """A bottle with something in its logs."""
    daemon.create({"slug": slug, **PLAN})
    stage = daemon.state_dir / "bottles" / slug
    logs = stage / "logs"
    logs.mkdir(mode=0o700)
    (logs / "command.log").write_text("up\n")
    for made in (logs, logs / "command.log"):
        os.chown(made, stage.stat().st_uid, -1)


def shown(daemon):
    reply = daemon.get("/cleanup-plan")
    assert reply.status == 200, reply
    return reply.json(), reply.headers["ETag"]


def kinds(plan):
    return sorted({item["kind"] for item in plan["items"]})


def test_nothing(daemon):
    daemon.create({"slug": "mine", **PLAN})
    plan, _ = shown(daemon)
    assert plan == {"slug": None, "empty": True, "total_bytes": 0, "items": []}
    assert daemon.post("/cleanup").json() == plan


@pytest.fixture(params=harness.USERS)
def orphaned(request, new_daemon):
    """A daemon whose database lost a bottle that runs and one that had run."""
    daemon = new_daemon(uid=harness.USERS[request.param]).start()
    for slug in ("runs", "mine"):  # up: what is still coming up gets more sockets and processes
        daemon.create({"slug": slug, **PLAN}, "?start=true&wait=running&timeout=60s")
    had_run(daemon, "ran")
    daemon.kill()
    forget(daemon, "runs", "ran")
    daemon.start()
    return daemon


def test_lost_rows(orphaned):
    daemon = orphaned
    assert daemon.output.wait_line("there is something of no bottle", 5)
    assert list(invariants.directories_are_owned(invariants.World(daemon))), "the checker sees it too"
    before = {p.pid for p in daemon.own_processes()}
    plan, tag = shown(daemon)
    assert kinds(plan) == ["directory", "file", "process", "socket"]
    assert {item["owner"] for item in plan["items"]} == {None}
    assert not [item for item in plan["items"] if "mine" in item["name"]]
    assert sorted(item["name"] for item in plan["items"] if item["kind"] == "directory") == sorted(
        str(path) for path in (daemon.state_dir / "bottles" / "ran", daemon.state_dir / "bottles" / "runs",
                               invariants.World(daemon).run_dir("runs")))
    assert {p.pid for p in daemon.own_processes()} == before, "showing changed something"
    parts = {shim.pid: processes.descendants(shim.pid) for shim in daemon.processes_named("bottle-shim")}
    refused = daemon.post("/cleanup", headers={"If-Match": '"0123456789abcdef"'})
    assert refused.status == 412 and refused.problem == "precondition-failed"
    done = daemon.post("/cleanup", headers={"If-Match": tag})
    assert done.status == 200, done
    assert {item["outcome"] for item in done.json()["items"]} == {"killed", "removed"}
    assert shown(daemon)[0]["empty"]
    assert daemon.bottle("mine")["state"] in ("starting", "running"), "a neighbour was hit"
    left = {shim.pid for shim in daemon.processes_named("bottle-shim")}
    for part in [part for pid, each in parts.items() if pid not in left for part in each]:
        assert processes.wait_gone(part.pid, 10), f"{part} outlives its supervisor"
    invariants.check(daemon)


@pytest.mark.skipif(os.getuid() != 0, reason="lets only root see where it is")
def test_supervisor_without_its_directory(daemon):
    daemon.create({"slug": "runs", **PLAN}, "?start=true&wait=running&timeout=60s")
    (shim,) = daemon.processes_named("bottle-shim")
    daemon.kill()
    os.kill(shim.pid, signal.SIGSTOP)  # it might notice what is taken from it, and end
    shutil.rmtree(invariants.World(daemon).run_dir("runs"))
    shutil.rmtree(daemon.state_dir / "bottles" / "runs")
    forget(daemon, "runs")
    daemon.start()
    assert kinds(shown(daemon)[0]) == ["process"]
    assert [item["outcome"] for item in daemon.post("/cleanup").json()["items"]] == ["killed"]
    for process in daemon.own_processes():
        assert processes.wait_gone(process.pid, 10), f"{process} outlives its shim"


def test_a_creation_that_died_goes_at_the_start(daemon):
    """Nobody was told of it, and nothing was written to it."""
    daemon.create({"slug": "half", **PLAN})
    daemon.kill()
    forget(daemon, "half")
    for slug, files in (("first-step", ()), ("on-the-way", ("gvproxy.yaml",))):
        (daemon.state_dir / "bottles" / slug).mkdir(mode=0o750)
        for name in files:
            (daemon.state_dir / "bottles" / slug / name).write_text("subn")
    daemon.start()
    assert os.listdir(daemon.state_dir / "bottles") == []
    assert shown(daemon)[0]["empty"]


def test_what_is_not_bottleds_stays(daemon, tmp_path):
    """Names that are not of its making, links, a stage directory with something else in it, another user's."""
    bottles, run = daemon.state_dir / "bottles", daemon.run_dir / "b"
    (tmp_path / "precious").write_text("of the operator")
    (bottles / "linked").symlink_to(tmp_path)
    (bottles / "Backup of mine").mkdir()
    (bottles / "noted").mkdir()
    (bottles / "noted" / "gvproxy.yaml").write_text("")
    (bottles / "noted" / "NOTES").write_text("of the operator")
    (bottles / "plain-file").write_text("x")
    (run / "0123456789abcdef").symlink_to(tmp_path)
    (run / "not-an-id").mkdir()
    if os.getuid() == 0:
        (bottles / "theirs").mkdir()
        os.chown(bottles / "theirs", 12345, 12345)
    there = sorted(os.listdir(bottles)), sorted(os.listdir(run))
    # Like bottle-shim, but elsewhere; and a stranger in a run directory of ours.
    fake = tmp_path / "bottle-shim"
    shutil.copy("/bin/sleep", fake)
    (run / "00000000000000ff").mkdir()
    strangers = [os.posix_spawn(fake, [str(fake), "1000"], os.environ)]
    here = os.getcwd()
    os.chdir(run / "00000000000000ff")
    strangers.append(os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ))
    os.chdir(here)
    processes.waited_for.update(strangers)
    try:
        assert [item["name"] for item in shown(daemon)[0]["items"]] == [str(run / "00000000000000ff")]
        assert daemon.post("/cleanup").status == 200
        daemon.restart()
        assert (sorted(os.listdir(bottles)), sorted(os.listdir(run))) == there
        assert (tmp_path / "precious").read_text() == "of the operator"
        assert [os.waitpid(pid, os.WNOHANG) for pid in strangers] == [(0, 0)] * 2
    finally:
        for pid in strangers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            processes.waited_for.discard(pid)
        for folder in (bottles, run):
            for name in os.listdir(folder):
                path = folder / name
                path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)


def test_a_bottle_of_that_name_comes_meanwhile(daemon):
    """An orphan's name is free: a new bottle may take it, and keeps what is its own."""
    had_run(daemon, "again")
    daemon.kill()
    forget(daemon, "again")
    daemon.start()
    assert not shown(daemon)[0]["empty"]
    daemon.create({"slug": "again", **PLAN})
    left = daemon.post("/cleanup").json()
    assert {item["outcome"] for item in left["items"]} <= {"removed"}
    assert all("/.left-" in item["name"] for item in left["items"])
    assert daemon.bottle("again")["state"] == "prepared"
    invariants.check(daemon)


def test_what_lies_in_a_new_bottles_place_is_not_lost(daemon):
    """Somebody's folder is moved aside; what is no folder stays, and the bottle is refused."""
    bottles = daemon.state_dir / "bottles"
    (bottles / "notes").mkdir()
    (bottles / "notes" / "NOTES").write_text("of the operator")
    (bottles / "plain").write_text("of the operator")
    (bottles / "linked").symlink_to(bottles / "notes")
    (bottles / "half").mkdir()
    (bottles / "half" / "squid.conf").write_text("a creation that died")
    for slug in ("plain", "linked"):
        reply = daemon.post("/bottles", {"slug": slug, **PLAN})
        assert (reply.status, reply.problem) == (507, "stage-unwritable"), reply
        assert str(bottles / slug) in reply.json()["detail"] and "has its name" in reply.json()["detail"]
        assert daemon.get(f"/bottles/{slug}").status == 404
    assert (bottles / "plain").read_text() == "of the operator"
    assert os.readlink(bottles / "linked") == str(bottles / "notes")
    for slug in ("notes", "half"):
        daemon.create({"slug": slug, **PLAN})
        assert sorted(os.listdir(bottles / slug)) == ["gvproxy.yaml", "qemu.json", "squid.conf"]
    (aside,) = [name for name in os.listdir(bottles) if name.startswith(".left-")]
    assert (bottles / aside / "NOTES").read_text() == "of the operator"
    assert daemon.post("/cleanup").status == 200
    assert (bottles / aside / "NOTES").read_text() == "of the operator"
    shutil.rmtree(bottles / aside)
    for name in ("plain", "linked"):
        (bottles / name).unlink()
    for slug in ("notes", "half"):
        daemon.remove(slug)


@pytest.mark.parametrize("place", ["in the run directory", "in a root of its own"])
@pytest.mark.parametrize("end", ["its supervisor is killed", "it is deleted after a crash"])
def test_what_is_too_young_to_die_with_its_supervisor(daemon, end, place):
    """A process of the bottle's user that its supervisor began, which no status tells of."""
    daemon.create({"slug": "young", **PLAN}, "?start=true")
    (shim,) = daemon.processes_named("bottle-shim")
    run_dir = invariants.World(daemon).run_dir("young")
    uid = run_dir.stat().st_uid
    inside = place == "in the run directory"
    left = subprocess.Popen(
        ["setpriv", f"--reuid={uid}", "sleep", "1000"] if os.getuid() == 0 else ["sleep", "1000"],
        cwd=run_dir if inside else "/",
        env={} if inside else {"BOTTLE_RUN_DIR": str(run_dir)},
    )
    processes.waited_for.add(left.pid)
    until(lambda: os.stat(f"/proc/{left.pid}").st_uid == uid)
    try:
        if end == "it is deleted after a crash":
            daemon.kill()
            connection = sqlite3.connect(daemon.state_dir / "bottled.db")
            with connection:
                connection.execute("UPDATE bottles SET state = 'deleting'")
            connection.close()
            daemon.ledger.forget("young")
            daemon.start()
            daemon.delete("/bottles/young")
        else:
            os.kill(shim.pid, signal.SIGKILL)
            daemon.wait("young", "failed")
        assert left.wait(10) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()
        processes.waited_for.discard(left.pid)


def test_what_a_supervisor_begins_is_known(daemon):
    """Each jail was started with the run directory's name; what runs in it has it not."""
    daemon.create({"slug": "known", **PLAN}, "?start=true&wait=running&timeout=60s")
    name = f"BOTTLE_RUN_DIR={invariants.World(daemon).run_dir('known')}".encode()
    jails = [process for process in daemon.own_processes() if "--die-with-parent" in process.argv]
    programs = [daemon.processes_named(one) for one in ("squid", "gvproxy", harness.ROW["vmm"])]
    assert jails and all(programs)
    assert {environment_of(process) for process in jails} == {name + b"\0"}
    assert not any(b"BOTTLE_RUN_DIR" in environment_of(process) for process in sum(programs, []))


def environment_of(process):
    return pathlib.Path(f"/proc/{process.pid}/environ").read_bytes()
