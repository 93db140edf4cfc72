"""Bad input and faults of the machine: each has its own problem type, says where, and leaves nothing."""
import contextlib
import json
import os
import pathlib
import re
import resource
import socket
import sqlite3
import subprocess

import harness
import pytest

OK = {"command": ["true"]}
BOTTLES, PLANS = "/bottles", "/plans"


def deep(levels):
    return '{"command":["true"],"labels":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def plan(**fields):
    return {**OK, **fields}


# name: (body: an object, or text that is sent as it is; status, type, pointers)
INVALID = (422, "invalid-plan")
MALFORMED = (400, "malformed-json", [])
BODIES = {
    "not JSON": ("command=true", *MALFORMED),
    "empty": ("", *MALFORMED),
    "cut short": ('{"command":["true"]', *MALFORMED),
    "trailing data": ('{"command":["true"]} {}', *MALFORMED),
    "duplicate key": ('{"command":["true"],"command":["false"]}', *MALFORMED),
    "duplicate key below": ('{"command":["true"],"env":{"A":"1","A":"2"}}', *MALFORMED),
    "bare NUL": ('{"command":["tr\0ue"]}', *MALFORMED),
    "not UTF-8": (b'{"command":["\xff"]}', *MALFORMED),
    "lone surrogate": ('{"command":["\\ud800"]}', *MALFORMED),
    "number too big for any integer": ('{"command":["true"],"resources":{"cpus":99999999999999999999}}', *MALFORMED),
    "32 levels of the wrong type": (deep(32), *INVALID, ["/labels"]),
    "depth over 32": (deep(33), *MALFORMED),
    "depth without end": ("[" * 100000, *MALFORMED),
    "over 1 MiB": (json.dumps(plan(env={"A": "x" * (1 << 20)})), 413, "body-too-large", []),
    "an array": ([], *INVALID, [""]),
    "a string": ('"true"', *INVALID, [""]),
    "null": ("null", *INVALID, [""]),
    "no command": ({}, *INVALID, ["/command"]),
    "command of no words": ({"command": []}, *INVALID, ["/command"]),
    "command whose program is empty": ({"command": [""]}, *INVALID, ["/command/0"]),
    "command that is text": ({"command": "true"}, *INVALID, ["/command"]),
    "command with a number": ({"command": ["echo", 1]}, *INVALID, ["/command/1"]),
    "command with too many words": ({"command": ["x"] * 257}, *INVALID, ["/command"]),
    "unknown field": (plan(comand=["true"]), *INVALID, ["/comand"]),
    "unknown field below": (plan(resources={"cpu": 1}), *INVALID, ["/resources/cpu"]),
    "unknown field with a slash": (plan(**{"a/b~c": 1}), *INVALID, ["/a~1b~0c"]),
    "unknown field in a sidecar": (plan(sidecars={"git_gate": {"url": "x"}}), *INVALID, ["/sidecars/git_gate/url"]),
    "unknown sidecar": (plan(sidecars={"pipe": {}}), *INVALID, ["/sidecars/pipe"]),
    "null for a string": (plan(workdir=None), *INVALID, ["/workdir"]),
    "string for an integer": (plan(resources={"cpus": "2"}), *INVALID, ["/resources/cpus"]),
    "fraction for an integer": ('{"command":["true"],"resources":{"cpus":1.5}}', *INVALID, ["/resources/cpus"]),
    "float for an integer": ('{"command":["true"],"resources":{"cpus":1.0}}', *INVALID, ["/resources/cpus"]),
    "no processors": (plan(resources={"cpus": 0}), *INVALID, ["/resources/cpus"]),
    "negative processors": (plan(resources={"cpus": -1}), *INVALID, ["/resources/cpus"]),
    "256 processors": (plan(resources={"cpus": 256}), *INVALID, ["/resources/cpus"]),
    "processors past 32 bits": (plan(resources={"cpus": (1 << 32) + 1}), *INVALID, ["/resources/cpus"]),
    "too little memory": (plan(resources={"memory_mib": 1}), *INVALID, ["/resources/memory_mib"]),
    "too much memory": (plan(resources={"memory_mib": 1 << 40}), *INVALID, ["/resources/memory_mib"]),
    "unknown backend": (plan(backend="docker"), *INVALID, ["/backend"]),
    "unknown image": (plan(backend="qemu", image="alpine:3"), *INVALID, ["/image"]),
    "relative workdir": (plan(workdir="tmp"), *INVALID, ["/workdir"]),
    "workdir with ..": (plan(workdir="/tmp/../etc"), *INVALID, ["/workdir"]),
    "workdir too long": (plan(workdir="/" + "x" * 4096), *INVALID, ["/workdir"]),
    "NUL in a value": (plan(env={"A": "a\0b"}), *INVALID, ["/env/A"]),
    "NUL in an argument": (plan(command=["echo", "\0"]), *INVALID, ["/command/1"]),
    "NUL in a name": ('{"command":["true"],"env":{"A\\u0000B":"1"}}', *MALFORMED),
    "variable of no name": (plan(env={"": "1"}), *INVALID, ["/env/"]),
    "variable with =": (plan(env={"A=B": "1"}), *INVALID, ["/env/A=B"]),
    "variable that starts with a digit": (plan(env={"1A": "1"}), *INVALID, ["/env/1A"]),
    "variable that is no string": (plan(env={"A": 1}), *INVALID, ["/env/A"]),
    "variable that bottled sets": (plan(env={"HTTPS_PROXY": "http://evil"}), *INVALID, ["/env/HTTPS_PROXY"]),
    "the same in lower case": (plan(env={"no_proxy": "*"}), *INVALID, ["/env/no_proxy"]),
    "variable too long": (plan(env={"A": "x" * 140000}), *INVALID, ["/env/A"]),
    "rule that allows all": (plan(egress={"allow": ["*"]}), *INVALID, ["/egress/allow/0"]),
    "rule with a scheme": (plan(egress={"allow": ["a.example", "https://b.example"]}), *INVALID, ["/egress/allow/1"]),
    "rule with port 0": (plan(egress={"allow": ["a.example:0"]}), *INVALID, ["/egress/allow/0"]),
    "rule with port 65536": (plan(egress={"allow": ["a.example:65536"]}), *INVALID, ["/egress/allow/0"]),
    "rule with a space": (plan(egress={"allow": ["a.example b.example"]}), *INVALID, ["/egress/allow/0"]),
    "rule with a line break": (plan(egress={"allow": ["a.example\nhttp_access allow all"]}), *INVALID, ["/egress/allow/0"]),
    "rule that is there twice": (plan(egress={"allow": ["a.example", "A.example."]}), *INVALID, ["/egress/allow/1"]),
    "rule as an object without a host": (plan(egress={"allow": ["a.example", {"private": True}]}), *INVALID, ["/egress/allow/1/host"]),
    "rule as an object, of every fault": (
        plan(egress={"allow": [{"host": "*"}, {"host": "a.example", "private": "yes"}, {"host": "b.example", "port": 443}, 7, None,
                               {"host": "A.example.", "private": True}, {"host": ["c.example"]}], "engine": "tinyproxy"}),
        *INVALID,
        ["/egress/allow/0/host", "/egress/allow/1/private", "/egress/allow/2/port", "/egress/allow/3", "/egress/allow/4",
         "/egress/allow/5", "/egress/allow/6/host", "/egress/engine"],
    ),
    "rule that is an address in another form": (
        plan(egress={"allow": ["127.1", "0x7f.1", "2130706433", {"host": "010.0.0.1"}, "[::1]", "::ffff:127.0.0.1"]}),
        *INVALID,
        [f"/egress/allow/{n}{'/host' if n == 3 else ''}" for n in range(6)],
    ),
    "rule with userinfo": (plan(egress={"allow": ["a@b.example"]}), *INVALID, ["/egress/allow/0"]),
    "engine that is unknown": (plan(egress={"engine": "git-gate"}), *INVALID, ["/egress/engine"]),
    "engine that is no string": (plan(egress={"engine": True}), *INVALID, ["/egress/engine"]),
    "slug of capitals": (plan(slug="Bottle"), *INVALID, ["/slug"]),
    "slug that is empty": (plan(slug=""), *INVALID, ["/slug"]),
    "slug with a slash": (plan(slug="../etc"), *INVALID, ["/slug"]),
    "slug that starts with -": (plan(slug="-a"), *INVALID, ["/slug"]),
    "slug of 64": (plan(slug="a" * 64), *INVALID, ["/slug"]),
    "slug that is a number": (plan(slug=7), *INVALID, ["/slug"]),
    "label too long": (plan(labels={"team": "x" * 257}), *INVALID, ["/labels/team"]),
    "label of a bad name": (plan(labels={"a b": "x"}), *INVALID, ["/labels/a b"]),
    "no time to live": (plan(ttl_seconds=0), *INVALID, ["/ttl_seconds"]),
    "a restart policy that there is not": (plan(restart={"policy": "unless-stopped"}), *INVALID, ["/restart/policy"]),
    "all at once": (
        {"slug": "A", "command": [], "resources": {"cpus": 0, "disk": 1}, "env": {"HTTP_PROXY": "x"}, "nonsense": 1},
        *INVALID,
        ["/command", "/env/HTTP_PROXY", "/nonsense", "/resources/cpus", "/resources/disk", "/slug"],
    ),
}


