"""What a daemon and its bottles have on this machine: processes, sockets, ports, files.

The tests' own process is a subreaper: whatever bottled starts, however it detaches itself, stays below
it, so that "which processes are there" is a walk of one tree and nothing can escape it. /proc is read,
never a program's output.
"""
import ctypes
import os
import pathlib
import select
import signal
import sqlite3
import stat

import pace

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper():
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Process:
    """One process at one moment. `argv` is empty for what may not be read."""

    def __init__(self, pid):
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        self.pid, self.name, self.state, self.parent = pid, name, rest[0], int(rest[1])
        self.start_time = int(rest[19])
        try:
            raw = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            self.argv = [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]
        except OSError:
            self.argv = []

    @property
    def program(self):
        return os.path.basename(self.argv[0]) if self.argv else self.name

    def __repr__(self):
        return f"{self.pid} {' '.join(self.argv)[:160] or self.name}"


def all_processes():
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Process(int(entry))
            except (OSError, ValueError):
                pass  # ended while it was looked at
    return found


def descendants(root=None):
    """Living processes below `root` (this process when None), oldest first; orphans of ours are reaped."""
    root = root or os.getpid()
    table = all_processes()
    children = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found, queue = [], [root]
    while queue:
        for child in children.get(queue.pop(), []):
            if child.state == "Z":
                reap_orphan(child)
                continue
            found.append(child)
            queue.append(child.pid)
    return sorted(found, key=lambda process: (process.start_time, process.pid))


# Children that a Popen of ours will wait for itself.
waited_for = set()


def reap_orphan(process):
    if process.parent == os.getpid() and process.pid not in waited_for:
        try:
            os.waitpid(process.pid, os.WNOHANG)
        except ChildProcessError:
            pass


def wait_gone(pid, timeout):
    """Blocks until the process has ended (true) or the time is over (false)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], pace.stretched(timeout))[0])
    finally:
        os.close(descriptor)


def end_processes(processes):
    """Kills by pid; for what a failed test left behind."""
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for process in processes:
        wait_gone(process.pid, 10)
    descendants()  # reaps those that became ours


def unix_sockets(below):
    """Paths of Unix sockets in a directory: files that are there, and bound ones whose file is gone."""
    found = set()
    for folder, _, files in os.walk(below):
        for path in (os.path.join(folder, name) for name in files):
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    found.add(path)
            except FileNotFoundError:
                pass
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith(str(below)):
            found.add(fields[7])
    return found


def listening_ports():
    """Ports with a TCP listener in this network namespace."""
    found = set()
    for table in ("tcp", "tcp6"):
        path = pathlib.Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == "0A":
                found.add(int(fields[1].rsplit(":", 1)[1], 16))
    return found


def listening_inodes():
    """{inode of a listening TCP socket in this network namespace: (its address, its port)}"""
    found = {}
    for table in ("tcp", "tcp6"):
        path = pathlib.Path(f"/proc/net/{table}")
        for fields in (line.split() for line in path.read_text().splitlines()[1:]) if path.exists() else ():
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                there = ".".join(str(byte) for byte in reversed(bytes.fromhex(address))) if table == "tcp" else address
                found[int(fields[9])] = there, int(port, 16)
    return found


def socket_inodes(pid):
    """Inodes of the sockets that a process has open."""
    found = set()
    try:
        for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(link)
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except OSError:
        pass  # ended, or closed one, while it was looked at
    return found


def groups_of(state_dir):
    """Control groups of a daemon's bottles."""
    record = pathlib.Path(state_dir) / "cgroup"
    parent = pathlib.Path(record.read_text()) if record.exists() else None
    return {entry.name for entry in parent.iterdir() if entry.is_dir() and entry.name != "daemon"} if parent and parent.exists() else set()


def mounts_below(directory):
    text = pathlib.Path("/proc/self/mountinfo").read_text()
    return {line.split()[4] for line in text.splitlines() if line.split()[4].startswith(f"{directory}/")}


# What belongs to the daemon itself, not to a bottle.
OWN_FILES = ("bottled.db", "bottled.db-wal", "bottled.db-shm", "bottled.sock", "kvm-probe.json", "lock", "run.lock", "cgroup")


def files_below(directory):
    """Every path below a directory except the daemon's own, directories with a '/' at the end."""
    found = set()
    for folder, folders, files in os.walk(directory):
        relative = os.path.relpath(folder, directory)
        for name in folders:
            found.add(os.path.normpath(os.path.join(relative, name)) + "/")
        for name in files:
            found.add(os.path.normpath(os.path.join(relative, name)))
    return found - set(OWN_FILES)


def table_rows(database):
    """{table: number of rows}, read without a write to it."""
    if not os.path.exists(database):
        return {}
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
    try:
        names = [
            row[0]
            for row in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
    finally:
        connection.close()
