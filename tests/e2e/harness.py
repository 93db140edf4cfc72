"""bottled under test: started in folders of its own, spoken to over its Unix socket, ended, looked after.

Nothing here sleeps: a wait is a read of the daemon's output, a long poll of its API, or a pidfd.
Standard library only: the demo and the benchmarks use it too.
"""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import invariants
import pace
import processes
import sanitizer
import template_pool

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BOTTLED_BUILD", os.environ.get("BUILD", "build"))
READY_TIMEOUT = 20
# How a user's shell finds programs on Debian: without the sbin folders.
USER_PATH = "/usr/local/bin:/usr/bin:/bin"

OTHER_USER = 65534  # nobody
# Whom bottled runs as in tests for both kinds of user; where the tests are an ordinary user's, that is one already.
USERS = {"same user": None, **({"ordinary user": OTHER_USER} if os.getuid() == 0 else {})}

# The table of what happened: it tells of bottles that are gone.
HISTORY = "events"
# Daemons make no templates of their own (one more boot, in the background): the tests' have some in common.
DEFAULTS = {"log_level": "debug", "template_after": template_pool.NEVER}
# A program with a sanitizer sets aside more address space than any limit allows, keeps what was freed, and takes its time.
SANITIZED = sanitizer.is_in(BUILD)
pace.factor = int(os.environ.get("PACE", pace.STRETCH if SANITIZED else 1))
if SANITIZED:
    DEFAULTS |= {"shim_memory_mib": 0, "boot_timeout": "2m", "sidecar_timeout": "60s"}
SLOW = {"kvm_probe": "60s", "boot_timeout": "2m", "sidecar_timeout": "60s"}  # KVM may be a nested one
# The ways to run a bottle's VM: tests marked `backends` run once for each (conftest.py). A library that is
# not there keeps "auto" from smolmachines.
ROWS = {
    "qemu-tcg": {"accelerator": "tcg", "vmm": "qemu-system-x86_64", "config": {"accelerator": "tcg"}},
    "qemu-kvm": {
        "accelerator": "kvm",
        "vmm": "qemu-system-x86_64",
        "config": {"accelerator": "kvm", "libkrun": "/nonexistent/libkrun.so", **SLOW},
    },
    "smolmachines-kvm": {"accelerator": "kvm", "vmm": "bottle-krun", "config": {"accelerator": "kvm", **SLOW}},
}
ROW = ROWS["qemu-tcg"]  # in force; set by the fixture `row`
VERDICT = "kvm-probe.json"


def name_of(row):
    return next(name for name, one in ROWS.items() if one is row)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("bottled", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(pace.stretched(self.timeout))
        self.sock.connect(self.path)


class Reply:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)

    @property
    def problem(self):
        """The last part of a problem's type, or None."""
        if not (self.headers.get("Content-Type") or "").startswith("application/problem+json"):
            return None
        return self.json()["type"].rsplit("/", 1)[-1].rsplit(":", 1)[-1]

    @property
    def pointers(self):
        return sorted(fault["pointer"] for fault in self.json().get("errors", []))

    def __repr__(self):
        return f"<{self.status} {self.body[:2000]!r}>"


class Output:
    """A child's output, kept line by line by a thread, so that a pipe never fills up."""

    def __init__(self, stream):
        self.lines = []
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        with stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_line(self, pattern, timeout, start=0):
        """The first line from `start` on that matches, or None at the end of the time or of the output."""

        def look():
            found = next((line for line in self.lines[start:] if re.search(pattern, line)), None)
            return found or self._ended and "\0"

        with self._news:
            found = self._news.wait_for(look, pace.stretched(timeout))
        return None if not found or found == "\0" else found

    def text(self):
        with self._news:
            return "\n".join(self.lines)


