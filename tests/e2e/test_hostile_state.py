"""What bottled remembers is not so any more: pids, directories, the database. It says so, and touches nothing of others."""
import os
import shutil
import sqlite3
import subprocess

import harness
import processes
import pytest

PLAN = {"command": ["sh", "-c", "echo up; sleep 1000"]}


@pytest.fixture
def stranger(tmp_path):
    process = subprocess.Popen(["sleep", "1000"])
    processes.waited_for.add(process.pid)
    yield process
    assert process.poll() is None, "a stranger was killed"
    process.kill()
    process.wait()
    processes.waited_for.discard(process.pid)


def change_row(daemon, slug, **columns):
    connection = sqlite3.connect(daemon.state_dir / "bottled.db")
    with connection:
        for name, value in columns.items():
            connection.execute(f"UPDATE bottles SET {name} = ? WHERE slug = ?", (value, slug))
    connection.close()
    daemon.ledger.forget(slug)


@pytest.mark.parametrize("state", ["running", "stopping", "deleting"])
@pytest.mark.parametrize("same_tick", [False, True])
def test_the_pid_is_somebody_elses(daemon, stranger, state, same_tick):
    """Its number was given to another process, and even the tick at which it began is the same (of another boot)."""
    daemon.create({"slug": "lost", **PLAN})
    daemon.kill()
    start_time = processes.Process(stranger.pid).start_time
    change_row(daemon, "lost", state=state, shim_pid=stranger.pid, shim_start_time=start_time - (not same_tick), shim_token="f" * 32)
    with harness.Clock() as clock:
        daemon.start()
    assert clock.seconds < 8, "it waited for a supervisor that is not there"
    if state == "deleting":
        daemon.get("/bottles/lost/wait?state=stopped&timeout=10s")
        assert daemon.bottle("lost") is None
    else:
        bottle = daemon.bottle("lost")
        assert bottle["state"] == ("failed" if state == "running" else "stopped"), bottle
        assert bottle["reason"], bottle
        daemon.remove("lost")
    assert stranger.poll() is None


def refused_start(daemon, slug):
    reply = daemon.post(f"/bottles/{slug}/start")
    assert reply.status >= 409 and reply.problem and slug in reply.json()["detail"], reply
    assert daemon.own_processes() == []


def test_a_link_in_place_of_the_stage_directory(daemon, tmp_path):
    daemon.create({"slug": "swapped", **PLAN})
    stage = daemon.state_dir / "bottles" / "swapped"
    stage.rename(tmp_path / "theirs")
    (tmp_path / "theirs" / "precious").write_text("of somebody")
    stage.symlink_to(tmp_path / "theirs")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "theirs").iterdir()}
    refused_start(daemon, "swapped")
    assert daemon.request("PATCH", "/bottles/swapped", {"egress": {"allow": ["a.example"]}}).status in (200, 500, 507)
    reply = daemon.delete("/bottles/swapped")
    assert reply.status == 500 and reply.problem == "cleanup-failed" and str(stage) in reply.json()["detail"], reply
    assert "take that away" in reply.json()["detail"]
    daemon.restart()
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "theirs").iterdir()} == before
    stage.unlink()
    daemon.remove("swapped")
    assert (tmp_path / "theirs" / "precious").read_text() == "of somebody"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what is another user's")
def test_another_users_directory_in_its_place(daemon):
    daemon.create({"slug": "swapped", **PLAN})
    stage = daemon.state_dir / "bottles" / "swapped"
    shutil.rmtree(stage)
    stage.mkdir()
    (stage / "precious").write_text("of somebody")
    for path in (stage, stage / "precious"):
        os.chown(path, 12345, 12345)
    refused_start(daemon, "swapped")
    reply = daemon.delete("/bottles/swapped")
    assert reply.status == 500 and "something else was put in its place" in reply.json()["detail"], reply
    assert (stage.stat().st_uid, (stage / "precious").stat().st_uid) == (12345, 12345)
    shutil.rmtree(stage)
    daemon.remove("swapped")


def test_a_link_in_place_of_the_run_directory(daemon, tmp_path):
    daemon.create({"slug": "swapped", **PLAN})
    (tmp_path / "precious").write_text("of somebody")
    link = daemon.run_dir / "b" / harness.invariants.World(daemon).run_dir("swapped").name
    link.symlink_to(tmp_path)
    daemon.kill()
    daemon.start()
    reply = daemon.post("/bottles/swapped/start")
    assert reply.status >= 409 and str(link) in reply.json()["detail"], reply
    assert daemon.delete("/bottles/swapped").status == 500
    assert (tmp_path / "precious").exists()
    link.unlink()
    daemon.remove("swapped")


def does_not_start(daemon, *words):
    """Ends with 1 and says why; what it says."""
    daemon.spawn()
    assert daemon.process.wait(20) == 1
    assert daemon.output.wait_line("level=error", 5), daemon.output.text()
    line = next(line for line in daemon.output.lines if "level=error" in line)
    assert all(word in line for word in words), line
    return line


def database(daemon):
    return (daemon.state_dir / "bottled.db").read_bytes()


@pytest.mark.parametrize("how", ["to nothing but a header", "to half", "to a page and a bit"])
def test_a_truncated_database(daemon, how):
    for number in range(20):
        daemon.create({"slug": f"b{number}", **PLAN})
    daemon.stop()
    path = daemon.state_dir / "bottled.db"
    whole = path.read_bytes()
    cut = {"to nothing but a header": 100, "to half": len(whole) // 2, "to a page and a bit": 5000}[how]
    path.write_bytes(whole[:cut])
    before = database(daemon)
    line = does_not_start(daemon, str(path), "nothing was overwritten", "backup")
    assert "damaged" in line
    assert database(daemon) == before
    path.write_bytes(whole)
    daemon.start()
    assert len(harness.invariants.list_bottles(daemon)) == 20


def test_a_database_of_a_newer_version(daemon):
    daemon.create({"slug": "newer", **PLAN})
    daemon.stop()
    connection = sqlite3.connect(daemon.state_dir / "bottled.db")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = database(daemon)
    does_not_start(daemon, "newer bottled", "9999")
    assert database(daemon) == before
    connection = sqlite3.connect(daemon.state_dir / "bottled.db")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    daemon.start()
    assert daemon.bottle("newer")["state"] == "prepared"


def test_a_read_only_state_directory(new_daemon):
    """Before the start, and in the middle of its life."""
    daemon = new_daemon(uid=harness.OTHER_USER if os.getuid() == 0 else None).start()  # root gets past any mode
    daemon.create({"slug": "there", **PLAN})
    bottles = daemon.state_dir / "bottles"
    bottles.chmod(0o500)
    try:
        reply = daemon.post("/bottles", {"slug": "more", **PLAN})
        assert reply.status == 507 and reply.problem == "stage-unwritable" and str(bottles) in reply.json()["detail"], reply
        assert daemon.bottle("more") is None
        daemon.stop()
        os.chmod(daemon.state_dir, 0o500)
        before = database(daemon)
        (daemon.state_dir / "lock").chmod(0o400)
        does_not_start(daemon, str(daemon.state_dir))
        assert database(daemon) == before
    finally:
        os.chmod(daemon.state_dir, 0o700)
        bottles.chmod(0o700)
        (daemon.state_dir / "lock").chmod(0o600)
    daemon.start()
    assert daemon.bottle("there")["state"] == "prepared"
    daemon.create({"slug": "more", **PLAN})
