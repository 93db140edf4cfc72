"""The second ring: what somebody who owns gvproxy, the VM or the proxy's engine can do.

A program of the tests' own (insider.c) runs in its place: started by the same shim, in the same jail, as the same
user, under the same filter and limits. It tries all of ROWS; nothing may succeed. The control is the same program
with the same rows outside of any jail, as the user that the daemon runs as: there each must succeed, or the row
proves nothing.
"""
import errno
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import canary
import control
import harness
import pytest
import taken

INSIDER = harness.BUILD / "test-tools" / "insider"
NEW = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000}
ALL = {"gvproxy", "vm", "proxy"}
CELLS = {"gvproxy", "vm"}  # with a network of their own
UNLIMITED = -1


class Row:
    """`tries`: the insider's verb and arguments, with {names} of what there is to be reached. `only_root`: outside of
    a jail an ordinary user may not either, so the control is root's. `no_control`: why there is none."""

    def __init__(self, name, tries, jails=ALL, only_root=False, no_control=None):
        self.name, self.tries, self.jails = name, tries, jails
        self.only_root, self.no_control = only_root, no_control


def has_family(family, kind):
    try:
        socket.socket(family, kind).close()
        return True
    except OSError:
        return False


ROWS = [
    Row("inherited", "inherited {fds}"),  # first: where there is one process for all, the others leave theirs
    *(Row(f"{kind}-{ip}-{port}", f"{kind} {ip} {port}", CELLS) for kind, ip, port in canary.SELF_TEST),
    # The host's Unix sockets: by path, and abstract ones, which belong to the network.
    Row("unix-socket", "unix {bait}/socket"),
    Row("unix-abstract", "unix @{abstract}"),
    Row("bottled-socket", "unix {socket}"),
    Row("other-shim-socket", "unix {other}/shim.sock packets"),
    Row("other-gvproxy-api", "unix {other}/net/api.sock"),
    # Families
    Row("raw-packets", "socket 17 3 768", only_root=True),
    Row("raw-ip", "socket 2 3 1", only_root=True),
    Row("netlink", "socket 16 3 0", CELLS),
    Row("inet6", "socket 10 1 0", CELLS),
    Row("inet", "socket 2 1 0", {"vm"}),
    Row("crypto", "socket 38 5 0", no_control=None if has_family(socket.AF_ALG, socket.SOCK_SEQPACKET) else "this kernel has it not"),
    # Files
    Row("read-bait", "read {bait}/victim"),
    Row("write-bait", "write {bait}/victim"),
    Row("create-beside-bait", "create {bait}/new"),
    Row("list-home", "list /root", only_root=True),
    Row("list-var", "list /var"),
    Row("read-passwd", "read /etc/passwd"),
    Row("read-shadow", "read /etc/shadow", only_root=True),
    Row("read-state", "read {state}/bottled.db"),
    Row("list-state", "list {state}"),
    Row("list-run", "list {run}"),
    Row("list-other", "list {other}"),
    Row("write-other", "create {other}/new"),
    Row("read-other-config", "read {stage}/gvproxy.yaml"),
    Row("write-usr", "create /usr/bin/new", only_root=True),
    Row("write-root", "create /new", only_root=True),
    Row("write-proc-sys", "write /proc/sys/kernel/core_pattern", only_root=True),
    Row("up-by-proc", "read /proc/{pid}/root/etc/passwd", only_root=True),
    Row("make-file", "create /run/bottle/new", {"gvproxy"}, no_control="the folder is there in jails only"),
    Row("fill-disk", "fill {own} 65"),
    Row("fill-tmp", "fill /tmp/new 65"),
    Row("fill-dev", "fill /dev/new 65", CELLS, only_root=True),
    # Processes
    Row("signal-any", "kill-any"),
    Row("signal-bottled", "kill {pid}"),
    Row("signal-other-shim", "kill {shim}"),
    Row("signal-other-gvproxy", "kill {gvproxy}"),
    Row("ptrace-bottled", "ptrace {pid}"),
    Row("ptrace-other-shim", "ptrace {shim}", only_root=True),
    Row("memory-bottled", "memory {pid}"),
    Row("pidfd-bottled", "pidfd {pid}"),
    Row("pidfd-other-shim", "pidfd {shim}"),
    Row("environ-bottled", "read /proc/{pid}/environ"),
    Row("proc-mem-bottled", "write /proc/{pid}/mem"),
    # Namespaces and mounts
    *(Row(f"unshare-{name}", f"unshare {flag:#x}", only_root=name != "user") for name, flag in NEW.items()),
    *(Row(f"clone-{name}", f"clone {flag:#x}", only_root=name != "user") for name, flag in NEW.items()),
    Row("clone3", "call clone3"),
    Row("setns", "setns /proc/{pid}/ns/net", only_root=True),
    Row("mount", "mount {own_folder}"),
    Row("fsopen", "call fsopen", only_root=True),
    Row("open_tree", "call open_tree", only_root=True),
    Row("move_mount", "call move_mount", only_root=True),
    Row("mount_setattr", "call mount_setattr", only_root=True),
    Row("chroot", "call chroot", only_root=True),
    Row("pivot_root", "call pivot_root", only_root=True),
    Row("open-by-handle", "call handle", only_root=True),
    # Rights
    Row("setuid-program", "setuid-program {bait}/setuid"),
    Row("new-privileges", "privileges"),
    Row("become-root", "setuid 0", only_root=True),
    Row("become-other", "setuid 12345", only_root=True),
    Row("groups", "call setgroups", only_root=True),
    Row("device-mem", "device {own} 1 1", only_root=True),
    Row("device-disk", "device {own} 254 0", only_root=True),
    Row("open-kmsg", "write /dev/kmsg", only_root=True),
    Row("open-tun", "write /dev/net/tun", only_root=True, no_control=None if os.path.exists("/dev/net/tun") else "no such device here"),
    # The kernel's larger parts
    *(Row(f"call-{name}", f"call {name}") for name in ("keyctl", "add_key", "request_key")),
    *(
        Row(f"call-{name}", f"call {name}", only_root=True)
        for name in ("bpf", "io_uring", "userfaultfd", "perf", "kexec", "module", "module_file", "syslog", "reboot", "swapon")
    ),
    *(Row(f"call-{name}", f"call {name}", only_root=True) for name in ("iopl", "sethostname", "fanotify")),
    # Limits
    Row("core-dump", f"raise 4 {UNLIMITED}", only_root=True),
    Row("more-files", "raise 7 17000", only_root=True),
    Row("more-memory", f"raise 2 {UNLIMITED}"),
    Row("memory", "map 8192"),
    Row("processes-fork", "forks 1", {"gvproxy"}),
]
# NPROC counts by user, so it bounds a bottle where that has a user of its own.
FORKS = Row("processes", "forks 1200", {"vm", "proxy"})
OWN = {"gvproxy": "/run/bottle", "vm": "/run/bottle", "proxy": "/run/proxy"}
FDS = {"gvproxy": "", "vm": "5 6", "proxy": ""}  # of the VM: its agent's channel and its monitor
PROGRAMS = {"gvproxy": "gvproxy", "vm": "qemu-system-x86_64", "proxy": "squid"}
LOGS = {"gvproxy": "gvproxy", "vm": "console", "proxy": "pipelock"}


