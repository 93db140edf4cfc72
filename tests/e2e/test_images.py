"""Images: imported from layouts, archives and folders, run by their own config, and hostile ones, which touch
nothing of the host."""
import contextlib
import gzip
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import tarfile

import control
import harness
import oci
import pytest
import raw
from oci import file, folder, hard_link, link
from pace import until

MIB = 1 << 20
LIMITS = {"max_waiters": 3, "image_max_bytes": 48 * MIB, "image_max_files": 1500, "image_timeout": "60s"}
PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUP = b"root:x:0:\nstaff:x:50:\nextra:x:60:other,app\nalso:x:70:app\n"
SHOW = 'id -u; id -g; id -G; pwd; echo "$HOME"; echo "$FOO"; echo "$PATH"; cat /proc/1/comm; touch ok && stat -c %u:%g ok'
OWN = {
    "Entrypoint": ["sh", "-c"],
    "Cmd": [SHOW],
    "Env": ["PATH=/bin", "FOO=of the image", "HTTPS_PROXY=http://evil.example"],
    "WorkingDir": "/home/app",
    "User": "app",
}


def people():
    return oci.layer(
        [
            folder("home"),
            folder("home/app", uid=1000, gid=1001, mode=0o700),
            file("etc/passwd", PASSWD),
            file("etc/group", GROUP),
            file("etc/shadow", b"secret", mode=0),
        ]
    )


class World:
    """A daemon and a folder that it may import from."""

    def __init__(self, uid):
        self.daemon = harness.Daemon(uid=uid)
        self.base = self.daemon.base / "images"
        self.roots = self.daemon.base / "roots"
        for path in (self.base, self.roots):
            path.mkdir()
            path.chmod(0o755)
        self.silent = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
        self.registry = f"127.0.0.1:{self.silent.getsockname()[1]}"
        self.speaking = oci.Registry()
        registries = f"{self.registry},{self.speaking.name}"
        self.daemon.config |= {**LIMITS, "image_roots": str(self.roots), "image_registries": registries}
        self.daemon.start()
        self.n = 0

    def layout(self, *layers, **options):
        self.n += 1
        return oci.Layout(self.base / f"l{self.n}", layers, **options)

    def post(self, source, query="?wait=true&timeout=60s"):
        return self.daemon.post(f"/images{query}", {"source": str(source)})

    def imported(self, source):
        reply = self.post(source)
        assert reply.status == 201, f"{reply}\n{self.daemon.output.text()[-3000:]}"
        assert reply.headers["Location"] == f"/images/{reply.json()['id']}"
        return reply.json()

    def refused(self, source):
        """Why it was."""
        reply = self.post(source)
        assert (reply.status, reply.problem) == (422, "image-refused"), reply
        return reply.json()["detail"]

    def images(self):
        return [image for image in self.daemon.get("/images").json()["images"] if image["state"] == "ready"]

    def files(self):
        return sorted(os.listdir(self.daemon.state_dir / "images"))

    def remove_all(self):
        for image in self.images():
            assert self.daemon.delete(f"/images/{image['id']}").status == 204
        assert self.files() == []

    def run(self, **plan):
        """The bottle's output, when its command ended with 0."""
        slug = plan.setdefault("slug", "bottle")
        bottle = self.daemon.run(plan)
        log = self.daemon.log(slug)
        assert bottle["exit_code"] == 0, f"{bottle}\n{log}"
        self.daemon.remove(slug)
        return log

    def close(self):
        for bottle in self.daemon.get("/bottles").json()["bottles"]:
            self.daemon.remove(bottle["slug"])
        self.silent.close()
        self.speaking.close()
        fault = self.daemon.close()
        assert fault is None, fault


@pytest.fixture(scope="module", params=harness.USERS)
def world(request):
    one = World(harness.USERS[request.param])
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def own(world):
    """An image with a config, imported."""
    layout = world.layout(oci.busybox(), people(), config=OWN)
    return world.imported(layout.source) | {"layout": layout}


