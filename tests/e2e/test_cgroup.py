"""Control groups: where bottled may make one, each bottle has its own; elsewhere GET /backends says why not.

Marked `kvm`: the nested test host has a cgroup2 tree of its own, with all of the controllers, and bottled is root there.
"""
import pathlib

import harness
import pytest

PLAN = {"slug": "grouped", "command": ["sleep", "1000"], "resources": {"cpus": 1, "memory_mib": 256}}


@pytest.fixture(scope="module")
def row():
    """A row of KVM: TCG in a host that is itself emulated is too slow."""
    harness.ROW = harness.ROWS["smolmachines-kvm"]
    yield harness.ROW
    harness.ROW = harness.ROWS["qemu-tcg"]


@pytest.fixture
def grouped(daemon):
    said = daemon.get("/backends").json()["cgroups"]
    assert said["used"], said["detail"]
    daemon.create(PLAN, "?start=true&wait=running&timeout=90s")
    parent = pathlib.Path((daemon.state_dir / "cgroup").read_text())
    group = next(parent.glob("bottle-*"))
    return daemon, group


def of(daemon, group):
    """Who is in it, and the daemon's own; KVM puts threads of the kernel's (whose parent is 2) into a VM's group."""
    inside = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    kernel = {pid for pid in inside if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == "2"}
    return inside - kernel, {process.pid for process in daemon.own_processes()}


@pytest.mark.kvm
def test_a_bottle_has_its_group(row, grouped):
    daemon, group = grouped
    inside, own = of(daemon, group)
    assert inside == own and len(inside) >= 4
    shim = daemon.get("/limits").json()["daemon"]["shim_memory_mib"]  # 0 under a sanitizer
    assert shim == harness.DEFAULTS.get("shim_memory_mib", 128)
    assert (group / "memory.max").read_text() == f"{(256 + 1536 + 320 + 1024 + shim) << 20}\n"
    assert (group / "pids.max").read_text() == "1024\n"
    assert (group / "cpu.max").read_text() == "200000 100000\n"
    assert daemon.footprint()["cgroups"] == [group.name]


@pytest.mark.kvm
def test_it_is_removed_with_the_bottle(row, grouped):
    daemon, group = grouped
    plan = daemon.remove("grouped")
    assert [item["outcome"] for item in plan["items"] if item["kind"] == "cgroup"] == ["removed"]
    assert not group.exists() and daemon.footprint()["cgroups"] == []


@pytest.mark.kvm
def test_it_is_found_again(row, grouped):
    daemon, group = grouped
    daemon.restart()
    inside, own = of(daemon, group)
    assert inside == own
    assert "cgroup" in {item["kind"] for item in daemon.get("/bottles/grouped/cleanup-plan").json()["items"]}
    daemon.remove("grouped")
    assert not group.exists()
    daemon.stop()
    assert not group.parent.exists()


@pytest.mark.kvm
def test_memory_beyond_it_ends_this_bottle_only(row, new_daemon):
    """The group's bound, well above what a bottle needs, then lowered under it by hand."""
    daemon = new_daemon().start()
    for slug in ("fat", "other"):
        daemon.create({**PLAN, "slug": slug}, "?start=true&wait=running&timeout=90s")
    parent = pathlib.Path((daemon.state_dir / "cgroup").read_text())
    shims = {slug: daemon.bottle(slug) for slug in ("fat", "other")}
    fat = next(g for g in parent.glob("bottle-*") if str(pid_of(daemon, "fat")) in (g / "cgroup.procs").read_text().split())
    (fat / "memory.max").write_text(str(16 << 20))
    bottle = daemon.wait("fat", "failed")
    assert bottle["state"] == "failed" and bottle["reason"], bottle
    assert daemon.bottle("other")["state"] == shims["other"]["state"] == "running"


def pid_of(daemon, slug):
    """A process of the bottle, from its cleanup plan."""
    items = daemon.get(f"/bottles/{slug}/cleanup-plan").json()["items"]
    name = next(item["name"] for item in items if item["kind"] == "process")
    return int(name.rsplit("pid ", 1)[1].rstrip(")"))


def test_none_is_said(new_daemon):
    said = new_daemon(config={"cgroups": False}).start().get("/backends").json()["cgroups"]
    assert said == {"used": False, "detail": "the configuration says so"}


def test_what_is_said_is_so(daemon):
    said = daemon.get("/backends").json()["cgroups"]
    assert said["used"] == (daemon.state_dir / "cgroup").exists()
    assert said["used"] or "no group can be made in" in said["detail"]