def check_problem(reply, status, kind, pointers=None):
    """What every refusal must look like."""
    assert (reply.status, reply.problem) == (status, kind), reply
    problem = reply.json()
    assert problem["status"] == status
    assert problem["title"] and problem["detail"], problem
    if pointers is not None:
        assert reply.pointers == sorted(pointers), problem
    for fault in problem.get("errors", []):
        assert fault["code"] and fault["detail"], problem


@pytest.mark.parametrize("path", [BOTTLES, PLANS])
@pytest.mark.parametrize("name", BODIES)
def test_body(shared, name, path):
    body, status, kind, pointers = BODIES[name]
    before = shared.footprint(), shared.rows()
    check_problem(shared.post(path, body), status, kind, pointers)
    assert (shared.footprint(), shared.rows()) == before


def test_faults_say_what_to_do(shared):
    """The details name the field that was meant, the value that would do, the rule that was broken."""
    for body, words in (
        (plan(comand=["x"]), "command"),
        (plan(resources={"cpus": 99}), "16"),
        (plan(backend="docker"), "qemu"),
        (plan(env={"HTTPS_PROXY": "x"}), "bottled"),
        (plan(slug="Bottle"), "a-z"),
    ):
        detail = shared.post(PLANS, body).json()["errors"][0]["detail"]
        assert words in detail, detail


