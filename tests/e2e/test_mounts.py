"""Directories of the host in a guest: what both sides see, whose it is, and what a hostile guest or a hostile path on
the host can't do."""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading

import harness
import hold
import oci
import pace
import processes
import pytest
import raw

OWNER = 1234  # of the directories, where bottled is root
STRANGER = 4321
LASTING = ["sh", "-c", "while :; do sleep 1000 & wait $!; done"]
ATTACKER = harness.BUILD / "test-tools" / "mount-attacker"
MAPS_OWNERS = {"ext4", "xfs", "btrfs"}
JAIL = {"bin", "dev", "lib", "lib64", "proc", "sbin", "tmp", "tree", "usr", "virtiofsd"}
SECRET = "of the host, and nobody's business"


class World:
    """A daemon, and directories that its bottles may mount: of another user where it is root, else its own."""

    def __init__(self, uid=None):
        self.daemon = harness.Daemon(uid=uid)
        self.owner = OWNER if uid is None and os.geteuid() == 0 else os.geteuid() if uid is None else uid
        self.as_root = self.owner == OWNER
        self.base = self.daemon.base / "host"
        self.roots = self.base / "roots"
        self.base.mkdir(mode=0o755)
        self.mounted = False
        if self.as_root:
            self.have_owners()
        self.folder(self.roots)
        self.outside = self.folder(self.base / "outside")
        self.file(self.outside / "secret", SECRET)
        self.daemon.config["mount_roots"] = str(self.roots)

    def have_owners(self):
        """A nested test host has no file system of its own that lets owners be mapped."""
        kind = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", self.base], capture_output=True, text=True, check=True)
        if kind.stdout.strip() in MAPS_OWNERS:
            return
        image = self.daemon.base / "host.ext4"
        with open(image, "wb") as file:
            file.truncate(256 << 20)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.base], check=True)
        self.mounted = True

    def give(self, path, owner=None):
        owner = self.owner if owner is None else owner
        if os.geteuid() == 0:
            os.lchown(path, owner, owner)
        return path

    def folder(self, path, owner=None):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        return self.give(path, owner)

    def file(self, path, data="", owner=None, mode=0o644):
        path.write_text(data)
        path.chmod(mode)
        return self.give(path, owner)

    def tree(self, name):
        return self.folder(self.roots / name)

    def mount(self, source, target, read_only=False):
        return {"source": str(source), "target": target, "read_only": read_only}

    def start(self, slug, *mounts, **plan):
        plan = {"slug": slug, "command": LASTING, **plan, "mounts": list(mounts)}
        return self.daemon.create(plan, "?start=true&wait=running")

    def sh(self, slug, script, status=0):
        reply = self.daemon.post(f"/bottles/{slug}/exec", {"command": ["sh", "-c", script]}, timeout=100)
        assert reply.status == 200, reply
        answer = reply.json()
        assert status is None or answer["exit_code"] == status, answer
        return answer["stdout"]

    def close(self):
        for bottle in self.daemon.get("/bottles").json()["bottles"]:
            self.daemon.remove(bottle["slug"])
        if self.mounted:
            subprocess.run(["umount", self.base], check=True)
        fault = self.daemon.close()
        assert fault is None, fault


@contextlib.contextmanager
def a_world(uid=None):
    one = World(uid)
    try:
        one.daemon.start()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def world(row):
    with a_world() as one:
        yield one


@pytest.fixture(scope="module")
def box(world):
    """One bottle for many: /rw, /ro, and /rw/deep/er, which is mounted in the first."""
    for name in ("rw", "ro", "deep"):
        world.tree(name)
    fill_read_only(world)
    world.file(world.roots / "rw" / "from-host", "hello\n")
    world.start(
        "box",
        world.mount(world.roots / "deep", "/rw/deep/er"),
        world.mount(world.roots / "rw", "/rw"),
        world.mount(world.roots / "ro", "/ro", True),
    )
    return world


def fill_read_only(world):
    world.file(world.roots / "ro" / "file", "as it was\n")
    world.folder(world.roots / "ro" / "folder")


def owner_of(path):
    status = path.lstat()
    return status.st_uid, status.st_gid


# --- What both sides see -------------------------------------------------------------------------