def test_what_is_said_of_an_image(world, own):
    shown = world.daemon.get(f"/images/{own['id']}").json()
    assert shown["state"] == "ready" and shown["manifest_digest"] == own["layout"].manifest
    assert shown["config"] == OWN
    path = world.daemon.state_dir / "images" / f"{shown['digest']}.erofs"
    assert subprocess.check_output(["sha256sum", path]).decode().split()[0] == shown["digest"]
    assert path.stat().st_size == shown["bytes"] and path.stat().st_uid == world.daemon.state_dir.stat().st_uid
    assert shown in world.images()

    def told():
        events = world.daemon.get("/events?type=image.progress&type=image.ready").json()["events"]
        return [event for event in events if event["detail"]["id"] == own["id"]]

    until(lambda: told()[-1]["type"] == "image.ready")
    mine = told()
    steps = [event["detail"].get("progress", {}).get("step") for event in mine]
    assert list(dict.fromkeys(steps)) == ["reading", "copying", "unpacking", "packing", None], steps
    assert mine[-1]["type"] == "image.ready" and mine[-1]["detail"] == shown


def test_an_image_runs_as_it_says(world, own):
    """ENTRYPOINT, CMD, ENV, WORKDIR and USER, with the user's groups and home from the image's own files."""
    world.daemon.create({"slug": "holds", "image": own["id"]})
    reply = world.daemon.delete(f"/images/{own['id']}")
    assert (reply.status, reply.problem) == (409, "image-in-use") and "holds" in reply.text
    world.daemon.remove("holds")
    lines = world.run(image=own["source"]).splitlines()
    assert lines == ["1000", "1001", "1001 60 70", "/home/app", "/home/app", "of the image", "/bin", "init", "1000:1001"]


def test_the_plan_wins(world, own):
    plan = {"command": ["env"], "workdir": "/tmp", "env": {"FOO": "of the plan"}, "image": own["source"]}
    guest = world.daemon.post("/plans", plan).json()["guest"]
    assert (guest["command"], guest["workdir"], guest["user"]) == (["env"], "/tmp", "app")
    assert (guest["image_id"], guest["image_digest"]) == (own["id"], own["digest"])
    env = guest["env"]
    assert (env["FOO"], env["PATH"], env["HTTPS_PROXY"]) == ("of the plan", "/bin", "http://proxy.internal:8888")


def test_a_user_that_is_not_there(world):
    image = world.imported(world.layout(oci.busybox(), config={"User": "nobody", "Cmd": ["/bin/true"]}).source)
    bottle = world.daemon.run({"slug": "user", "image": image["id"]})
    world.daemon.remove("user")
    assert bottle["exit_code"] == 126 and bottle["reason"] == 'the image\'s user "nobody" is not in its /etc/passwd', bottle


def test_the_same_input_gives_the_same_file(world, own):
    again = world.layout(oci.busybox(), people(), config={"Cmd": ["x"]})
    other = world.imported(again.source)
    assert other["digest"] == own["digest"] and other["id"] != own["id"]
    assert world.files().count(f"{own['digest']}.erofs") == 1
    once_more = world.imported(again.source)
    assert once_more["digest"] == own["digest"]
    assert [image["id"] for image in world.images() if image["source"] == again.source] == [once_more["id"]]
    assert world.daemon.delete(f"/images/{once_more['id']}").status == 204
    assert f"{own['digest']}.erofs" in world.files(), "another image has it as well"
    assert world.daemon.get(f"/images/{once_more['id']}").status == 404


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_archives(world, own, form):
    path = world.base / f"{form}.tar"
    name = "example.org/team/app:1" if form == "docker-archive" else "1"
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{own['layout'].path}", f"{form}:{path}:{name}"], check=True)
    path.chmod(0o644)
    image = world.imported(f"oci:{path}")
    assert image["digest"] == own["digest"] and image["config"]["User"] == "app"
    named = world.imported(f"oci:{path}:{name}")
    assert named["digest"] == own["digest"]
    world.refused(f"oci:{path}:none")