# What PATCH is sent: (status, type, pointers), all faults at once.
PATCHES = {
    "not JSON": ("labels=1", *MALFORMED),
    "duplicate key": ('{"labels":{},"labels":{}}', *MALFORMED),
    "an array": ([], *INVALID, [""]),
    "null": ("null", *INVALID, [""]),
    "no time to live": ({"ttl_seconds": 0}, *INVALID, ["/ttl_seconds"]),
    "all that can't be changed": (
        {"slug": "x", "backend": "qemu", "image": "x", "command": ["x"], "workdir": "/", "env": {}, "resources": {},
         "sidecars": None, "secrets": {}, "mounts": [], "restart": {}, "comand": 1},
        *INVALID,
        sorted(["/slug", "/backend", "/image", "/command", "/workdir", "/env", "/resources", "/sidecars", "/secrets",
                "/mounts", "/restart", "/comand"]),
    ),
    "faults of every kind": (
        {"egress": {"allow": ["ok.example", "http://x/", "ok.example"], "deny": []}, "labels": {"a b": "1", "c": 2}, "env": {}},
        *INVALID,
        ["/egress/allow/1", "/egress/allow/2", "/egress/deny", "/env", "/labels/a b", "/labels/c"],
    ),
    "labels that are text": ({"labels": "x"}, *INVALID, ["/labels"]),
    "null in a list": ({"egress": {"allow": [None]}}, *INVALID, ["/egress/allow/0"]),
    "too many rules": ({"egress": {"allow": [f"h{n}.example" for n in range(1001)]}}, *INVALID, ["/egress/allow"]),
    "over 1 MiB": (json.dumps({"labels": {"a": "x" * (1 << 20)}}), 413, "body-too-large", []),
}


@pytest.fixture(scope="module")
def patched(shared):
    shared.create({"slug": "patched", "command": ["true"], "labels": {"a": "1"}})
    return shared.get("/bottles/patched")


@pytest.mark.parametrize("name", PATCHES)
def test_patch(shared, patched, name):
    body, status, kind, pointers = PATCHES[name]
    for media in ("application/merge-patch+json", "application/json"):
        reply = shared.request("PATCH", "/bottles/patched", body if body != [] else "[]", headers={"Content-Type": media})
        assert (reply.status, reply.problem) == (status, kind), reply
        assert reply.pointers == pointers
        if "/slug" in pointers:
            faults = {fault["pointer"]: fault for fault in reply.json()["errors"]}
            assert faults["/slug"]["code"] == "immutable" and "can't be changed" in faults["/slug"]["detail"]
            assert [faults[f"/{name}"]["code"] for name in ("mounts", "restart", "comand")] == ["immutable", "immutable", "unknown-field"]
    after = shared.get("/bottles/patched")
    assert (after.body, after.headers["ETag"]) == (patched.body, patched.headers["ETag"])


