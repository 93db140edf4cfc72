"""What holds of a bottled whenever nobody is asking it for anything: nothing lost, nothing left over.

`faults(daemon)` reads the database, the API, /proc and the file system, and gives one line for each thing that
is not as it has to be; `[]` is a pass. The rules are the functions in RULES, each a generator of lines. A bottle
that moves (starting, stopping) may move on; one that is being deleted is waited for.

What was acknowledged is noted by the harness itself as it is answered (Ledger), so that every test's writes count.
"""
import collections
import hashlib
import json
import os
import pathlib
import re
import sqlite3
import threading
import time
import urllib.parse

import processes

LIVE = {"starting", "running", "stopping", "paused", "deleting"}
AT_REST = {"prepared", "stopped", "exited", "failed", "restarting"}
SETTLED = ",".join(sorted(AT_REST - {"restarting"}))
DYING_S = 5  # for all of them, where a hundred others want the processor
TEMPLATE = re.compile(r"^[0-9a-f]{64}$")
DIGEST = re.compile(r"^[0-9a-f]{64}\.erofs$")


# --- What was acknowledged ------------------------------------------------------------------------


class Ledger:
    """What a daemon answered to writes, by slug: None is gone, a dict is there, with those labels if it has some.

    Calls for one slug that overlap, or that have no answer, leave it unknown what has to be there."""

    UNKNOWN = object()

    def __init__(self):
        self.lock = threading.Lock()
        self.there, self.under_way, self.mixed = {}, collections.Counter(), set()
        self.mortal = set()  # those that end by themselves

    def begin(self, method, path, body):
        """The slug of a write that is noted, or None."""
        parts = urllib.parse.urlsplit(path).path.strip("/").split("/")
        if parts[0] != "bottles" or (method, len(parts)) not in {("POST", 1), ("PATCH", 2), ("DELETE", 2)}:
            return None
        slug = parts[1] if len(parts) == 2 else _member(body, "slug")
        if slug:
            with self.lock:
                self.under_way[slug] += 1
                if self.under_way[slug] > 1:
                    self.mixed.add(slug)
        return slug

    def end(self, slug, method, body, reply):
        """`reply` None: it was cut off."""
        with self.lock:
            self.under_way[slug] -= 1
            if method != "DELETE" and _has(body, "ttl_seconds"):
                self.mortal.add(slug)
            if slug in self.mortal:
                self.there[slug] = self.UNKNOWN
            elif slug in self.mixed:
                self.there[slug] = self.UNKNOWN
                if not self.under_way[slug]:
                    self.mixed.discard(slug)
            elif reply is None or reply.status >= 500:
                self.there[slug] = self.UNKNOWN
            elif reply.status in (200, 201):
                self._note(slug, method, body, reply)

    def _note(self, slug, method, body, reply):
        if method == "DELETE":
            self.there[slug] = None
        elif "labels" in (said := _json(reply.body) or {}):
            self.there[slug] = {"labels": said["labels"]}

    def forget(self, slug):
        with self.lock:
            self.there[slug] = self.UNKNOWN

    def entries(self):
        with self.lock:
            return {slug: what for slug, what in self.there.items() if what is not self.UNKNOWN}


def _json(body):
    try:
        return json.loads(body)
    except (TypeError, ValueError, RecursionError):
        return None


def _has(body, name):
    value = _json(body) if not isinstance(body, dict) else body
    return isinstance(value, dict) and name in value


def _member(body, name):
    value = _json(body) if not isinstance(body, dict) else body
    value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


# --- What there is --------------------------------------------------------------------------------