def test_a_folder(world):
    tree = world.roots / "tree"
    with tarfile.open(fileobj=io.BytesIO(oci.busybox())) as tar:
        tar.extractall(tree)
    (tree / "etc" / "secret").write_text("root's")
    (tree / "etc" / "secret").chmod(0o600)
    (tree / "etc" / "theirs").write_text("x")
    if os.getuid() == 0:
        os.chown(tree / "etc" / "theirs", 1234, 1235)
    if world.daemon.uid:
        os.chown(tree / "etc" / "secret", world.daemon.uid, world.daemon.uid)
    image = world.imported(f"dir:{tree}")
    assert image["manifest_digest"] is None and image["config"]["Cmd"] == []
    assert world.imported(f"dir:{tree}")["digest"] == image["digest"]
    reply = world.daemon.post("/bottles", {"image": f"dir:{tree}"})
    assert (reply.status, reply.problem) == (422, "invalid-plan") and "no command of its own" in reply.text
    assert reply.pointers == ["/command"], reply
    got = world.run(image=f"dir:{tree}", command=["/bin/sh", "-c", "cat /etc/secret; stat -c %u:%g /etc/theirs"])
    kept = os.getuid() == 0 and not world.daemon.uid
    assert got == "root's" + ("1234:1235\n" if kept else "0:0\n")


def test_folders_that_are_not_allowed(world):
    for path in ("/etc", f"{world.roots}x", str(world.base)):
        reply = world.post(f"dir:{path}")
        assert (reply.status, reply.problem) == (403, "image-forbidden"), reply
    for path in (f"{world.roots}/../images", "etc", "/etc/"):
        reply = world.post(f"dir:{path}")
        assert reply.status == 422 and reply.pointers == ["/source"], reply
    (world.roots / "out").symlink_to("/etc")
    (world.roots / "outside").symlink_to(world.base)
    for name in ("out", "outside", "absent"):
        assert "mkfs.erofs" in world.refused(f"dir:{world.roots}/{name}")


def test_registries_that_are_not_allowed(world):
    for name in ("alpine", "docker.io/library/alpine", f"{world.registry}0/x", "localhost/x"):
        reply = world.post(f"docker://{name}")
        assert (reply.status, reply.problem) == (403, "image-forbidden"), reply