EVENT_QUERIES = ["after=-1", "after=x", "after=9223372036854775807", "limit=0", "limit=1001", "slug=A", "slug=", "type=", "type=bottle",
                 "type=bottle.running&type=x", "after=1&after=2", "before=1"]


@pytest.mark.parametrize("query", EVENT_QUERIES)
def test_events_query(shared, query):
    reply = shared.get(f"/events?{query}")
    assert (reply.status, reply.problem) == (400, "invalid-query"), reply


def test_slug_taken(daemon):
    daemon.create(plan(slug="taken"))
    before = daemon.footprint()
    reply = daemon.post(BOTTLES, plan(slug="taken"))
    check_problem(reply, 409, "slug-taken")
    assert "taken" in reply.json()["detail"]
    assert daemon.footprint() == before


HTTP = {
    # (method, path, headers, body): (status, type)
    "unknown path": (("GET", "/nothing", {}, None), (404, "not-found")),
    "unknown bottle": (("GET", "/bottles/none", {}, None), (404, "not-found")),
    "bottle of no valid name": (("GET", "/bottles/No_ne", {}, None), (404, "not-found")),
    "unknown file": (("GET", "/bottles/none/plan/files/gvproxy.yaml", {}, None), (404, "not-found")),
    "delete of nothing": (("DELETE", "/bottles/none", {}, None), (404, "not-found")),
    "wrong method": (("DELETE", "/bottles", {}, None), (405, "method-not-allowed")),
    "method nobody knows": (("BREW", "/bottles", {}, None), (405, "method-not-allowed")),
    "unknown parameter": (("GET", "/bottles?stat=running", {}, None), (400, "invalid-query")),
    "parameter twice": (("GET", "/bottles?limit=1&limit=2", {}, None), (400, "invalid-query")),
    "limit 0": (("GET", "/bottles?limit=0", {}, None), (400, "invalid-query")),
    "unknown state": (("GET", "/bottles?state=happy", {}, None), (400, "invalid-query")),
    "start that is neither": (("POST", "/bottles?start=maybe", {}, OK), (400, "invalid-query")),
    "wait for nonsense": (("POST", "/bottles?start=true&wait=happy", {}, OK), (400, "invalid-query")),
    "timeout of no unit": (("POST", "/bottles?start=true&wait=exited&timeout=soon", {}, OK), (400, "invalid-query")),
    "not JSON by its type": (("POST", "/bottles", {"Content-Type": "text/plain"}, OK), (415, "unsupported-media-type")),
    "address without end": (("GET", "/" + "a" * 100000, {}, None), (414, "uri-too-long")),
}


@pytest.mark.parametrize("name", HTTP)
def test_http(shared, name):
    (method, path, headers, body), expected = HTTP[name]
    before = shared.footprint()
    reply = shared.request(method, path, body=body, headers=headers)
    check_problem(reply, *expected)
    if reply.status == 405:
        assert "GET" in reply.headers["Allow"] and "POST" in reply.headers["Allow"]
    assert shared.footprint() == before


def test_curl_form_type_is_taken(shared):
    """`curl -d` says it sends a form; what counts is that the body is the JSON that was asked for."""
    status, body = shared.curl("-d", json.dumps(OK), "http://x/plans")
    assert status == 200, body


# --- Faults of the machine ---------------------------------------------------------------------


def test_socket_path_too_long(new_daemon):
    daemon = new_daemon()
    daemon.run_dir = daemon.base / ("r" * 70)
    daemon.socket = daemon.base / "b.sock"
    daemon.config["socket"] = str(daemon.socket)
    daemon.start()
    before = daemon.footprint()
    for path in (PLANS, BOTTLES):
        reply = daemon.post(path, OK)
        check_problem(reply, 422, "socket-path-too-long")
        assert "run_dir" in reply.json()["detail"] or "run-dir" in reply.json()["detail"]
    assert daemon.footprint() == before


