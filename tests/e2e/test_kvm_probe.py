"""The verdict on KVM, each from a real situation: a guest boots; the device is there and none boots; no device;
no permission. Never later than the deadline, and kept for as long as it holds."""
import json
import os
import shutil
import stat
import subprocess

import harness
import pytest

INSTEAD = "qemu runs its bottles by TCG"
AUTO = {"accelerator": "auto"}


def verdict(daemon, seconds):
    with harness.Clock() as clock:
        daemon.start(timeout=seconds)
    assert clock.seconds < seconds
    told = daemon.get("/backends").json()["kvm"]
    assert (INSTEAD in told["detail"]) != told["works"], told
    return told


def hanging(daemon):
    """A VMM that never boots anything, first on the daemon's path."""
    folder = daemon.base / "tools"
    folder.mkdir(exist_ok=True)
    program = folder / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\necho waiting\nexec sleep 1000\n")
    program.chmod(0o755)
    daemon.config["tools_path"] = str(folder)
    return daemon


def kept(daemon):
    return json.loads((daemon.state_dir / "kvm-probe.json").read_text())


@pytest.fixture
def device():
    """The device's mode may be changed, or the device be moved away; both are undone."""
    mode = os.stat("/dev/kvm").st_mode & 0o7777
    yield "/dev/kvm"
    if os.path.exists("/dev/kvm.away"):
        os.rename("/dev/kvm.away", "/dev/kvm")
    os.chmod("/dev/kvm", mode)


@pytest.mark.kvm
def test_works_and_is_kept(new_daemon):
    daemon = new_daemon(config={**AUTO, "kvm_probe": "60s"})
    told = verdict(daemon, 60)
    assert told["works"] and "a guest of QEMU booted in" in told["detail"], told
    first = kept(daemon)
    daemon.stop()
    assert verdict(daemon, 5) == told, "kept, not tried again"
    daemon.stop()
    # Another boot of the machine: what was kept holds no more.
    (daemon.state_dir / "kvm-probe.json").write_text(json.dumps({**first, "key": "x" + first["key"], "works": False}))
    assert verdict(daemon, 60)["works"]
    assert kept(daemon)["key"] == first["key"]


@pytest.mark.kvm
def test_no_guest_boots(new_daemon):
    daemon = hanging(new_daemon(config={**AUTO, "kvm_probe": "2s"}))
    told = verdict(daemon, 12)
    assert not told["works"] and "no guest of QEMU boots" in told["detail"] and "waiting" in told["detail"], told
    assert "remove kvm-probe.json" in told["detail"]
    assert daemon.own_processes() == []
    daemon.stop()
    assert verdict(daemon, 3) == told, "kept, not tried again"
    daemon.stop()
    # Another VMM: what was kept holds no more.
    del daemon.config["tools_path"]
    daemon.config["kvm_probe"] = "60s"
    assert verdict(daemon, 60)["works"]


def test_this_machines_own(new_daemon, tmp_path):
    """Whatever it is worth: a device that anyone may open, in the tests' own mount namespace. Where no guest
    boots on it, that is found out in time, and a bottle runs all the same."""
    if os.getuid() != 0 or not os.path.exists("/dev/kvm"):
        told = verdict(new_daemon(config=AUTO), 40)
        assert told["works"] or "/dev/kvm" in told["detail"], told
        return
    node = tmp_path / "kvm"
    os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
    node.chmod(0o666)
    subprocess.run(["mount", "--bind", node, "/dev/kvm"], check=True)
    try:
        daemon = new_daemon(config={**AUTO, "kvm_probe": "5s"})
        told = verdict(daemon, 15)
        assert told["works"] or "no guest of QEMU boots" in told["detail"], told
        assert daemon.own_processes() == []
        bottle = daemon.run({"backend": "qemu", "command": ["sh", "-c", "exit 3"]}, timeout=90)
        assert (bottle["exit_code"], bottle["accelerator"]) == (3, "kvm" if told["works"] else "tcg"), bottle
        assert told["detail"] in bottle["backend_reason"]
    finally:
        subprocess.run(["umount", "/dev/kvm"], check=True)


@pytest.mark.kvm
def test_libkrun_tries_where_qemu_is_missing(new_daemon, tmp_path):
    """And a bottle runs there."""
    (tmp_path / "bwrap").symlink_to(shutil.which("bwrap"))
    daemon = new_daemon(config={**AUTO, **harness.SLOW}, env={"PATH": f"{harness.ROOT}/.tools/bin:{tmp_path}"})
    told = verdict(daemon, 60)
    assert told["works"] and "a guest of libkrun booted" in told["detail"], told
    tools = {tool["name"]: tool["found"] for tool in daemon.get("/backends").json()["backends"][1]["preflight"]["tools"]}
    assert not tools["qemu-system-x86_64"] and tools["bwrap"]
    bottle = daemon.run({"command": ["sh", "-c", "exit 3"]}, timeout=90)
    assert (bottle["backend"], bottle["exit_code"]) == ("smolmachines", 3), bottle


@pytest.mark.kvm
def test_no_device(new_daemon, device):
    os.rename(device, "/dev/kvm.away")
    told = verdict(new_daemon(config=AUTO), 5)
    assert not told["works"] and "/dev/kvm is absent" in told["detail"], told


@pytest.mark.kvm
@pytest.mark.parametrize("uid", [None, 65534], ids=["as root", "as an ordinary user"])
def test_no_permission(new_daemon, device, uid):
    os.chmod(device, 0o600)
    told = verdict(new_daemon(config=AUTO, uid=uid), 5)
    assert not told["works"] and "mode 0600" in told["detail"] and "group kvm" in told["detail"], told
