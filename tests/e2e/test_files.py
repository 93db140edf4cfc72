"""Files into and out of a running bottle: one file, and folders as tar streams."""
import contextlib
import gzip
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import tarfile
import threading
import urllib.parse

import conftest
import harness
import pytest
from pace import until
from test_exec import LASTING, SLUG, memory, run

BYTES = {"Content-Type": "application/octet-stream"}
MOST = 16 << 20  # files_max_bytes
FILE, FOLDER = "files", "archive"


@pytest.fixture(scope="module")
def box(row):
    """A bottle that these tests share."""
    one = harness.Daemon(config={"files_max_bytes": MOST})
    try:
        one.start()
        one.create({"slug": SLUG, "command": LASTING, "resources": {"memory_mib": 384}}, "?start=true&wait=running")
        yield one
    finally:
        conftest.finish(one)


def where(path, what=FILE, slug=SLUG, **query):
    return f"/bottles/{slug}/{what}?" + urllib.parse.urlencode({"path": path, **query}, safe="/")


def put(daemon, path, data=b"", status=204, what=FILE, **query):
    reply = daemon.request("PUT", where(path, what, **query), data, BYTES)
    assert reply.status == status, reply
    return reply


def get(daemon, path, status=200, what=FILE):
    reply = daemon.get(where(path, what))
    assert reply.status == status, reply
    return reply


def shell(daemon, script):
    result = run(daemon, script)
    assert result["exit_code"] == 0, result
    return result["stdout"]