def test_no_free_port(new_daemon):
    daemon = new_daemon(config={"host_ports": "29001-29003"}).start()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 29002))  # another program's: passed over
        other.listen()
        for slug in ("one", "two"):
            daemon.create(plan(slug=slug))
        ports = [forward_port(daemon, slug) for slug in ("one", "two")]
        assert sorted(ports) == [29001, 29003]
        before = daemon.footprint()
        reply = daemon.post(BOTTLES, plan(slug="three"))
        check_problem(reply, 503, "no-free-port")
        assert "host_ports" in reply.json()["detail"] or "host-ports" in reply.json()["detail"]
        assert daemon.footprint() == before
        assert daemon.get("/bottles/three").status == 404
        daemon.remove("one")
        daemon.create(plan(slug="three"))
        assert forward_port(daemon, "three") == ports[0]


def forward_port(daemon, slug):
    return daemon.get(f"/bottles/{slug}/plan").json()["port_forwards"][0]["host_port"]


def test_too_many_bottles(new_daemon):
    daemon = new_daemon(config={"max_bottles": 2}).start()
    for slug in ("one", "two"):
        daemon.create(plan(slug=slug))
    before = daemon.footprint()
    reply = daemon.post(BOTTLES, plan(slug="three"))
    check_problem(reply, 503, "too-many-bottles")
    assert "max_bottles" in reply.json()["detail"] or "2" in reply.json()["detail"]
    assert daemon.footprint() == before
    daemon.remove("one")
    daemon.create(plan(slug="three"))


SUBNETS = 254 + 32768  # of 192.168.0.0/16 and 10.128.0.0/9, one of which (192.168.17.0/24) is never used


def test_more_bottles_than_there_are_24s(new_daemon):
    """Every /24 has its bottle: their rows are written into the database of a daemon that is not running."""
    daemon = new_daemon(config={"max_bottles": SUBNETS + 1}).start(timeout=60)
    daemon.create(plan(slug="model"))
    daemon.stop()
    fill_subnets(daemon.state_dir / "bottled.db")
    daemon.start(timeout=60)
    before = daemon.footprint()
    assert before["rows"]["bottles"] == SUBNETS - 1
    reply = daemon.post("/plans", plan(slug="next"))
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+/28", reply.json()["subnet"]), reply.json()
    assert daemon.footprint() == before
    daemon.remove("filler-100")
    assert daemon.create(plan(slug="lucky"))["guest_ip"] == "192.168.100.2", "a /24 that is free again comes first"
    assert daemon.create(plan(slug="next"))["guest_ip"] == reply.json()["guest_ip"]
    daemon.kill()
    (daemon.state_dir / "bottled.db").unlink()  # 33,000 bottles are not deleted one by one at the end


def fill_subnets(database):
    connection = sqlite3.connect(database)
    with connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(bottles)") if row[1] != "sequence"]
        model = dict(zip(columns, connection.execute(f"SELECT {', '.join(columns)} FROM bottles").fetchone()))
        ports = (port for port in range(1024, 65536) if not 20000 <= port <= 32767)
        rows = []
        for subnet in range(SUBNETS):
            if subnet not in (17, model["subnet"]):
                row = {**model, "slug": f"filler-{subnet}", "subnet": subnet, "pipelock_port": next(ports)}
                rows.append([row[column] for column in columns])
        marks = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO bottles ({', '.join(columns)}) VALUES ({marks})", rows)
    connection.close()