def round_trip(world, slug, folder, target):
    """A file each way, and all that a program does to one."""
    assert world.sh(slug, f"cat {target}/from-host; stat -c %u:%g {target} {target}/from-host") == "hello\n0:0\n0:0\n"
    digest = world.sh(
        slug,
        f"cd {target} && mkdir -p d/e && head -c 3000000 /dev/urandom >d/big && echo one >d/e/f && chmod 640 d/e/f && mv d/e/f d/g"
        f" && ln -s g d/soft && ln d/g d/hard && mkfifo d/pipe && touch -d '2001-02-03 04:05:06' d/g && chown 55:66 d/g"
        " && echo two >>d/g && truncate -s 2 d/hard && rmdir d/e && sha256sum <d/big",
    ).split()[0]
    assert hashlib.sha256((folder / "d" / "big").read_bytes()).hexdigest() == digest
    made = [folder / "d", *(folder / "d").iterdir()]
    assert sorted(path.name for path in made) == ["big", "d", "g", "hard", "pipe", "soft"]
    assert {owner_of(path) for path in made} == {(world.owner, world.owner)}, "the directory's owner, whoever made it"
    assert (folder / "d" / "g").read_text() == "on"
    assert (folder / "d" / "g").stat().st_mode & 0o7777 == 0o640
    assert (folder / "d" / "g").stat().st_nlink == 2 and os.readlink(folder / "d" / "soft") == "g"


def all_of_it(world):
    """What holds on every backend and for every user."""
    tree, read_only = world.tree("rw"), world.tree("ro")
    fill_read_only(world)
    before = state_of(read_only)
    world.file(tree / "from-host", "hello\n")
    world.file(tree / "mine", "mine")
    shutil.copy(ATTACKER, tree / "attacker")
    world.give(tree / "attacker")
    world.start("all", world.mount(tree, "/rw"), world.mount(read_only, "/ro", True))
    round_trip(world, "all", tree, "/rw")
    changes_are_seen(world, "all", tree, "/rw")
    nothing_privileged(world, "all", tree, "/rw")
    attack(world, "all", before)


@pytest.mark.backends
def test_on_every_backend(row):
    with a_world() as one:
        all_of_it(one)


def test_as_an_ordinary_user(row):
    with a_world(harness.USERS.get("ordinary user")) as one:
        all_of_it(one)


def changes_are_seen(world, slug, folder, target):
    """What the host does is seen in the guest within moments."""
    world.file(folder / "live", "1")
    assert world.sh(slug, f"cat {target}/live") == "1"
    world.file(folder / "live", "22")
    pace.until(lambda: world.sh(slug, f"cat {target}/live") == "22")
    (folder / "live").rename(folder / "moved")
    pace.until(lambda: world.sh(slug, f"cat {target}/live 2>/dev/null; cat {target}/moved", None) == "22")
    (folder / "moved").unlink()
    pace.until(lambda: world.sh(slug, f"ls {target}/moved 2>&1 || :").endswith("No such file or directory\n"))


def test_one_mount_in_another(box):
    box.sh("box", "echo below >/rw/deep/er/x")
    assert (box.roots / "deep" / "x").read_text() == "below\n"
    assert sorted(os.listdir(box.roots / "rw" / "deep")) == ["er"] and os.listdir(box.roots / "rw" / "deep" / "er") == []


def test_many_files(box):
    """A small one of tests/bench's."""
    box.sh("box", "mkdir /rw/many && cd /rw/many && i=0 && while [ $i -lt 500 ]; do echo $i >f$i; i=$((i+1)); done")
    many = box.roots / "rw" / "many"
    assert sum(int(path.read_text()) for path in many.iterdir()) == 500 * 499 // 2
    assert box.sh("box", "cat /rw/many/* | wc -l; rm -r /rw/many; ls /rw | grep -c many || :") == "500\n0\n"
    assert not many.exists()


def test_what_others_own_stays_theirs(box):
    if not box.as_root:
        return  # then there is nobody else
    theirs = box.folder(box.roots / "rw" / "theirs", STRANGER)
    box.file(theirs / "open", "for all\n", STRANGER)
    box.file(theirs / "closed", "for me\n", STRANGER, 0o600)
    shown = box.sh("box", "cd /rw/theirs; stat -c %u open; cat open closed; echo x >open; echo x >new; rm open; chmod 777 open", None)
    assert shown == "65534\nfor all\n"
    assert sorted(os.listdir(theirs)) == ["closed", "open"] and (theirs / "open").read_text() == "for all\n"