@contextlib.contextmanager
def plain_http(registry, folder):
    """The host's own configuration says that this registry has no TLS; only root can change it."""
    folder.mkdir(exist_ok=True)
    (folder / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    for path in (folder, folder / "registries.conf"):
        path.chmod(0o755)
    subprocess.run(["mount", "--bind", folder, "/etc/containers"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "/etc/containers"], check=True)


def test_a_registry(world, own):
    """An image comes from it as it is, where the operator's own configuration lets skopeo; else the reason is told."""
    world.speaking.layouts["agent"] = own["layout"]
    source = f"docker://{world.speaking.name}/agent:1"
    assert re.match(f'skopeo: .*https://{world.speaking.name}/v2/', world.refused(source))
    if os.getuid() == 0:
        with plain_http(world.speaking.name, world.daemon.base / "containers"):
            image = world.imported(source)
            world.refused(f"docker://{world.speaking.name}/none")
        assert (image["digest"], image["manifest_digest"]) == (own["digest"], own["layout"].manifest)


def test_plans_of_images_that_are_not_there(world):
    for image in (f"oci:{world.base}/none", "0123456789abcdef"):
        for path in ("/bottles", "/plans"):
            reply = world.daemon.post(path, {"image": image, "command": ["true"]})
            assert (reply.status, reply.problem) == (422, "image-not-imported"), reply
    assert "POST /images" in world.daemon.post("/bottles", {"image": "docker://alpine"}).json()["detail"]


# --- Hostile images -------------------------------------------------------------------------------

SHOWN = """regular empty file
regular empty file
6755 0
ls: /gone: No such file or directory
/d:
new
"""
DEEP = "/".join("d" * 10 for _ in range(200))
# name: (layers, what is said of it or None when it is taken, what it then shows of itself: a command and its output)
HOSTILE = {
    "paths up": ([[file("../../../../%OUT/up", b"x"), file("/%OUT/absolute", b"x"), folder("a/../../../%OUT/folder")]], None, None),
    "a link out, then through it": ([[link("way", "/%OUT"), file("way/through", b"x")]], None, None),
    "a relative link out": ([[link("way", "../../../../../../../%OUT"), file("way/through", b"x")]], None, None),
    "a link out in another layer": ([[link("way", "/%OUT")], [file("way/through", b"x")]], None, None),
    "a link of links": ([[link("a", "b"), link("b", "/%OUT"), file("a/through", b"x")]], None, None),
    "a loop of links": ([[link("a", "b"), link("b", "a"), file("a/through", b"x")]], None, None),
    "a hard link out": ([[hard_link("stolen", "/%OUT/kept")]], "no such file", None),
    "a hard link up": ([[hard_link("stolen", "../../../../../%OUT/kept")]], "no such file", None),
    "a hard link through a link": ([[link("way", "/%OUT"), hard_link("stolen", "way/kept")]], "no such file", None),
    "whiteouts of what is outside": ([[link("way", "/%OUT")], [file("way/.wh.kept"), file("way/.wh..wh..opq")]], None, None),
    "a whiteout up": ([[file("../../../%OUT/.wh.kept"), file(".wh...")]], None, None),
    "a root that is a link": ([[link("/", "/%OUT"), file("x", b"x")]], None, None),
    "devices, setuid, whiteouts": (
        [
            [oci.device("sda", 8, 0, tarfile.BLKTYPE), oci.device("mem", 1, 1), file("su", b"x", mode=0o6755)],
            [file("gone", b"x"), folder("d"), file("d/old", b"x")],
            [file(".wh.gone"), file("d/.wh..wh..opq"), file("d/new", b"x")],
        ],
        None,
        ("stat -c '%F' /sda /mem; stat -c '%a %u' /su; ls -A /gone /d 2>&1; true", SHOWN),
    ),
    "very many files": ([[file(f"f{n}") for n in range(20000)]], "more files", None),
    "a bomb of zeros": ([gzip.compress(b"")], "larger than|umoci", None),
    "a long name": ([[file("n" * 300, b"x")]], "too long", None),
    "a deep path": ([[folder(DEEP)]], "nested more than 128 deep", None),
    "a cut layer": ([oci.layer([file("x", b"y" * 5000)])[:4000]], "EOF", None),
    "no tar": ([b"this is no tar" * 1000], "", None),
    "another platform": ([[]], "linux/arm64", None),
    "a config that is none": ([[]], "Cmd", None),
    "a layer that is not what its digest says": ([[file("x", b"y")]], "", None),
    "sizes that lie": ([[file("x", b"y")]], "", None),
}


def bomb(size):
    """A layer of one file of zeros, made without holding it."""
    block = bytes(1 << 20)
    info = tarfile.TarInfo("zeros")
    info.size = size
    packed = [gzip.compress(info.tobuf(tarfile.GNU_FORMAT), mtime=0)]
    packed += [gzip.compress(block, 9, mtime=0)] * (size // len(block))
    return b"".join(packed + [gzip.compress(bytes(1024), mtime=0)])


def hostile_layout(world, name, outside):
    def fill(entry):
        return {k: v.replace("/%OUT", str(outside)).replace("%OUT", str(outside)[1:]) if isinstance(v, str) else v for k, v in entry.items()}

    layers = [part if isinstance(part, bytes) else oci.layer([fill(entry) for entry in part]) for part in HOSTILE[name][0]]
    if name == "a bomb of zeros":
        layers = [bomb(96 * MIB)]
    options = {"platform": ("linux", "arm64")} if name == "another platform" else {}
    options |= {"config": {"Cmd": "sh"}} if name == "a config that is none" else {}
    options |= {"size_lie": -1} if name == "sizes that lie" else {}
    layout = world.layout(oci.busybox(), *layers, **options)
    if "digest" in name:
        for path in (layout.path / "blobs" / "sha256").iterdir():
            if path.read_bytes()[:2] == b"\x1f\x8b":
                path.write_bytes(gzip.compress(b"something else"))
    return layout


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(world, name):
    """Nothing outside is written, read or removed; what must be refused is, in words; what it leaves is removed."""
    outside = world.daemon.base / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "kept").write_text("kept")
    if world.daemon.uid:
        for path in (outside, outside / "kept"):
            os.chown(path, world.daemon.uid, world.daemon.uid)
    for path in (outside, outside / "kept"):
        path.chmod(0o777)  # whoever unpacks could
    before = world.files()
    _, words, shows = HOSTILE[name]
    layout = hostile_layout(world, name, outside)
    reply = world.post(layout.source)
    if words is None:
        assert reply.status == 201 or "umoci" in reply.json()["detail"], reply
    else:
        assert reply.problem == "image-refused" and re.search(words, reply.json()["detail"]), reply
        assert world.files() == before
    assert os.listdir(outside) == ["kept"] and (outside / "kept").read_text() == "kept"
    assert (outside / "kept").stat().st_nlink == 1
    assert not (world.daemon.state_dir / "importing").exists()
    if shows:
        assert world.run(image=layout.source, command=["/bin/sh", "-c", shows[0]]) == shows[1]


# --- Ends -----------------------------------------------------------------------------------------


def importing(world):
    """An import that goes on: its registry says nothing."""
    reply = world.post(f"docker://{world.registry}/silent", query="")
    assert reply.status == 202 and reply.json()["state"] == "importing", reply
    again = world.post(f"docker://{world.registry}/silent", query="")
    assert again.headers["Location"] == reply.headers["Location"], "the same import"
    world.silent.settimeout(20)
    connection, _ = world.silent.accept()
    late = world.post(f"docker://{world.registry}/silent", query="?wait=true&timeout=300ms")
    assert (late.status, late.problem) == (504, "timeout"), late
    return connection


def bounded(world):
    """No more than max_waiters wait for an import that goes on, and who left has left its place."""
    body = json.dumps({"source": f"docker://{world.registry}/silent"}).encode()
    ask = b"POST /images?wait=true HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def refused():
        reply = world.post(f"docker://{world.registry}/silent", query="?wait=true&timeout=1ms")
        assert reply.status in (503, 504), reply
        return reply.problem == "too-many-waiters"

    with contextlib.ExitStack() as stack:

        def wait():
            return stack.enter_context(raw.Wire(world.daemon.socket)).send(ask)

        def all_wait():
            """None more is taken; whose place the question itself had asks again."""
            for i, wire in enumerate(wires):
                if select.select([wire.sock], [], [], 0)[0]:
                    wires[i] = wait()
            return refused()

        wires = [wait() for _ in range(LIMITS["max_waiters"])]
        until(all_wait)
        wires[0].sock.close()
        until(lambda: not refused())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/null", path)], ids=["pipe", "device"])
def test_what_is_no_file_is_not_opened(world, make):
    odd = world.base / "odd"
    make(odd)
    assert "neither a file nor a directory" in world.refused(f"oci:{odd}")
    odd.unlink()


def test_a_crash_in_the_middle(world):
    before = world.images()
    with importing(world):
        assert (world.daemon.state_dir / "importing").is_dir()
        files = world.files()
        (world.daemon.state_dir / "images" / f"{'0' * 64}.erofs").write_bytes(b"renamed, and not stored any more")
        world.daemon.kill()
        for process in world.daemon.own_processes():
            assert harness.processes.wait_gone(process.pid, 10), process
    world.daemon.start()
    assert world.images() == before and not (world.daemon.state_dir / "importing").exists()
    assert world.files() == files


def test_an_end_in_the_middle(world):
    before = world.images()
    with importing(world):
        bounded(world)
        assert world.daemon.stop() == 0
        assert not (world.daemon.state_dir / "importing").exists()
    world.daemon.start()
    assert world.images() == before


# --- By themselves --------------------------------------------------------------------------------


def test_programs_that_are_missing(new_daemon):
    daemon = new_daemon(env={"PATH": "/nonexistent"}, config={"tools_path": "/nonexistent"}).start()
    reply = daemon.post("/images", {"source": "oci:/srv/image"})
    assert (reply.status, reply.problem) == (503, "preflight-failed"), reply
    missing = {tool["name"]: tool["hint"] for tool in reply.json()["tools"] if not tool["found"]}
    for program, package in {"skopeo": "skopeo", "umoci": "umoci", "mkfs.erofs": "erofs-utils"}.items():
        assert missing[program] == f"install it by: apt-get install {package}"
    assert daemon.get("/images").json()["preflight"]["ok"] is False


@pytest.mark.backends
def test_a_disk_is_kept(daemon):
    """Over a stop and a start, and what was synced also over a kill of the machine."""
    script = "echo line >>/root/log; sync; echo run $(wc -l </root/log); sleep 100"
    plan = {"slug": "disk", "command": ["sh", "-c", script], "resources": {"disk_mib": 96}}
    daemon.create(plan, "?start=true&wait=running")
    path = daemon.state_dir / "bottles" / "disk" / "disk.ext4"
    assert path.stat().st_size == 96 * MIB and path.stat().st_blocks * 512 < 24 * MIB, "sparse"
    control.follow(daemon, "disk", b"run 1\n")
    for process in daemon.processes_named(daemon.row["vmm"]):
        os.kill(process.pid, signal.SIGKILL)
    assert daemon.wait("disk", "failed,exited,stopped")["state"] == "failed"
    daemon.post("/bottles/disk/start?wait=running")
    control.follow(daemon, "disk", b"run 2\n")
    assert daemon.post("/bottles/disk/stop?wait=stopped&grace=0s").status == 200
    assert path.exists()
    items = daemon.get("/bottles/disk/cleanup-plan").json()["items"]
    assert [item["reason"] for item in items if item["name"] == str(path)] == ["the bottle's disk"]
    daemon.remove("disk")
    assert not path.exists()


# An image with real clients, made of this machine's own programs by tests/clients/mkimage.
WORKS = """
git init -q r && cd r && echo x >f && git add f && git -c user.name=a -c user.email=a@b commit -qm first && git log --format=%s
npm --version && python3 -c 'print("python", 6 * 7)'
"""


def test_an_image_with_real_programs(new_daemon, tmp_path):
    """As a folder, whose files are many and large; it works in a bottle, on the bottle's disk."""
    subprocess.run(["fsck.erofs", f"--extract={tmp_path}/tree", harness.BUILD / "clients" / "clients.erofs"], check=True, capture_output=True)
    daemon = new_daemon(config={"image_roots": str(tmp_path)}).start()
    reply = daemon.post("/images?wait=true", {"source": f"dir:{tmp_path}/tree"})
    assert reply.status == 201 and reply.json()["bytes"] > 100 * MIB, reply
    plan = {
        "slug": "real",
        "image": reply.json()["id"],
        "workdir": "/workspace",
        "command": ["sh", "-ec", WORKS],
        "resources": {"memory_mib": 768, "disk_mib": 256},
    }
    bottle = daemon.run(plan)
    lines = daemon.log("real").splitlines()
    assert bottle["exit_code"] == 0 and lines[0] == "first" and lines[2] == "python 42", lines