class World:
    """All that is looked at, read once."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.answers = daemon.process is not None and daemon.process.poll() is None
        database = daemon.state_dir / "bottled.db"
        self.tables = read_tables(database) if database.exists() else {}
        self.rows = {row["slug"]: row for row in self.tables.get("bottles", [])}
        self.bottles = {bottle["slug"]: bottle for bottle in list_bottles(daemon)} if self.answers else None
        self.processes = daemon.own_processes()
        self.live = {slug: row for slug, row in self.rows.items() if row["state"] in LIVE}

    def run_dir(self, slug):
        return self.daemon.run_dir / "b" / hashlib.sha256(slug.encode()).hexdigest()[:16]


def read_tables(database):
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("BEGIN")
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            "integrity": [row[0] for row in connection.execute("PRAGMA integrity_check")],
            **{name: [dict(row) for row in connection.execute(f'SELECT rowid AS rowid_, * FROM "{name}"')] for name in names},
        }
    finally:
        connection.close()


def list_bottles(daemon):
    found, after = [], ""
    while True:
        page = daemon.get(f"/bottles?limit=1000{after}").json()
        found += page["bottles"]
        if not page["next"]:
            return found
        after = f"&after={page['next']}"


def alive(pid, start_time):
    try:
        return processes.Process(pid).start_time == start_time
    except (OSError, ValueError):
        return False


def settle(daemon):
    """Waits for what is under way by itself: ends that were not told yet, and deletes."""
    for bottle in list_bottles(daemon):
        slug, row = bottle["slug"], None
        if bottle["state"] == "deleting":
            daemon.delete(f"/bottles/{slug}")
        elif bottle["state"] in LIVE:
            row = {row["slug"]: row for row in read_tables(daemon.state_dir / "bottled.db")["bottles"]}.get(slug)
        if row and row["shim_pid"] and not alive(row["shim_pid"], row["shim_start_time"]):
            daemon.get(f"/bottles/{slug}/wait?state={SETTLED}&timeout=20s")


# --- The rules ------------------------------------------------------------------------------------


def acknowledged(world):
    """Every acknowledged write is there."""
    for slug, what in world.daemon.ledger.entries().items():
        row = world.rows.get(slug)
        if what is None and row:
            yield f"bottle {slug} was deleted, and its row is there ({row['state']})"
        elif what is not None and not row:
            yield f"bottle {slug} was acknowledged and is lost"
        elif what is not None and json.loads(row["labels"]) != what["labels"]:
            yield f"bottle {slug}: labels {what['labels']} were acknowledged, {row['labels']} are stored"


def memory_and_disk(world):
    """The API tells what is stored."""
    if world.bottles is None:
        return
    for slug in sorted(set(world.rows) ^ set(world.bottles)):
        yield f"bottle {slug} is in {'the database' if slug in world.rows else 'the API'} only"
    for slug, bottle in world.bottles.items():
        row = world.rows.get(slug)
        if row and bottle["labels"] != json.loads(row["labels"]):
            yield f"bottle {slug}: the API tells labels {bottle['labels']}, {row['labels']} are stored"
        if row and bottle["state"] != row["state"] and not {bottle["state"], row["state"]} & LIVE:
            yield f"bottle {slug}: the API tells {bottle['state']}, {row['state']} is stored"


def rows_mean_something(world):
    """No row without meaning."""
    if world.tables.get("integrity", ["ok"]) != ["ok"]:
        yield f"the database is damaged: {world.tables['integrity'][:3]}"
    images = {row["id"] for row in world.tables.get("images", [])}
    for slug, row in world.rows.items():
        if row["state"] not in LIVE | AT_REST:
            yield f"bottle {slug} has the state {row['state']}"
        if row["state"] in AT_REST and (row["shim_pid"] or row["shim_token"]):
            yield f"bottle {slug} is {row['state']} and has a supervisor on record"
        if row["image"] and row["image"] not in images:
            yield f"bottle {slug} has an image that is no row"
        if not isinstance(_json(row["spec"]), dict) or not isinstance(_json(row["labels"]), dict):
            yield f"bottle {slug} has no spec that can be read"
    for table, column in (("cleanup_items", "slug"),):
        for row in world.tables.get(table, []):
            if row[column] not in world.rows:
                yield f"{table} has a row of {row[column]}, which is no bottle"


def nothing_twice(world):
    """No two bottles with one subnet or port, no two live ones with one MAC address."""
    for column in ("subnet", "pipelock_port", "git_gate_port", "supervise_port"):
        taken = collections.Counter(row[column] for row in world.rows.values() if row[column])
        for value in [value for value, count in taken.items() if count > 1]:
            yield f"{column} {value} is given to {[s for s, row in world.rows.items() if row[column] == value]}"
    ports = collections.Counter(row[name] for row in world.rows.values() for name in PORTS if row[name])
    for port in [port for port, count in ports.items() if count > 1]:
        yield f"port {port} is given twice"
    if world.bottles is not None:
        plans = [world.daemon.get(f"/bottles/{slug}/plan").json() for slug in list(world.live)[:20]]
        macs = collections.Counter(plan["mac"] for plan in plans if "mac" in plan)
        for mac in [mac for mac, count in macs.items() if count > 1]:
            yield f"the MAC address {mac} is given to two live bottles"


PORTS = ("pipelock_port", "git_gate_port", "supervise_port")  # the number of the address above sixteen bits of port
METRICS = 9  # pipelock's page


def directories_are_owned(world):
    """No directory or file without an owner."""
    state, run = world.daemon.state_dir, world.daemon.run_dir
    for entry in entries(state / "bottles"):
        if entry.name not in world.rows:
            yield f"{entry} is of no bottle"
    for slug in world.rows:
        if not (state / "bottles" / slug).is_dir():
            yield f"bottle {slug} has no stage directory"
    owned = {world.run_dir(slug) for slug in world.live}
    for entry in entries(run / "b"):
        if entry not in owned:
            yield f"{entry} is of no bottle that runs"
    digests = {row["digest"] for row in world.tables.get("images", [])}
    for entry in entries(state / "images"):
        if not DIGEST.match(entry.name) or entry.name[:64] not in digests:
            yield f"{entry} is of no image"
    for digest in digests:
        if not (state / "images" / f"{digest}.erofs").exists():
            yield f"image {digest} has no file"
    importing = world.bottles is not None and any(
        image["state"] == "importing" for image in world.daemon.get("/images").json()["images"]
    )
    for entry in [] if importing else entries(state / "importing"):
        yield f"{entry} is of no import that is under way"
    for entry in entries(state / "templates"):
        if not TEMPLATE.match(entry.name) and not world.answers:
            yield f"{entry} is half-made"
    # Within a stage directory it is the bottle's, and made anew when that starts.
    for entry in [*entries(state), *entries(run)]:
        if entry.name.endswith(".new"):
            yield f"{entry} is half-made"


def entries(folder):
    try:
        return sorted(pathlib.Path(folder).iterdir())
    except FileNotFoundError:
        return []


def sockets_are_owned(world):
    """No socket without an owner."""
    owned = [f"{world.run_dir(slug)}/" for slug in world.live]
    owned.append(f"{world.daemon.state_dir}/templates/.making/")  # a template's own machine
    for path in sorted(processes.unix_sockets(world.daemon.base) - {str(world.daemon.socket)}):
        if not any(path.startswith(prefix) for prefix in owned):
            yield f"the socket {path} is of no bottle that runs"


def processes_are_owned(world):
    """No process without an owner, and states agree with processes."""
    parents = {process.pid: process.parent for process in world.processes}
    shims = {row["shim_pid"] for row in world.live.values()}
    busy = world.bottles is not None and any(bottle["state"] == "starting" for bottle in world.bottles.values())
    end = time.monotonic() + DYING_S
    for process in world.processes:
        pid = process.pid
        while pid in parents and pid not in shims:
            pid = parents[pid]
        ours = world.daemon.process is not None and pid == world.daemon.process.pid and world.answers
        # What a killed supervisor had started is killed with it, by the kernel, and may still be going.
        if pid not in shims and not ours and not busy and not processes.wait_gone(process.pid, max(0, end - time.monotonic())):
            yield f"process {process} is of no bottle that runs"
    for slug, row in world.live.items():
        if world.answers and row["state"] == "running" and not alive(row["shim_pid"], row["shim_start_time"]):
            yield f"bottle {slug} is running, and its supervisor ({row['shim_pid']}) is not there"


def ports_are_owned(world):
    """No port without an owner: what a bottle's processes listen on is one of its own."""
    places = [row[name] for row in world.live.values() for name in PORTS if row[name]]
    given = {(f"127.0.{place >> 16}.{last}", place & 0xFFFF) for place in places for last in (1, METRICS)}
    listening = processes.listening_inodes()
    for process in world.processes:
        for inode in processes.socket_inodes(process.pid) & set(listening):
            if listening[inode] not in given:
                yield f"process {process} listens on {listening[inode]}, which is given to no live bottle"


