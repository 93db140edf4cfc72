"""smolfile.toml against real readers: Python's TOML parser (device dialect), and `smolvm machine create`
(smolvm dialect), whose `machine status` and database must then hold exactly what the file was given.

The guests are generated from a fixed seed: text of every kind that UTF-8 has, but NUL. What the command
would change in silence has to be missing from what it holds, and nothing else.
"""
import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import tomllib

import pytest

import harness
import rendering

PLANS = 200
SEED = 20260102
SMOLVM = harness.ROOT / ".tools" / "bin" / "smolvm"

# White_Space of Unicode (PropList.txt): what the command's trim takes off.
WHITE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

SPITEFUL = [
    '"', "'", "\\", '"""', "'''", "\\u0000", "\\\"", "\n[network]\nx = 1\n", '"]\nnet = true\nx = ["', "#", "=", "${HOME}",
    "$(id)", "`id`", "%s%n", "\x7f", "\x1b[31m", "\r\n", "\t", "\ufeff", "\u202e", "\u2028", "\U0010ffff", "é", "e\u0301",
    "漢字", "😀", "--", "-x", "true", "null", "1e3", "0x10", "~", "tsi", "allow_hosts = [\"*\"]",
]  # fmt: skip


def character(rng):
    kind = rng.randrange(5)
    if kind == 0:
        return chr(rng.randrange(1, 0x80))
    if kind == 1:
        return chr(rng.randrange(0x80, 0x800))
    if kind == 2:
        return rng.choice(WHITE)
    point = rng.randrange(0x800, 0x110000)
    return chr(point) if not 0xD800 <= point < 0xE000 else "\ufffd"


def hostile(rng, most=12):
    parts = (rng.choice(SPITEFUL) if rng.random() < 0.4 else character(rng) for _ in range(rng.randrange(most)))
    return "".join(parts)


def name(rng, number):
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
    return f"{rng.choice(letters)}{rng.choice(letters)}{number}"


def guest(rng):
    """A plan's part of a guest; every sixth or so holds something very long."""
    env = {name(rng, number): hostile(rng) for number in range(rng.randrange(20))}
    if rng.random() < 0.15:
        env["LONG"] = hostile(rng) + "x" * 60000 + rng.choice(["", " ", "\n"])
    return {
        "command": [rng.choice(["sh", "/bin/true"]), *(hostile(rng) for _ in range(rng.randrange(6)))],
        "workdir": "/" + "/".join(f"w{hostile(rng, 5).replace('/', '')}" for _ in range(rng.randrange(3))),
        "env": env,
        "cpus": rng.randrange(1, 17),
        "memory_mib": rng.randrange(128, 65537),
    }


IMAGES = {
    "alpine": True,
    "ghcr.io/owner/name:1.2": True,
    "localhost:5000/x@sha256:00ff": True,
    "builtin:busybox": False,
    "-": False,
    "./folder": False,
    "/archive.tar": False,
    "archive.tgz": False,
    "two words": False,
    'quo"te\n': False,
}