class Daemon:
    """One bottled. `uid`: run it as that user. `config`: keys of its file, over DEFAULTS."""

    living = []  # those that are not closed yet
    templates = None  # a template_pool.Pool, where there is one
    verdict = None  # what the first one on a row of KVM found out about it: a boot takes its time

    def __init__(self, uid=None, config=None, base=None, env=None):
        Daemon.living.append(self)
        self.uid, self.env = uid, env or {}
        self.base = pathlib.Path(base or tempfile.mkdtemp(prefix="bt", dir="/tmp"))
        self.state_dir, self.run_dir = self.base / "s", self.base / "r"
        self.socket = self.run_dir / "bottled.sock"
        self.row = ROW
        self.config = {**DEFAULTS, **ROW["config"], **(config or {})}
        self.process = self.output = None
        self.killed = False
        self.ledger, self.last_event = invariants.Ledger(), 0
        self.mounts = []  # that a test made below `base`
        self.base.chmod(0o755)
        if uid is not None:
            os.chown(self.base, uid, uid)

    # --- Life ---------------------------------------------------------------------------------

    def write_config(self):
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in self.config.items())
        path = self.base / "bottled.yaml"
        path.write_text(text)
        path.chmod(0o644)
        return path

    def argv(self, *extra):
        argv = [str(BUILD / "bottled"), "--config", str(self.write_config())]
        argv += ["--state-dir", str(self.state_dir), "--run-dir", str(self.run_dir)]
        if self.uid is not None:
            ids = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
            argv = ["setpriv", *ids, "--", *argv]
        return argv + list(extra)

    def environment(self):
        base = {**os.environ, "PATH": f"{ROOT}/.tools/bin:{os.environ['PATH']}"}
        if self.uid is not None:
            base = {"PATH": f"{ROOT}/.tools/bin:{USER_PATH}", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
        return {**base, **self.env}

    def spawn(self, *extra):
        """Starts the program and does not wait for anything."""
        self.process = subprocess.Popen(
            self.argv(*extra),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        processes.waited_for.add(self.process.pid)
        self.output = Output(self.process.stdout)
        self.killed = False
        return self

    def know_kvm(self):
        """Gives a daemon that is new what an earlier one kept; bottled checks whether it holds for this one."""
        if Daemon.verdict is None or self.state_dir.exists():
            return
        self.state_dir.mkdir(mode=0o700)
        (self.state_dir / VERDICT).write_bytes(Daemon.verdict)
        if self.uid is not None:
            for path in (self.state_dir, self.state_dir / VERDICT):
                os.chown(path, self.uid, self.uid)

    def start(self, *extra, timeout=READY_TIMEOUT):
        kvm = self.row["accelerator"] == "kvm"
        if kvm:
            timeout += 60  # for the probe
            self.know_kvm()
        if Daemon.templates:
            Daemon.templates.give(self)
        self.spawn(*extra)
        if not self.output.wait_line(r"^ready on ", timeout):
            self.process.poll()
            raise AssertionError(f"bottled is not ready (exit {self.process.returncode}):\n{self.output.text()}")
        if kvm and Daemon.verdict is None and (self.state_dir / VERDICT).exists():
            Daemon.verdict = (self.state_dir / VERDICT).read_bytes()
        return self

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        """As a crash would: at once, and the bottles run on."""
        self.process.kill()
        self.process.wait(10)
        self.killed = True

    def stop(self, timeout=20):
        """Asks it to end and gives its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(pace.stretched(timeout))

    def restart(self):
        self.stop()
        return self.start()

    # --- Talk ---------------------------------------------------------------------------------

    def request(self, method, path, body=None, headers=None, timeout=100):
        connection = UnixConnection(str(self.socket), timeout)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        slug, reply = self.ledger.begin(method, path, body), None
        try:
            connection.request(method, pace.stretch_wait(path), body=body, headers=headers)
            reply = Reply(connection.getresponse())
            return reply
        finally:
            connection.close()
            if slug:
                self.ledger.end(slug, method, body, reply)

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.request("POST", path, body=body, **options)

    def delete(self, path, **options):
        return self.request("DELETE", path, **options)

    def create(self, plan, query="", status=201):
        """POST /bottles; the bottle object."""
        reply = self.post(f"/bottles{query}", plan)
        assert reply.status == status, f"{reply}\n{self.output.text()[-3000:]}"
        return reply.json()

    def run(self, plan, timeout=60):
        """Creates and starts a bottle and waits until its command has ended; the bottle object."""
        return self.create(plan, f"?start=true&wait=exited&timeout={timeout}s")

    def wait(self, slug, state, timeout=30):
        """The long poll; the bottle object, in whatever state ended the wait."""
        reply = self.get(f"/bottles/{slug}/wait?state={state}&timeout={timeout}s")
        assert reply.status == 200, f"{reply}\n{self.output.text()[-3000:]}"
        return reply.json()

    def bottle(self, slug):
        reply = self.get(f"/bottles/{slug}")
        return reply.json() if reply.status == 200 else None

    def log(self, slug, stream="command"):
        reply = self.get(f"/bottles/{slug}/logs?stream={stream}")
        assert reply.status == 200, reply
        return reply.body.decode(errors="replace")

    def remove(self, slug):
        """Deletes a bottle; the cleanup plan with its outcomes."""
        reply = self.delete(f"/bottles/{slug}")
        assert reply.status == 200, f"{reply}\n{self.output.text()[-3000:]}"
        return reply.json()

    def curl(self, *arguments, timeout=100):
        """A real curl over the socket: (status, body)."""
        argv = ["curl", "--silent", "--show-error", "--unix-socket", str(self.socket)]
        done = subprocess.run(
            [*argv, "--write-out", "\n%{http_code}", *arguments], capture_output=True, timeout=pace.stretched(timeout), check=True
        )
        body, _, status = done.stdout.decode().rpartition("\n")
        return int(status), body

    # --- Look ---------------------------------------------------------------------------------

    def own_processes(self):
        """Every living process of this daemon's bottles, bottled itself left out.

        Known by the daemon's folder in what it holds, or by its parents and children. What may not be looked
        into (a shim of an ordinary user lets nobody) is taken for one of them."""
        own = self.process.pid if self.process else None
        table = {process.pid: process for process in processes.descendants() if process.pid != own}
        marks = [str(self.base).encode()]
        known = {pid for pid in table if mentions(pid, marks)}
        for pid in list(known):
            while (pid := table[pid].parent) in table:
                known.add(pid)
        for process in table.values():  # oldest first: a parent is decided before its children
            if process.parent in known:
                known.add(process.pid)
        return [process for process in table.values() if process.pid in known]

    def processes_named(self, name):
        """Those that run a program of that name, or one of its builds (Debian 13 has a squid-gnutls)."""
        return [p for p in self.own_processes() if p.program == name or p.name == name[:15] or p.program.startswith(f"{name}-")]

    def footprint(self):
        """All that a bottle could leave behind."""
        return {
            "processes": sorted(p.pid for p in self.own_processes()),
            "sockets": sorted(processes.unix_sockets(self.base) - {str(self.socket)}),
            "ports": sorted(processes.listening_ports()),
            "state files": sorted(processes.files_below(self.state_dir)),
            "run files": sorted(processes.files_below(self.run_dir)),
            "cgroups": sorted(processes.groups_of(self.state_dir)),
            "mounts": sorted(processes.mounts_below(self.base)),
            "rows": {name: count for name, count in self.rows().items() if name != HISTORY},
        }

    def rows(self):
        return processes.table_rows(self.state_dir / "bottled.db")

    def close(self):
        """Ends all, removes all; what was left of this daemon's own, as words, or None."""
        faults = []
        Daemon.living.remove(self)
        if self.process and self.process.poll() is None:
            faults += invariants.faults(self)
            try:
                status = self.stop()
                if status != 0:
                    faults.append(f"bottled ended with {status}")
            except subprocess.TimeoutExpired:
                faults.append("bottled did not end within 20 s of SIGTERM")
                self.kill()
            else:
                faults += invariants.faults(self)
        left = self.own_processes()
        if left:
            faults.append(f"processes left: {left}")
            processes.end_processes(left)
        sockets = processes.unix_sockets(self.base) - ({str(self.socket)} if self.killed else set())
        if sockets:
            faults.append(f"sockets left: {sorted(sockets)}")
        reports = sanitizer.take(BUILD)
        if reports:
            faults.append(f"a sanitizer reported:\n{reports}")
        if self.process:
            processes.waited_for.discard(self.process.pid)
        shutil.rmtree(self.base, ignore_errors=True)
        return "; ".join(faults) or None


def kvm_works_here():
    """Does bottled itself find that a guest boots here? (does it, in words)"""
    if not os.path.exists("/dev/kvm"):
        return False, "/dev/kvm is absent"
    processes.become_subreaper()
    daemon = Daemon(config={"accelerator": "auto"})
    try:
        verdict = daemon.start(timeout=60).get("/backends").json()["kvm"]
    finally:
        fault = daemon.close()
    assert fault is None, fault
    return verdict["works"], verdict["detail"]


def smolvm_environment(home):
    """For the smolvm command by itself, with small disks: those that it brings are packed and 30 GB when unpacked."""
    folder = pathlib.Path(home) / ".smolvm"
    folder.mkdir(parents=True)
    for name in ("storage", "overlay"):
        template = folder / f"{name}-template.ext4"
        with open(template, "wb") as file:
            file.truncate(512 << 20)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", template], check=True)
    path = f"{ROOT}/.tools/bin:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "SMOLVM_VM_UID_DROP": "off"}


def mentions(pid, marks):
    """Whether a process holds one of the marks in its command line, environment, folder, files or mounts."""
    folder = pathlib.Path(f"/proc/{pid}")
    try:
        texts = [(folder / name).read_bytes() for name in ("cmdline", "environ", "mountinfo")]
        links = [folder / "cwd", *(folder / "fd").iterdir()]
    except PermissionError:
        return True
    except OSError:
        return False  # ended while it was looked at; its mounts are then EINVAL
    for link in links:
        try:
            texts.append(os.readlink(link).encode())
        except OSError:
            pass  # closed meanwhile
    return any(mark in text for mark in marks for text in texts)


class Clock:
    """`with Clock() as clock: …; clock.seconds`"""

    def __enter__(self):
        self._begun = time.monotonic()
        self.seconds = pace.Seconds(0)
        return self

    def __exit__(self, *_):
        self.seconds = pace.Seconds(time.monotonic() - self._begun)