def test_the_images_user_works_there(world):
    daemon = world.daemon
    passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"
    layers = [oci.busybox(), oci.layer([oci.file("etc/passwd", passwd), oci.file("etc/group", b"staff:x:1001:\n")])]
    layout = oci.Layout(daemon.base / "layout", layers, config={"User": "app"})
    reply = daemon.post("/images?wait=true&timeout=60s", {"source": layout.source})
    assert reply.status == 201, reply
    tree = world.tree("users")
    world.file(tree / "a", "1", mode=0o600)
    script = "id -u; cat a; stat -c %u:%g a .; echo 2 >>a; touch b; mkdir c; stat -c %u:%g b c"
    plan = {"slug": "user", "image": layout.source, "command": ["sh", "-c", script], "workdir": "/w"}
    bottle = daemon.run({**plan, "mounts": [world.mount(tree, "/w")]})
    log = daemon.log("user")
    assert bottle["exit_code"] == 0, log
    assert log == "1000\n11000:1001\n" + 3 * "1000:1001\n"
    assert (tree / "a").read_text() == "12\n"
    assert {owner_of(path) for path in tree.iterdir()} == {(world.owner, world.owner)}


def test_bottleds_restart_changes_nothing(box):
    box.daemon.restart()
    box.sh("box", "echo still >/rw/after")
    assert (box.roots / "rw" / "after").read_text() == "still\n"


# --- What a guest can't do -----------------------------------------------------------------------


def state_of(folder):
    """All of it but the times of reading."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns, data)
    return found


def attack(world, slug, before):
    """Guest root tries all calls that change something, also once it has mounted the device as writable."""
    lines = world.sh(slug, "chmod 755 /rw/attacker; /rw/attacker /ro fs1 /rw").splitlines()
    tried = dict(line.split("\t") for line in lines)
    # who serves it says that it gave a file away, and has not
    through = [name for name, answer in tried.items() if answer == "OK" and not name.endswith("chown")]
    assert not through and len(tried) > 100, f"{through} of {lines}"
    assert {name.split()[0] for name in tried} >= {"mounted", "remounted", "bound"}, lines
    assert state_of(world.roots / "ro") == before
    # the same program where it may: it would have been seen
    assert int(world.sh(slug, "mkdir -p /rw/t/folder; echo x >/rw/t/file; /rw/attacker /rw/t none /rw | grep -c OK")) > 10


def nothing_privileged(world, slug, folder, target):
    """No program that the host would run with its owner's rights, and no device."""
    world.sh(slug, f"cd {target} && cp /bin/busybox tool && chmod 755 tool")
    for mode in ("4755", "2755", "6755"):
        assert "not permitted" in world.sh(slug, f"cd {target}; chmod {mode} tool 2>&1", 1)
    world.sh(slug, f"cd {target}; mknod null c 1 3 2>&1; mknod disk b 8 0 2>&1; mkdir -m 2777 sticky", None)
    assert [p.name for p in folder.rglob("*") if p.lstat().st_mode & 0o6000 or p.is_block_device() or p.is_char_device()] == []
    (folder / "tool").chmod(0o4755)
    assert (folder / "tool").stat().st_mode & 0o4000, "the host's own"
    assert world.sh(slug, f"sed -n '/ {target.replace('/', '.')} /s/.*virtiofs //p' /proc/mounts").split(",")[1:3] == ["nosuid", "nodev"]
    (folder / "tool").unlink()


