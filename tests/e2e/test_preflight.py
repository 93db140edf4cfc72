"""A tool is missing: 503 names it and says how to get it, and nothing was written."""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess

import harness
import pytest

PLAN = {"command": ["true"], "backend": "qemu"}
TOOLS = {
    # tool: (programs to hide, a word of how to get it)
    "gvproxy": (("gvproxy",), "gvisor-tap-vsock"),
    "bwrap": (("bwrap",), "bubblewrap"),
    "qemu-system-x86_64": (("qemu-system-x86_64",), "qemu-system-x86"),
    "squid": (("squid", "pipelock"), "squid"),
}
# Where bottled looks besides its configured folders and PATH.
FALLBACKS = ("/usr/sbin", "/sbin", "/usr/libexec/podman")
SEARCHED = f"{harness.ROOT}/.tools/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextlib.contextmanager
def covered(programs):
    """No program of those names in the folders that are searched in any case: each is covered by /dev/null."""
    found = [f"{folder}/{name}" for folder in FALLBACKS for name in programs if os.path.exists(f"{folder}/{name}")]
    paths = sorted({os.path.realpath(path) for path in found})
    if paths and os.getuid() != 0:
        pytest.skip(f"only root can hide {paths[0]}")
    with contextlib.ExitStack() as stack:
        for path in paths:
            subprocess.run(["mount", "--bind", "/dev/null", path], check=True)
            stack.callback(subprocess.run, ["umount", path], check=True)
        yield


@pytest.fixture
def without(new_daemon):
    """A daemon whose only folder of programs holds all the known ones but those."""
    with contextlib.ExitStack() as stack:

        def make(*hidden):
            daemon = new_daemon()
            folder = daemon.base / "tools"
            folder.mkdir()
            for program in ("gvproxy", "bwrap", "qemu-system-x86_64", "squid", "pipelock", "smolvm", "setpriv"):
                found = shutil.which(program, path=SEARCHED)
                if found and program not in hidden:
                    (folder / program).symlink_to(os.path.realpath(found))
            daemon.env["PATH"] = str(folder)
            daemon.config["tools_path"] = str(folder)
            stack.enter_context(covered(hidden))
            return daemon.start()

        yield make


@pytest.mark.parametrize("tool", TOOLS)
def test_missing_tool(without, tool):
    hidden, how = TOOLS[tool]
    daemon = without(*hidden)
    before = daemon.footprint()
    listing = sorted(os.walk(daemon.base))
    reply = daemon.post("/bottles", {**PLAN, "slug": "unlucky"})
    assert (reply.status, reply.problem) == (503, "preflight-failed"), reply
    problem = reply.json()
    assert tool in problem["detail"] and how in reply.text, problem
    assert [entry["name"] for entry in problem["tools"]] == [tool], "only what is missing"
    assert how in problem["tools"][0]["hint"], problem
    assert daemon.footprint() == before
    assert sorted(os.walk(daemon.base)) == listing
    assert daemon.get("/bottles/unlucky").status == 404
    # A dry run says the same without failing, and so does the list of backends.
    dry = daemon.post("/plans", {**PLAN, "slug": "unlucky"})
    assert dry.status == 200 and dry.json()["preflight"]["ok"] is False, dry
    qemu = next(b for b in daemon.get("/backends").json()["backends"] if b["name"] == "qemu")
    assert qemu["preflight"]["ok"] is False
    assert sorted(os.walk(daemon.base)) == listing


def test_all_missing_at_once(without):
    daemon = without("gvproxy", "bwrap", "qemu-system-x86_64", "squid", "pipelock")
    problem = daemon.post("/bottles", PLAN).json()
    for tool in TOOLS:
        assert tool in str(problem["tools"]), problem


def test_nothing_missing(without):
    daemon = without()
    assert daemon.post("/plans", PLAN).json()["preflight"]["ok"] is True
    daemon.create(PLAN)


def test_versions(without):
    """Of each tool as it says itself, and where it was found."""
    daemon = without()
    backends = daemon.get("/backends").json()["backends"]
    tools = {tool["name"]: tool for backend in backends for tool in backend["preflight"]["tools"]}
    wheel = re.search(r"^smolvm_wheel=smolmachines==(\S+)", (harness.ROOT / "tools" / "setup").read_text(), re.M)
    assert tools["smolvm"]["version"] == wheel.group(1)
    beside = pathlib.Path(tools["smolvm"]["path"]).parent
    assert (tools["libkrun"]["version"], tools["libkrun"]["path"]) == ("libkrun.so.2", str(beside / "libkrun.so"))
    release = re.search(rb"Linux version (\S+) \(", (beside / "libkrunfw.so.5").read_bytes()).group(1).decode()
    assert tools["libkrunfw"]["version"] == release
    for name, argument in (("gvproxy", "-version"), ("qemu-system-x86_64", "--version"), ("bwrap", "--version"), ("squid", "-v")):
        said = subprocess.run([tools[name]["path"], argument], capture_output=True, text=True).stdout
        version = tools[name]["version"]
        assert re.match(r"\d+\.\d+", version) and version in said, (name, version, said)


def test_tool_found_again(without):
    """Installed while bottled runs: no restart is needed."""
    daemon = without("gvproxy")
    assert daemon.post("/bottles", PLAN).status == 503
    (daemon.base / "tools" / "gvproxy").symlink_to(shutil.which("gvproxy", path=SEARCHED))
    daemon.create(PLAN)


def test_smolmachines_says_what_it_needs(without):
    daemon = without("smolvm")
    reply = daemon.post("/bottles", {**PLAN, "backend": "smolmachines"})
    assert (reply.status, reply.problem) == (503, "preflight-failed")
    assert "smolvm" in reply.json()["detail"], reply