def tar(*members, form=tarfile.PAX_FORMAT):
    """A tar stream of (name, bytes) or TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            info, data = (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(name, kind=tarfile.SYMTYPE, target="", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def listed(daemon, folder):
    """What `ls -A` has there."""
    return shell(daemon, f"ls -A '{folder}'").split()


# --- One file ------------------------------------------------------------------------------------


def test_in_and_out(box):
    data = bytes(range(256)) * 4000 + b"end"
    put(box, "/job/new folder/\u00e9.bin", data)
    reply = get(box, "/job/new folder/\u00e9.bin")
    assert reply.body == data and reply.headers["Content-Length"] == str(len(data))
    assert (reply.headers["X-File-Mode"], reply.headers["X-File-Owner"]) == ("0644", "0:0")
    assert reply.headers["Content-Type"] == "application/octet-stream" and reply.headers["Last-Modified"].endswith(" GMT")
    assert shell(box, "sha256sum '/job/new folder/\u00e9.bin'").split()[0] == hashlib.sha256(data).hexdigest()
    head = box.request("HEAD", where("/job/new folder/\u00e9.bin"))
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072])
def test_every_size_about_a_block(box, size):
    data = os.urandom(size)
    put(box, "/job/sized", data)
    reply = get(box, "/job/sized")
    assert reply.body == data and reply.headers["Content-Length"] == str(size)


def test_mode_and_owner(box):
    def state(path):
        return shell(box, f"stat -c '%a %u:%g' {path}").strip()

    put(box, "/job/own", b"#!/bin/sh\necho ran\n", mode="0755", owner="1000:1001")
    assert state("/job/own") == "755 1000:1001" and shell(box, "/job/own") == "ran\n"
    put(box, "/job/own", b"another")
    assert state("/job/own") == "755 1000:1001", "what is replaced leaves both"
    put(box, "/job/own", b"", mode="4711", owner="0:0")
    assert state("/job/own") == "4711 0:0"
    put(box, "/job/own", b"new words in a setuid file")
    assert state("/job/own") == "711 0:0"


def test_a_file_is_replaced_at_once(box):
    """A reader sees all of the old one or all of the new one."""
    old, new = b"old\n" * 20000, b"new\n" * 20000
    put(box, "/job/whole", old)
    script = "for i in $(seq 20); do uniq /job/whole | tr -d '\\n'; echo; done"
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(shell(box, script).split()))
    thread.start()
    for data in (new, old) * 3:
        put(box, "/job/whole", data)
    thread.join(60)
    assert len(seen) == 20 and set(seen) <= {"old", "new"}, seen
    assert not [name for name in listed(box, "/job") if name.startswith(".bottled")]


LINKS = """
rm -rf /links; mkdir -p /links/real; cd /links; echo kept > real/file
ln -s real way; ln -s /links/real/file last; ln -s /nowhere/at/all broken; ln -s .. up; mkfifo fifo
"""
REFUSED = [
    ("GET", "/links/way/file", "/links/way is a link to real"),
    ("GET", "/links/last", "/links/last is a link to /links/real/file"),
    ("GET", "/links/up/etc/passwd", "/links/up is a link to .."),
    ("GET", "/links/broken", "is a link to /nowhere/at/all"),
    ("GET", "/links/real", "is a folder"),
    ("GET", "/links/fifo", "is a FIFO"),
    ("GET", "/dev/null", "is a device"),
    ("GET", "/links/real/file/x", "is a file, no folder"),
    ("GET", "/", "is a folder"),
    ("PUT", "/links/way/new", "/links/way is a link to real"),
    ("PUT", "/links/broken/new", "is a link to /nowhere/at/all"),
    ("PUT", "/links/real", "is a folder"),
    ("PUT", "/links/fifo", "is a FIFO"),
    ("PUT", "/dev/null", "is a device"),
    ("PUT", "/links/real/file/x", "is a file, no folder"),
    ("PUT", "/proc/version", "made up by the kernel"),
    ("PUT", "/sys/new", "made up by the kernel"),
]


def test_what_is_refused(box):
    shell(box, LINKS)
    for method, path, words in REFUSED:
        reply = box.request(method, where(path), b"x" if method == "PUT" else None, BYTES)
        assert (reply.status, reply.problem) == (409, "file-refused"), (method, path, reply)
        assert words in reply.json()["detail"], reply
    assert get(box, "/links/real/none", 404).problem == "file-not-found"
    assert get(box, "/none/at/all", 404).problem == "file-not-found"
    assert shell(box, "cat /links/real/file; ls -A /links/real") == "kept\nfile\n"


def test_a_link_is_replaced_and_not_followed(box):
    shell(box, LINKS)
    put(box, "/links/last", b"mine")
    assert shell(box, "cat /links/last; cat /links/real/file; test -L /links/last || echo none") == "minekept\nnone\n"


BAD = [
    {}, {"path": ""}, {"path": "job/x"}, {"path": "/job/../etc/passwd"}, {"path": "/job/./x"}, {"path": "//job"},
    {"path": "/job//x"}, {"path": "/job/"}, {"path": "/.."}, {"path": "/" + "a" * 256}, {"path": "/a" * 2048},
    {"path": "/x", "mode": "9"}, {"path": "/x", "mode": "rwx"}, {"path": "/x", "mode": "17777"}, {"path": "/x", "mode": ""},
    {"path": "/x", "owner": "root"}, {"path": "/x", "owner": "1"}, {"path": "/x", "owner": "1:"}, {"path": "/x", "owner": "-1:0"},
    {"path": "/x", "owner": "1:4294967295"}, {"path": "/x", "owner": "keep"}, {"path": "/x", "other": "1"},
]


@pytest.mark.parametrize("query", BAD, ids=[urllib.parse.urlencode(bad)[:40] for bad in BAD])
def test_bad_queries(box, query):
    reply = box.request("PUT", f"/bottles/{SLUG}/files?" + urllib.parse.urlencode(query, safe="/"), b"x", BYTES)
    assert (reply.status, reply.problem) == (400, "invalid-query"), reply


def test_where_there_is_no_bottle_that_runs(box):
    box.create({"slug": "still", "command": ["true"]})
    for what in (FILE, FOLDER):
        for method in ("GET", "PUT"):
            assert box.request(method, where("/x", what, "none")).status == 404
            assert box.request(method, where("/x", what, "still")).problem == "wrong-state"
    assert box.request("POST", where("/x"), b"").status == 405


def test_what_the_kernel_makes_up(box):
    assert get(box, "/proc/version").body == shell(box, "cat /proc/version").encode()
    reply = get(box, "/sys/kernel/uevent_seqnum")
    assert reply.body.strip().isdigit() and reply.headers["Content-Length"] == str(len(reply.body))
    assert get(box, "/proc/kallsyms").headers["Content-Length"] is None, "too long to be known in advance"
    assert get(box, "/proc", 409, FOLDER).problem == "file-refused"


def test_no_room(box):
    shell(box, "mkdir -p /small && mount -t tmpfs -o size=1m none /small")
    put(box, "/small/kept", b"kept")
    for path, what, data in (("/small/kept", FILE, b"x" * (8 << 20)), ("/small", FOLDER, tar(("a", b"x" * (8 << 20))))):
        reply = put(box, path, data, 507, what)
        assert reply.problem == "guest-full" and "No space left" in reply.json()["detail"]
    assert listed(box, "/small") == ["kept"] and get(box, "/small/kept").body == b"kept"
    shell(box, "umount /small")


def test_the_most_that_is_copied(box):
    assert box.get("/limits").json()["daemon"]["files_max_bytes"] == MOST
    reply = box.request("PUT", where("/job/large"), None, {"Content-Length": str(MOST + 1), "Expect": "100-continue"})
    assert (reply.status, reply.problem) == (413, "file-too-large")
    shell(box, f"truncate -s {MOST + 1} /tmp/large")
    assert get(box, "/tmp/large", 413).problem == "file-too-large"
    shell(box, "rm /tmp/large")


def curl(box, *arguments):
    argv = ["curl", "-sS", "--unix-socket", str(box.socket), *arguments]
    return subprocess.run(argv, capture_output=True, timeout=60, check=False)


def test_real_clients(box, tmp_path):
    """curl: with Expect: 100-continue, from a pipe of any length, and where it is refused half-way."""
    data = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(data)
    url = "http://x" + where("/job/by-curl")
    assert curl(box, "--fail", "-T", str(tmp_path / "file"), url).returncode == 0
    assert curl(box, "--fail", url).stdout == data
    piped = f"cat file | curl -sS --fail --unix-socket {box.socket} -T - '{url}'"
    subprocess.run(["bash", "-c", piped], cwd=tmp_path, check=True, timeout=60)
    assert curl(box, "--fail", url).stdout == data
    endless = f"head -c {MOST + (48 << 20)} /dev/zero | curl -sS -w '%{{http_code}}' --unix-socket {box.socket} -T - '{url}'"
    done = subprocess.run(["bash", "-c", endless], capture_output=True, timeout=100, check=False)
    assert b"file-too-large" in done.stdout, done
    assert curl(box, "--fail", url).stdout == data, "as it was"
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/b/c").write_text("deep\n")
    script = (f"tar -C tree -c . | curl -sS --fail --unix-socket {box.socket} -T - 'http://x{where('/job/tree', FOLDER)}' && "
              f"mkdir back && curl -sS --fail --unix-socket {box.socket} 'http://x{where('/job/tree', FOLDER)}' | tar -C back -x")
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "back/a/b/c").read_text() == "deep\n"


# --- Whoever leaves --------------------------------------------------------------------------------


@contextlib.contextmanager
def half_way(box, path, what=FILE, sent=b"x" * 300000, slug=SLUG):
    """An upload that has begun and does not go on."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(box.socket))
        wire.sendall(f"PUT {where(path, what, slug)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode() + sent)
        yield wire


def test_a_client_that_leaves_changes_nothing(box):
    put(box, "/leave/file", b"kept")
    with half_way(box, "/leave/file"):
        until(lambda: len(listed(box, "/leave")) == 2)
    until(lambda: listed(box, "/leave") == ["file"])
    assert get(box, "/leave/file").body == b"kept"
    with half_way(box, "/leave/new"):
        until(lambda: len(listed(box, "/leave")) == 2)
    until(lambda: listed(box, "/leave") == ["file"])


def test_a_client_that_reads_no_further(box):
    shell(box, "head -c 12000000 /dev/zero > /tmp/zeros")
    before = memory(box.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            wire = stack.enter_context(socket.socket(socket.AF_UNIX))
            wire.connect(str(box.socket))
            wire.sendall(f"GET {where('/tmp/zeros')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert wire.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert get(box, "/etc/hostname").body == b"box\n", "another is not held up"
        assert memory(box.pid) - before < 8 << 20
    until(lambda: run(box, "ps -o args | grep -c '[i]nit'")["stdout"] == "1\n")
    shell(box, "rm /tmp/zeros")


def test_only_so_many_at_once(box):
    shell(box, "mkdir -p /many")
    with contextlib.ExitStack() as stack:
        for number in range(200):
            wire = stack.enter_context(socket.socket(socket.AF_UNIX))
            wire.connect(str(box.socket))
            wire.sendall(f"PUT {where(f'/many/{number}')} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode())
            if number >= 63 and box.get(where("/etc/hostname")).status == 503:
                break
        reply = get(box, "/etc/hostname", 503)
        assert reply.problem == "too-many-copies" and number < 100, reply
    until(lambda: box.get(where("/etc/hostname")).status == 200, 30)
    until(lambda: run(box, "true")["exit_code"] == 0, 30)  # one of them may have been in its place again
    until(lambda: listed(box, "/many") == [], 30)


def test_many_at_once_are_not_mixed_up(box):
    faults = []

    def one(number):
        data = os.urandom(400000)
        try:
            put(box, f"/mixed/{number}", data)
            assert get(box, f"/mixed/{number}").body == data
        except AssertionError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults and len(listed(box, "/mixed")) == 12


# --- Folders -----------------------------------------------------------------------------------------

TREE = """
rm -rf /tree; mkdir -p /tree/empty /tree/deep/er; cd /tree; umask 022
echo one > deep/er/one; head -c 200000 /dev/urandom > deep/large; chown 12:34 deep/large; chmod 4750 deep/large
ln -s /etc/passwd out; ln -s deep/er in; ln deep/er/one again; mkfifo -m 600 fifo; mknod null c 1 3
touch -d '2020-01-02 03:04:05' deep/er/one; echo x > "a name
with a line"; echo y > $(printf '\\351'); : > nothing
long=$(printf 'x%.0s' $(seq 200)); mkdir $long; echo z > $long/$long
"""


def unpacked(reply):
    with tarfile.open(fileobj=io.BytesIO(reply.body), errors="surrogateescape") as archive:
        return {info.name: (info, archive.extractfile(info).read() if info.isreg() else b"") for info in archive}


def test_a_folder_comes_out(box):
    shell(box, TREE)
    reply = get(box, "/tree", what=FOLDER)
    assert reply.headers["Content-Type"] == "application/x-tar"
    found = unpacked(reply)
    count = int(shell(box, "cd /tree; find . -mindepth 1 -print0 | tr -dc '\\0' | wc -c"))
    assert len(found) == count - 1, "all but the device"
    assert "null" not in found and found["\udce9"][1] == b"y\n" and found["a name\nwith a line"][1] == b"x\n"
    one, large = found["deep/er/one"], found["deep/large"]
    assert one[1] == found["again"][1] == b"one\n" and one[0].mtime == 1577934245
    assert (large[0].mode, large[0].uid, large[0].gid, len(large[1])) == (0o4750, 12, 34, 200000)
    assert (found["out"][0].linkname, found["in"][0].linkname) == ("/etc/passwd", "deep/er")
    assert found["empty"][0].isdir() and found["fifo"][0].isfifo() and found["nothing"][1] == b""
    assert found["x" * 200 + "/" + "x" * 200][1] == b"z\n"
    assert len(unpacked(get(box, "/tree/empty", what=FOLDER))) == 0
    assert get(box, "/tree/nothing", 409, FOLDER).problem == "file-refused"
    assert get(box, "/tree/in", 409, FOLDER).problem == "file-refused"
    assert get(box, "/none", 404, FOLDER).problem == "file-not-found"


def test_all_of_the_root_comes_out(box):
    found = unpacked(get(box, "/", what=FOLDER))
    assert found["etc/hostname"][1] == b"box\n"
    assert "proc" in found and not [name for name in found if name.startswith(("proc/", "sys/"))]


def test_a_folder_goes_in(box):
    stream = tar(
        entry("./", tarfile.DIRTYPE),
        entry("dir", tarfile.DIRTYPE, mode=0o2750, uid=7, gid=8),
        ("dir/file", b"file\n"), ("made/by/the/way", b"way\n"), ("/absolute", b"below\n"), ("\u00e9/\u00fc\U0001f37e", b"bottle"[:2]),
        entry("link", target="../../etc/passwd"), entry("hard", tarfile.LNKTYPE, "dir/file"),
        entry("fifo", tarfile.FIFOTYPE, mode=0o622), entry("device", tarfile.CHRTYPE, devmajor=1, devminor=3),
        ("y" * 150, b"long"), entry("timed", tarfile.REGTYPE, mtime=1577934245, mode=0o4755, uid=7, gid=8),
    )
    reply = put(box, "/in/to", stream, 200, FOLDER)
    assert reply.json() == {"entries": 10, "bytes": 21, "left_out": 1}
    script = "cd /in/to; cat dir/file made/by/the/way absolute hard; stat -c '%A %u:%g' dir fifo timed made; readlink link; ls /absolute || ls device"
    assert run(box, script)["stdout"].splitlines() == [
        "file", "way", "below", "file", "drwxr-x--- 0:0", "prw--w--w- 0:0", "-rwxr-xr-x 0:0", "drwxr-xr-x 0:0", "../../etc/passwd"]
    assert get(box, "/in/to/\u00e9/\u00fc\U0001f37e").body == b"bo"
    put(box, "/in/kept", stream, 200, FOLDER, owner="keep")
    assert shell(box, "cd /in/kept; stat -c '%a %u:%g %Y' dir timed").splitlines()[1] == "4755 7:8 1577934245"
    put(box, "/in/given", stream, 200, FOLDER, owner="70:80")
    assert shell(box, "cd /in/given; stat -c '%a %u:%g' made/by/the timed link").splitlines() == ["755 70:80", "755 70:80", "777 70:80"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_there_and_back(box, form):
    stream = tar(("a/b", b"1"), ("a/" + "c" * 90, os.urandom(70000)), entry("a/l", target="b"), form=form)
    put(box, f"/back{form}", stream, 200, FOLDER)
    found = unpacked(get(box, f"/back{form}", what=FOLDER))
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        for info in archive:
            assert found[info.name][0].linkname == info.linkname
            assert not info.isreg() or found[info.name][1] == archive.extractfile(info).read()


def test_holes_stay_holes(box, tmp_path):
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"middle")
    stream = subprocess.run(["tar", "-C", tmp_path, "-S", "-c", "holes"], check=True, capture_output=True).stdout
    put(box, "/sparse", stream, 200, FOLDER)
    assert shell(box, "stat -c %s /sparse/holes; du -k /sparse/holes | cut -f1; dd if=/sparse/holes bs=1M skip=512 count=1 2>/dev/null | head -c 6; rm /sparse/holes").split() == [
        "1073741824", "4", "middle"]


BEFORE = """
rm -rf /target /aside; mkdir -p /target/real /aside; cd /target; echo kept > /aside/kept; echo kept > real/kept
ln -s ../aside out; ln -s /aside abs; ln -s real in; ln -s out/x two; ln -s nowhere broken; echo f > file
"""
EVIL = {
    "dots": ([("../aside/new", b"x")], 422),
    "dots inside": ([("real/../../aside/new", b"x")], 422),
    "dots at the end": ([("real/..", b"x")], 422),
    "through a link out": ([("out/new", b"x")], 409),
    "through an absolute link": ([("abs/new", b"x")], 409),
    "through two links": ([("two/new", b"x")], 409),
    "by a link of its own": ([entry("mine", target="/aside"), ("mine/new", b"x")], 409),
    "by a relative link of its own": ([entry("mine", target="../aside"), ("mine/new", b"x")], 409),
    "by a link that is swapped": ([entry("d", tarfile.DIRTYPE), entry("d2", target="../aside"), ("d2/kept", b"x")], 409),
    "a folder over a link": ([entry("out", tarfile.DIRTYPE), ("out/new", b"x")], 409),
    "a hard link out": ([entry("stolen", tarfile.LNKTYPE, "../aside/kept")], 422),
    "a hard link through a link": ([entry("stolen", tarfile.LNKTYPE, "out/kept"), ("stolen", b"x")], 409),
    "a hard link to nothing": ([entry("stolen", tarfile.LNKTYPE, "none")], 404),
    "below a file": ([("file/new", b"x")], 409),
    "below a broken link": ([("broken/new", b"x")], 404),
    "a file over a folder": ([("real", b"x")], 409),
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_an_archive_stays_below_its_folder(box, evil):
    shell(box, BEFORE)
    members, status = evil
    reply = put(box, "/target", tar(*members), status, FOLDER)
    assert reply.problem in ("archive-refused", "file-refused", "file-not-found"), reply
    assert shell(box, "cat /aside/* /target/real/kept; ls -A /aside") == "kept\nkept\nkept\n"
    found = shell(box, "find / -xdev '(' -name new -o -name stolen -o -name kept ')'")
    assert "/aside/" in found and "new" not in found and "stolen" not in found


def test_links_inside_are_followed(box):
    shell(box, BEFORE)
    put(box, "/target", tar(("in/new", b"x\n"), entry("out", tarfile.REGTYPE)), 200, FOLDER)
    assert shell(box, "cat /target/real/new; test -L /target/out || echo replaced; ls /aside") == "x\nreplaced\nkept\n"


WHOLE = tar(("a", b"1" * 2000), ("b", b"2" * 2000))
BROKEN = {
    "nothing": b"",
    "noise": bytes(range(256)) * 40,
    "zeros": b"\0" * 10240,
    "gzip": gzip.compress(WHOLE),
    "cut in a file": WHOLE[:1500],
    "cut in a header": WHOLE[:3000],
    "a header that is changed": WHOLE[:2660] + b"x" + WHOLE[2661:],
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_archive(box, data):
    reply = put(box, "/broken", data, 200 if data.count(0) == len(data) > 0 else 422, FOLDER)
    assert reply.status == 200 or reply.problem == "archive-refused", reply
    assert "b" not in listed(box, "/broken")


@pytest.mark.plain
def test_memory_stays_flat(box, tmp_path):
    """The large one is `make bench ARGS=files`."""
    (shim,) = box.processes_named("bottle-shim")
    (tmp_path / "file").write_bytes(os.urandom(1 << 20) * 12)
    before = memory(box.pid), memory(shim.pid)
    url = "http://x" + where("/tmp/twelve")
    assert curl(box, "--fail", "-T", str(tmp_path / "file"), url).returncode == 0
    assert curl(box, "--fail", url).stdout == (tmp_path / "file").read_bytes()
    assert memory(box.pid) - before[0] < 8 << 20 and memory(shim.pid) - before[1] < 8 << 20
    shell(box, "rm /tmp/twelve")


def test_copies_are_no_execs_to_be_told_of(box):
    def told(name):
        events = box.get("/events?limit=1000&type=exec.finished").json()["events"]
        return [event["detail"]["id"] for event in events] if name in str(events) else None

    first = run(box, "true")["id"]
    put(box, "/job/quiet", b"x")
    get(box, "/job/quiet")
    last = run(box, "true")["id"]
    until(lambda: told(last))
    assert told(last)[-2:] == [first, last]


# --- Ends from outside: the bottle's last tests -----------------------------------------------------


def test_bottled_dies_meanwhile(box):
    put(box, "/crash/file", b"kept")
    with half_way(box, "/crash/file"):
        until(lambda: len(listed(box, "/crash")) == 2)
        box.kill()
    box.start()
    until(lambda: listed(box, "/crash") == ["file"])
    assert get(box, "/crash/file").body == b"kept"


def test_a_vm_that_dies_is_no_end(daemon):
    """The connections are cut: no client takes what it has for whole."""
    daemon.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running")
    shell(daemon, "mkdir /big; head -c 12000000 /dev/zero > /big/zeros")
    argv = ["curl", "-sS", "--limit-rate", "1M", "--unix-socket", str(daemon.socket)]
    clients = [subprocess.Popen([*argv, "http://x" + where(*one)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
               for one in (("/big/zeros", FILE), ("/big", FOLDER))]
    for client in clients:
        assert client.stdout.read(100000)
    with half_way(daemon, "/big/new") as wire:
        (vmm,) = daemon.processes_named(daemon.row["vmm"])
        os.kill(vmm.pid, signal.SIGKILL)
        for client in clients:
            _, words = client.communicate(timeout=60)
            assert client.returncode == 18, (client.returncode, words)
        wire.sendall(b"x" * 700000)
        assert re.match(rb"HTTP/1.1 50[24] ", wire.recv(4096))
