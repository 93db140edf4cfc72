"""The disk is full while a bottle is created, started, writes its logs, is deleted: a right problem, nothing half, and
all is well again once there is space. The state directory is a small file system of its own, full to the last byte."""
import os
import subprocess

import harness
import invariants
import pytest

SIZE = 8 << 20
PLAN = {"command": ["sh", "-c", "echo up; while :; do sleep 1000; done"]}
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")


class Disk:
    def __init__(self, daemon):
        self.daemon, self.filler = daemon, daemon.state_dir / "filler"
        daemon.state_dir.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0711", "small", daemon.state_dir], check=True)
        daemon.mounts.append(daemon.state_dir)

    def fill(self):
        with open(self.filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        assert os.statvfs(self.daemon.state_dir).f_bavail == 0

    def free(self):
        self.filler.unlink(missing_ok=True)


@pytest.fixture
def full(new_daemon):
    """A daemon, and its disk, which is full once the test says so."""
    daemon = new_daemon(config={"ready_min_mib": 1})
    disk = Disk(daemon)
    daemon.row = {**daemon.row, "vmm": "bottle-krun"}  # is given no templates: they would not fit
    try:
        yield daemon.start(), disk
    finally:
        disk.free()
        for bottle in invariants.list_bottles(daemon):
            daemon.delete(f"/bottles/{bottle['slug']}")
        daemon.stop()
        subprocess.run(["umount", daemon.state_dir], check=True)
        daemon.mounts.clear()
        daemon.ledger = invariants.Ledger()


def refused(reply):
    """A problem that says that there is no space, and what to do."""
    assert reply.status in (500, 503, 507) and reply.problem in ("stage-unwritable", "store-failed", "launch-failed"), reply
    assert any(words in reply.json()["detail"] for words in ("No space left", "full")), reply
    return reply


def test_create_and_delete(full):
    daemon, disk = full
    daemon.create({"slug": "there", **PLAN, "labels": {"a": "1"}})
    disk.fill()
    refused(daemon.post("/bottles", {"slug": "more", **PLAN}))
    assert daemon.bottle("more") is None
    assert os.listdir(daemon.state_dir / "bottles") == ["there"]
    assert daemon.get("/readyz").status == 503
    # The log of the database still has room for some writes; then there is none for this either.
    for number in range(200):
        reply = daemon.request("PATCH", "/bottles/there", {"labels": {"a": str(number), "long": "x" * 60}})
        if reply.status != 200:
            break
    refused(reply)
    before = daemon.bottle("there")
    refused(daemon.delete("/bottles/there"))
    assert daemon.bottle("there") == before
    assert os.path.exists(daemon.state_dir / "bottles" / "there" / "gvproxy.yaml")
    invariants.check(daemon)
    disk.free()
    assert daemon.get("/healthz").status == 200
    daemon.create({"slug": "more", **PLAN})
    daemon.remove("there")
    assert daemon.get("/readyz").status == 200
    daemon.kill()
    daemon.start()
    invariants.check(daemon)


def test_killed_while_it_is_full(full):
    """It does not start without space, or it does; with space it has lost nothing."""
    daemon, disk = full
    daemon.create({"slug": "there", **PLAN})
    disk.fill()
    daemon.kill()
    daemon.spawn()
    if not daemon.output.wait_line("^ready on ", 20):
        assert daemon.process.wait(10) == 1
        assert daemon.output.wait_line("level=error.*(No space|full)", 1), daemon.output.text()
    else:
        daemon.kill()
    disk.free()
    daemon.start()
    assert daemon.bottle("there")["state"] == "prepared"


def test_start_and_logs(full):
    daemon, disk = full
    daemon.create({"slug": "late", **PLAN})
    daemon.create({"slug": "talks", "command": ["sh", "-c", "while :; do echo 'a line of its log'; done"]}, "?start=true&wait=running&timeout=60s")
    disk.fill()
    reply = daemon.post("/bottles/late/start?wait=running&timeout=60s")
    assert reply.status >= 500 and reply.json()["detail"], reply
    assert daemon.bottle("late")["state"] in ("prepared", "failed")
    invariants.check(daemon)
    # The one that runs has a log that can't be written, and runs on.
    assert daemon.post("/bottles/talks/exec", {"command": ["true"]}).json()["exit_code"] == 0
    disk.free()
    assert daemon.bottle("talks")["state"] == "running"
    assert daemon.post("/bottles/late/start?wait=running&timeout=60s").status == 200
    daemon.remove("talks")
    invariants.check(daemon)