def test_links_lead_nowhere_else(box):
    """Made before, made while it lives, by the host or by the guest: a link is the guest's own, or dangles."""
    tree = box.roots / "rw"
    for name, to in {"absolute": str(box.outside / "secret"), "up": "../../outside/secret", "passwd": "/etc/hostname", "root": "/"}.items():
        (tree / name).symlink_to(to)
    box.sh("box", f"ln -s {box.outside} /rw/by-guest; ln -s ../../outside /rw/by-guest-up")
    tries = "absolute up by-guest/secret by-guest-up/secret root/outside/secret ../outside/secret ../../outside/secret"
    assert box.sh("box", f"cd /rw; for f in {tries}; do cat $f 2>/dev/null; done; :") == ""
    assert box.sh("box", "cat /rw/passwd") == "box\n", "the guest's"
    box.sh("box", f"echo gone >/rw/absolute; echo gone >/rw/up; echo x >/rw/by-guest/new; mkdir -p {box.outside}; ls /rw/root/", None)
    assert (box.outside / "secret").read_text() == SECRET and os.listdir(box.outside) == ["secret"]


def test_a_directory_that_becomes_a_link(box):
    """The host (or another bottle) swaps a directory below the mount for a link out of it, over and over."""
    tree = box.folder(box.roots / "rw" / "race")
    real = box.folder(tree / "d")
    box.file(real / "secret", "inside")
    (tree / "l").symlink_to(box.outside)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for one, two in (("d", "x"), ("l", "d"), ("d", "l"), ("x", "d")):
                os.rename(tree / one, tree / two)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        script = (
            "cd /rw/race; i=0; seen=; while [ $i -lt 60 ] || { [ -z $seen ] && [ $i -lt 5000 ]; }; do "
            "cat d/secret && seen=1; echo; echo bad >d/planted; i=$((i+1)); done 2>/dev/null"
        )
        got = box.sh("box", script, None)
    finally:
        stop.set()
        thread.join()
    assert set(got.split("\n")) <= {"inside", ""} and "inside" in got
    assert os.listdir(box.outside) == ["secret"] and (box.outside / "secret").read_text() == SECRET


def test_one_that_serves_is_in_a_jail(box):
    """Without a network, any capability or any of the host's files but its directory."""
    servers = box.daemon.processes_named("virtiofsd")
    inner = [p for p in servers if p.program == "virtiofsd"]
    assert len(inner) >= 3, servers
    for process in inner:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}, status
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"), status
        assert 0 not in map(int, fields["Uid"].split()) or os.geteuid() != 0, status
        assert os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        seen = sorted(os.listdir(f"/proc/{process.pid}/root/"))
        # its root is the directory (QEMU's), or the jail's, where that is /tree
        trees = [sorted(os.listdir(box.roots / name)) for name in ("rw", "ro", "deep")]
        assert seen in trees or set(seen) <= JAIL, seen


# --- What a plan can't ask for -------------------------------------------------------------------


def fault_of(world, source, target="/w"):
    reply = world.daemon.post("/plans", {"command": ["x"], "mounts": [{"source": str(source), "target": target}]})
    assert (reply.status, reply.problem) == (422, "invalid-plan"), reply
    created = world.daemon.post("/bottles", {"slug": "refused", "command": ["x"], "mounts": [{"source": str(source), "target": target}]})
    assert created.status == 422 and world.daemon.bottle("refused") is None
    (fault,) = reply.json()["errors"]
    assert fault["pointer"] == "/mounts/0/source" and fault["code"] == "refused"
    return fault["detail"]


def test_sources_that_are_refused(world):
    inside = world.tree("inside")
    world.file(inside / "file")
    (inside / "out").symlink_to(world.outside)
    (inside / "up").symlink_to("../../outside")
    (inside / "etc").symlink_to("/etc")
    (inside / "proc").symlink_to("/proc/self/root/etc")
    assert "mount_roots" in fault_of(world, "/etc")
    assert "mount_roots" in fault_of(world, world.outside)
    assert "mount_roots" in fault_of(world, f"{world.roots}x")
    for name in ("out", "up", "etc", "proc"):
        assert "leads out" in fault_of(world, inside / name)
    assert "make it first" in fault_of(world, inside / "missing")
    assert "no directory" in fault_of(world, inside / "file")
    reply = world.daemon.post("/plans", {"command": ["x"], "mounts": [{"source": f"{inside}/../../outside", "target": "/w"}]})
    assert reply.status == 422 and reply.json()["errors"][0]["code"] == "pattern", "not normal"