def groups_and_mounts_are_owned(world):
    """No control group and no mount without an owner."""
    owned = {f"bottle-{world.run_dir(slug).name}" for slug in world.rows}
    for name in sorted(processes.groups_of(world.daemon.state_dir) - owned):
        yield f"the control group {name} is of no bottle"
    for path in sorted(processes.mounts_below(world.daemon.base) - set(map(str, world.daemon.mounts))):
        yield f"{path} is mounted"


def events_are_dense(world):
    """Event ids rise by one, and none is used again."""
    ids = [row["id"] for row in world.tables.get("events", [])]
    if ids != list(range(ids[0], ids[0] + len(ids))) if ids else False:
        yield f"event ids are not dense: {len(ids)} of {min(ids)}…{max(ids)}"
    last = max(ids, default=0)
    if last < world.daemon.last_event:
        yield f"the last event is {last}, and {world.daemon.last_event} was there before"
    world.daemon.last_event = max(last, world.daemon.last_event)


RULES = (
    acknowledged,
    memory_and_disk,
    rows_mean_something,
    nothing_twice,
    directories_are_owned,
    sockets_are_owned,
    processes_are_owned,
    ports_are_owned,
    groups_and_mounts_are_owned,
    events_are_dense,
)


def faults(daemon):
    """One line for each thing that is not as it has to be. The daemon answers, or has ended."""
    if daemon.process is not None and daemon.process.poll() is None:
        settle(daemon)
    world = World(daemon)
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(world)]


def check(daemon):
    found = faults(daemon)
    assert not found, "\n".join(["what has to hold does not:", *found])