class Smolvm:
    """The real command, with a home of its own."""

    def __init__(self, program, home):
        self.program, self.home = program, home
        self.env = {"HOME": str(home), "SMOLVM_DATA_DIR": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.database = home / ".local/share/smolvm/server/smolvm.db"

    def run(self, *arguments):
        argv = [str(self.program), "machine", *arguments]
        return subprocess.run(
            argv, env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )

    def create(self, machine, smolfile):
        """`machine status` and the row of a machine made from the text of a Smolfile."""
        path = self.home / "smolfile.toml"
        path.write_bytes(smolfile.encode())
        done = self.run("create", "--name", machine, "--smolfile", str(path))
        assert done.returncode == 0, f"{done.stderr}\n{smolfile}"
        done = self.run("status", "--name", machine, "--json")
        assert done.returncode == 0, done.stderr
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            row = database.execute("SELECT data FROM vms WHERE name = ?", (machine,)).fetchone()
        return json.loads(done.stdout), json.loads(row[0])


@pytest.fixture
def smolvm(tmp_path):
    program = SMOLVM if SMOLVM.exists() else shutil.which("smolvm")
    assert program, "smolvm is neither in .tools/bin nor on PATH: run tools/setup"
    return Smolvm(program, tmp_path)


def ends_in_white(text):
    return text[-1:] != "" and text[-1] in WHITE


def expect_kept(sent, env, status, row, image):
    """What the command holds is what was sent, but for what it would have changed."""
    assert status["cmd"] == sent["command"]
    assert status["entrypoint"] == []
    assert status["cpus"] == sent["cpus"]
    assert status["memory_mib"] == sent["memory_mib"]
    assert status["image"] == image
    assert status["network"] is False
    assert (status["mounts"], status["ports"], status["disks"]) == (0, 0, [])
    assert row["workdir"] == sent["workdir"]
    assert row["allowed_cidrs"] is None
    assert row["env"] == [[key, value] for key, value in env.items() if not ends_in_white(value)]


def test_rendered_guests_are_kept_as_sent(smolvm):
    rng = random.Random(SEED)
    guests = [{**guest(rng), "image": rng.choice(list(IMAGES))} for _ in range(PLANS)]
    cases = [{"network": rendering.NETWORK, "guest": one} for one in guests]
    left_out = 0
    for number, answer in enumerate(rendering.render_all("smolfile.smolvm.toml", cases)):
        sent = guests[number]
        status, row = smolvm.create(f"m{number}", answer["text"])
        expect_kept(sent, sent["env"], status, row, sent["image"] if IMAGES[sent["image"]] else None)
        changed = sum(map(ends_in_white, sent["env"].values()))
        assert (f"# env: {changed} of {len(sent['env'])} entries left out" in answer["text"]) == (changed > 0)
        left_out += changed
    assert left_out > PLANS / 10, "the generator made too few values that the command would change"


def test_planned_bottles_are_kept_as_sent(smolvm, new_daemon):
    daemon = new_daemon(config={"smolfile_dialect": "smolvm"}).start()
    rng = random.Random(SEED + 1)
    for number in range(PLANS):
        sent = guest(rng)
        plan = {
            "backend": "smolmachines",
            "command": sent["command"],
            "workdir": sent["workdir"],
            "env": sent["env"],
            "resources": {"cpus": sent["cpus"], "memory_mib": sent["memory_mib"]},
        }
        reply = daemon.post("/plans", plan)
        assert reply.status == 200, reply
        resolved = reply.json()
        files = {file["name"]: file["content"] for file in resolved["files"]}
        env = resolved["guest"]["env"]
        assert sent["env"].items() <= env.items()
        status, row = smolvm.create(f"p{number}", files["smolfile.toml"])
        expect_kept(sent, env, status, row, None)


def test_the_command_changes_what_is_left_out(smolvm):
    """The reason for leaving out: each white space at the end of an entry is lost, and nothing else is."""
    env = {f"V{number}": f"x{space}" for number, space in enumerate(WHITE)}
    env |= {"BOM": "x\ufeff", "ZERO_WIDTH": "x\u200b", "SEPARATOR": "x\x1c", "DELETE": "x\x7f"}
    text = "env = [" + ", ".join(json.dumps(f"{key}={value}").replace("\x7f", "\\u007f") for key, value in env.items()) + "]\n"
    _, row = smolvm.create("white", text)
    held = dict(row["env"])
    assert {key for key in env if held[key] != env[key]} == {key for key in env if key.startswith("V")}


def test_device_dialect_is_toml_that_says_the_same():
    rng = random.Random(SEED + 2)
    guests = [{**guest(rng), "image": hostile(rng)} for _ in range(PLANS)]
    cases = [{"network": rendering.NETWORK, "guest": one} for one in guests]
    for sent, answer in zip(guests, rendering.render_all("smolfile.device.toml", cases)):
        assert tomllib.loads(answer["text"]) == {
            "image": sent["image"],
            "cmd": sent["command"],
            "workdir": sent["workdir"],
            "env": [f"{key}={value}" for key, value in sent["env"].items()],
            "cpus": sent["cpus"],
            "memory": sent["memory_mib"],
            "device": [
                {
                    "type": "virtio-net",
                    "backend": "gvproxy",
                    "socket": "unixgram:///run/bottle/net.sock",
                    "mac": rendering.NETWORK["guest_mac"],
                }
            ],
        }
