"""A moment of each of the long runs: the failpoint walk, the crashes, the soak, the lifecycles."""
import os
import re
import subprocess

import harness
import pytest

TESTS = harness.ROOT / "tests"


pytestmark = pytest.mark.timeout(300)


def run(*argv, timeout=280):
    environment = {**os.environ, "BOTTLED_BUILD": str(harness.BUILD)}
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=timeout, env=environment)
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def test_failpoints():
    """Always the same of one build: spread over points and ways to fail."""
    said = run(TESTS / "failpoints" / "walk", "--life", "bottles", "--life", "starts", "--sample", "24")
    passed, missed, chosen = map(int, re.search(r"(\d+) passed, 0 failed, (\d+) not met; (\d+) of \d+ runs", said).groups())
    assert passed + missed == chosen == 24 and missed <= 3


def test_crash():
    said = run(TESTS / "endurance" / "crash", "--rounds", "5", "--seed", "7", "--machines", "1")
    assert "crash: kills 5," in said and "orphans 0" in said


def test_lifecycles():
    assert "100 prepared and deleted" in run(TESTS / "endurance" / "lifecycles", "--machines", "1", "--prepared", "100")


def test_soak():
    run(TESTS / "endurance" / "soak", "--seconds", "6", "--seed", "7")


FAULTS = ["directory", "file", "socket", "row", "port", "event", "process"]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checker_sees(daemon, fault):
    """Each rule can fail."""
    daemon.create({"slug": "one", "command": ["true"]})
    daemon.create({"slug": "two", "command": ["true"]})
    assert harness.invariants.faults(daemon) == []
    undo = getattr(Spoil, fault)(daemon)
    try:
        found = harness.invariants.faults(daemon)
    finally:
        undo()
    assert found, f"a {fault} too many is not seen"
    daemon.last_event = 0
    assert harness.invariants.faults(daemon) == []


class Spoil:
    """Puts something wrong, and says how to take it back."""

    @staticmethod
    def directory(daemon):
        path = daemon.state_dir / "bottles" / "orphan"
        path.mkdir()
        return path.rmdir

    @staticmethod
    def file(daemon):
        path = daemon.state_dir / "images" / f"{'0' * 64}.erofs"
        path.write_bytes(b"")
        return path.unlink

    @staticmethod
    def socket(daemon):
        import socket

        path = daemon.run_dir / "b" / "left.sock"
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(path))
        one.close()
        return path.unlink

    @staticmethod
    def sql(daemon, change, back):
        import sqlite3

        def run(text):
            connection = sqlite3.connect(daemon.state_dir / "bottled.db", timeout=10)
            with connection:
                connection.execute(text)
            connection.close()

        run(change)
        return lambda: run(back)

    @classmethod
    def row(cls, daemon):
        return cls.sql(daemon, "UPDATE bottles SET slug = 'lost' WHERE slug = 'two'", "UPDATE bottles SET slug = 'two' WHERE slug = 'lost'")

    @classmethod
    def port(cls, daemon):
        (port,) = [row["pipelock_port"] for row in harness.invariants.World(daemon).rows.values() if row["slug"] == "two"]
        return cls.sql(
            daemon,
            "UPDATE bottles SET pipelock_port = (SELECT pipelock_port FROM bottles WHERE slug = 'one') WHERE slug = 'two'",
            f"UPDATE bottles SET pipelock_port = {port} WHERE slug = 'two'",
        )

    @classmethod
    def event(cls, daemon):
        return cls.sql(daemon, "UPDATE events SET id = 1000 WHERE id = 2", "UPDATE events SET id = 2 WHERE id = 1000")

    @staticmethod
    def process(daemon):
        left = subprocess.Popen(["sleep", "1000"], cwd=daemon.base)

        def end():
            left.kill()
            left.wait()

        return end