class Scene:
    """A daemon with a bottle that runs, and baits on the host."""

    def __init__(self, uid):
        self.uid = uid
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ring", dir="/var/tmp"))
        self.folder.chmod(0o777)
        (self.folder / "victim").write_text("untouched")
        (self.folder / "victim").chmod(0o666)
        shutil.copy(INSIDER, self.folder / "setuid")
        (self.folder / "setuid").chmod(0o4755)
        self.abstract = f"ring-{os.getpid()}-{uid}"
        self.sockets = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        self.sockets[0].bind(str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o777)
        self.sockets[1].bind("\0" + self.abstract)
        for one in self.sockets:
            one.listen(64)
        self.daemon = taken.Daemon(uid=uid).start()
        self.daemon.create({"slug": "other", "command": ["sleep", "1000"]}, "?start=true&wait=running")
        self.shim = next(p.pid for p in self.daemon.own_processes() if p.program == "bottle-shim")
        self.gvproxy = self.daemon.processes_named("gvproxy")[-1].pid

    def close(self):
        for one in self.sockets:
            one.close()
        taken.finish(self.daemon)
        shutil.rmtree(self.folder)

    def tries(self, rows, own, fds):
        names = {
            "bait": self.folder, "abstract": self.abstract, "socket": self.daemon.socket,
            "other": next((self.daemon.run_dir / "b").iterdir()), "state": self.daemon.state_dir,
            "run": self.daemon.run_dir / "b", "stage": self.daemon.state_dir / "bottles" / "other",
            "pid": self.daemon.pid, "shim": self.shim, "gvproxy": self.gvproxy,
            "own": f"{own}/new", "own_folder": own, "fds": fds,
        }  # fmt: skip
        return "".join(f"{row.name} {row.tries.format(**names)}\n" for row in rows)

    def insider(self, path, tries):
        path.unlink(missing_ok=True)
        path.write_bytes(INSIDER.read_bytes() + b"\nINSIDER-TRIES\n" + tries.encode())
        path.chmod(0o755)

    def jailed(self, jail):
        """{row: what became of it}, tried from the jail."""
        rows = [row for row in ROWS if jail in row.jails]
        if os.getuid() == 0 and self.uid is None and jail in FORKS.jails:
            rows.append(FORKS)
        program = self.daemon.tools / PROGRAMS[jail]
        self.insider(program, self.tries(rows, OWN[jail], FDS[jail]))
        slug = f"insider-{jail}"
        try:
            self.daemon.create({"slug": slug, "command": ["true"], "backend": "qemu"})
            self.daemon.post(f"/bottles/{slug}/start")
            told = results(control.follow(self.daemon, slug, b"all tried\n", LOGS[jail]))
            self.daemon.wait(slug, "failed")
            self.daemon.remove(slug)
        finally:
            program.unlink()
        return {"told": told, "rows": rows}

    def outside(self):
        """The same without a jail, as the daemon's user, in a folder like that of a jail."""
        own = self.folder / "own"
        own.mkdir(exist_ok=True)
        own.chmod(0o777)
        program = self.folder / "insider"
        rows = [*ROWS, FORKS]
        self.insider(program, self.tries(rows, own, ""))
        ids = [] if self.uid is None else ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--"]
        # A descriptor that was forgotten, and a process of the same user that is in nobody's jail.
        with subprocess.Popen([*ids, "sleep", "600"]) as sleeper, open("/dev/null") as left:
            try:
                done = subprocess.run(
                    [*ids, str(program)], capture_output=True, text=True, pass_fds=[left.fileno()], timeout=60, cwd="/"
                )
            finally:
                sleeper.kill()
        return results(done.stdout)