@contextlib.contextmanager
def read_only(directory):
    """A directory in which nothing can be made, for root too."""
    if os.getuid() != 0:
        directory.chmod(0o555)
        try:
            yield
        finally:
            directory.chmod(0o755)
        return
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@contextlib.contextmanager
def full(directory):
    """A directory on a disk that has no room."""
    if os.getuid() != 0:
        pytest.skip("a full disk is a tmpfs here, which takes root to mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "full", directory], check=True)
    try:
        filler = directory / "filler"
        with open(filler, "wb", buffering=0) as out, contextlib.suppress(OSError):
            while out.write(bytes(4096)):
                pass
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.parametrize("spoil", [read_only, full])
def test_stage_directory_unwritable(daemon, spoil):
    daemon.create(plan(slug="first"))  # makes the folder of the stage directories
    daemon.remove("first")
    folder = daemon.state_dir / "bottles"
    before = daemon.footprint()
    with spoil(folder):
        there = sorted(os.listdir(folder))
        reply = daemon.post(BOTTLES, plan(slug="unlucky"))
        check_problem(reply, 507, "stage-unwritable")
        assert str(folder) in reply.json()["detail"], "which directory?"
        assert sorted(os.listdir(folder)) == there
        assert daemon.get("/bottles/unlucky").status == 404
        assert daemon.get("/bottles").json()["bottles"] == []
    assert daemon.footprint() == before
    daemon.create(plan(slug="unlucky"))


def broken_guest(base):
    """A guest folder whose boot root is no boot root: the kernel boots into a panic."""
    folder = pathlib.Path(base) / "guest"
    folder.mkdir()
    (folder / "vmlinuz").symlink_to(harness.BUILD / "guest" / "vmlinuz")
    (folder / "images").symlink_to(harness.BUILD / "guest" / "images")
    (folder / "initramfs.img").write_bytes(b"this is no cpio archive\n" * 100)
    return folder


def silent_guest(base):
    """A guest folder whose boot root starts something that never speaks to the host."""
    folder = broken_guest(base)
    busybox = harness.ROOT / ".tools" / "busybox"
    root = pathlib.Path(base) / "root"
    for name in ("lib64", "lib", "proc", "dev"):
        (root / name).mkdir(parents=True)
    (root / "busybox").write_bytes((busybox / "busybox").read_bytes())
    for library in (busybox / "lib").iterdir():
        place = "lib64" if library.name.startswith("ld-") else "lib"
        (root / place / library.name).write_bytes(library.read_bytes())
        (root / place / library.name).chmod(0o755)
    (root / "busybox").chmod(0o755)
    (root / "init").write_text("#!/busybox sh\nexec /busybox sleep 100000\n")
    (root / "init").chmod(0o755)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input="\n".join(names).encode(), cwd=root, capture_output=True, check=True
    )
    (folder / "initramfs.img").write_bytes(archive.stdout)
    return folder


@pytest.mark.parametrize("guest", [broken_guest, silent_guest])
def test_guest_that_never_comes_up(new_daemon, guest):
    daemon = new_daemon(config={"boot_timeout": "4s"})
    daemon.config["guest_dir"] = str(guest(daemon.base))
    daemon.start()
    before = daemon.footprint()
    with harness.Clock() as clock:
        reply = daemon.post("/bottles?start=true&wait=running&timeout=60s", plan(slug="dumb"))
    assert clock.seconds < 30
    check_problem(reply, 504, "boot-failed")
    assert "did not come up within" in reply.json()["detail"] or "ended before" in reply.json()["detail"], reply
    # One call that creates and starts does both or neither.
    assert daemon.bottle("dumb") is None
    assert daemon.footprint() == before
    # Started by itself it stays, failed, with its reason and its logs.
    daemon.create(plan(slug="dumb"))
    check_problem(daemon.post("/bottles/dumb/start?wait=running&timeout=60s"), 504, "boot-failed")
    bottle = daemon.bottle("dumb")
    assert bottle["state"] == "failed" and bottle["reason"], bottle
    assert daemon.footprint()["processes"] == []
    daemon.remove("dumb")
    assert daemon.footprint() == before


def test_sidecar_without_a_program(daemon):
    """git-gate and supervise run the operator's program; none is configured here."""
    before = daemon.footprint()
    reply = daemon.post(BOTTLES, plan(sidecars={"git_gate": {}}))
    check_problem(reply, 503, "preflight-failed")
    assert "git_gate_program" in reply.text or "git-gate-program" in reply.text, reply
    assert daemon.footprint() == before


def test_store_that_can_not_be_written(daemon):
    """No room for the database: the bottle is refused whole."""
    if os.getuid() != 0:
        pytest.skip("a file size limit is set on a running process, which takes root")
    daemon.create(plan(slug="before"))
    before = daemon.footprint()
    limit = (daemon.state_dir / "bottled.db-wal").stat().st_size + 1
    with file_size_limit(daemon.pid, limit):
        reply = daemon.post(BOTTLES, plan(slug="unlucky", labels={f"l{n}": "x" * 200 for n in range(60)}))
        assert (reply.status, reply.problem) in ((503, "store-failed"), (507, "stage-unwritable")), reply
    assert daemon.footprint() == before
    assert daemon.get("/bottles/unlucky").status == 404
    daemon.create(plan(slug="unlucky"))


@contextlib.contextmanager
def file_size_limit(pid, limit):
    """prlimit(2) from outside; the daemon has to survive SIGXFSZ as well."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