def test_a_source_that_changes_before_the_start(world):
    tree = world.tree("changes")
    plan = {"slug": "late", "command": ["cat", "/w/secret"], "mounts": [world.mount(tree, "/w")]}
    world.daemon.create(plan)
    tree.rmdir()
    tree.symlink_to(world.outside)
    reply = world.daemon.post("/bottles/late/start")
    assert (reply.status, reply.problem) == (409, "mount-refused"), reply
    assert "/mounts/0/source" in reply.json()["detail"] and world.daemon.bottle("late")["state"] == "prepared"
    tree.unlink()
    world.file(world.tree("changes") / "secret", "mine")
    assert world.daemon.post("/bottles/late/start?wait=exited&timeout=30s").status == 200
    assert world.daemon.log("late") == "mine"
    before = processes.mounts_below(world.base)
    world.daemon.remove("late")
    assert processes.mounts_below(world.base) == before and (tree / "secret").exists()


def test_a_source_that_changes_while_it_lives(world):
    """The bottle has the directory that it started with."""
    tree = world.tree("pinned")
    world.file(tree / "secret", "mine")
    world.start("pinned", world.mount(tree, "/w"))
    tree.rename(world.roots / "elsewhere")
    tree.symlink_to(world.outside)
    assert world.sh("pinned", "echo more >>/w/secret; cat /w/secret") == "minemore\n"
    assert (world.roots / "elsewhere" / "secret").read_text() == "minemore\n"
    assert (world.outside / "secret").read_text() == SECRET
    others = {p.pid for p in world.daemon.processes_named("virtiofsd") if not serves(p.pid, "more")}
    for process in world.daemon.processes_named("virtiofsd"):
        if process.pid not in others:
            os.kill(process.pid, signal.SIGKILL)
    bottle = world.daemon.wait("pinned", "failed")
    assert bottle["state"] == "failed" and "virtiofsd, which served /w, ended" in bottle["reason"], bottle


def serves(pid, data):
    """Is it the one whose directory has such a `secret`?"""
    paths = [pathlib.Path(f"/proc/{pid}/root/{name}") for name in ("secret", "tree/secret")]
    return any(path.exists() and data in path.read_text() for path in paths)


def test_bottleds_own_files_are_no_source(row):
    with a_world() as other:
        other.daemon.stop()
        other.daemon.config["mount_roots"] = str(other.daemon.base)
        other.daemon.start()
        for source in (other.daemon.state_dir, other.daemon.state_dir / "bottles", other.daemon.run_dir, other.daemon.base):
            assert "its own files" in fault_of(other, source)


def test_without_an_allowed_root_nothing_is_mounted(daemon):
    reply = daemon.post("/plans", {"command": ["x"], "mounts": [{"source": "/srv", "target": "/w"}]})
    assert reply.status == 422 and "mount_roots" in reply.json()["errors"][0]["detail"]


def test_what_is_shown(box):
    plan = box.daemon.get("/bottles/box/plan").json()
    assert [(m["tag"], m["target"], m["read_only"]) for m in plan["guest"]["mounts"]] == [
        ("fs0", "/rw", False), ("fs1", "/ro", True), ("fs2", "/rw/deep/er", False)]
    page = box.daemon.get("/bottles/box/plan", headers={"Accept": "text/plain"}).text
    assert "Directories of the host, live in the guest" in page and str(box.roots / "ro") in page


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are mapped as root")
def test_killed_while_it_looks_at_a_mount(tmp_path):
    """The process that an owner's map is made of ends with its daemon, and has nothing of it: no lock, no connection."""
    held = hold.Hold(tmp_path)
    world = World()
    world.daemon.env = held.env
    try:
        daemon = world.daemon.start()
        folder = world.folder(world.roots / "a")
        held.begin("kill")
        with raw.Wire(daemon.socket) as wire:
            body = json.dumps({"slug": "one", "command": ["true"], "mounts": [{"source": str(folder), "target": "/a"}]}).encode()
            wire.send(b"POST /plans HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                      % (len(body), body))
            held.until_held("kill")
            child, = (one for one in processes.descendants() if one.parent == daemon.pid)
            assert os.listdir(f"/proc/{child.pid}/fd") == ["0"]
            daemon.kill()
            assert processes.wait_gone(child.pid, 5)
        held.release("kill")
        daemon.start()
    finally:
        world.close()