def results(text):
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


@pytest.fixture(scope="module", params=harness.USERS)
def scene(request):
    one = Scene(harness.USERS[request.param])
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module", params=sorted(ALL))
def tried(request, scene, canaries):
    hits = len(canaries.hits)
    return {"jail": request.param, "scene": scene, **scene.jailed(request.param), "hits": canaries.hits[hits:]}


@pytest.fixture(scope="module")
def outside(scene, canaries):
    hits = len(canaries.hits)
    return {"told": scene.outside(), "hits": canaries.hits[hits:], "root": os.getuid() == 0 and scene.uid is None}


def test_nothing_succeeds_in_a_jail(tried):
    told = tried["told"]
    assert set(told) == {row.name for row in tried["rows"]}
    assert {name: words for name, words in told.items() if not words.startswith("NO")} == {}


def test_no_canary_heard_from_a_jail(tried):
    assert tried["hits"] == []
    assert (tried["scene"].folder / "victim").read_text() == "untouched"
    assert not (tried["scene"].folder / "new").exists()


@pytest.mark.parametrize("row", [*ROWS, FORKS], ids=lambda row: row.name)
def test_control(outside, row, record_property):
    """Without a jail it succeeds. A kernel without the call at all says so, and then there is nothing to show."""
    came_back = outside["told"].get(row.name, "nothing")
    user = "root" if outside["root"] else "user"
    unproven = row.no_control or ("none: only root's control can show it" if row.only_root and not outside["root"] else None)
    record_property("attack", (f"second ring, {user}", row.name, "NO in: " + " ".join(sorted(row.jails)), unproven or came_back))
    if unproven:
        return
    assert came_back.startswith("OK") or os.strerror(errno.ENOSYS) in came_back, came_back


def test_canaries_heard_the_control(outside):
    heard = {(hit["protocol"], hit["address"], hit["port"]) for hit in outside["hits"]}
    assert set(canary.SELF_TEST) <= heard
