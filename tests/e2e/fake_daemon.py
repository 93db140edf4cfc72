"""A daemon whose supervisors are fake_shim's (the fixture `fake`)."""
import contextlib
import json
import os
import pathlib
import socket
import tempfile

import fake_shim
import harness


class Fake:
    def __init__(self, daemon, folder):
        self.daemon, self.folder = daemon, folder

    def start(self, slug, **fields):
        plan = {"slug": slug, "command": ["true"], "egress": {"allow": ["old.example"]}, **fields}
        return self.daemon.create(plan, "?start=true&wait=running")

    def answers(self, slug, **answers):
        (self.folder / f"{slug}.answers").write_text(json.dumps(answers))

    def heard(self, slug):
        path = self.folder / f"{slug}.heard"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def say(self, slug, packet):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(packet if isinstance(packet, bytes) else json.dumps(packet).encode(),
                          str(self.folder / f"{slug}.say"))


@contextlib.contextmanager
def installed(daemon):
    """Gives it, before it is started, the supervisor."""
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as base:  # short: a socket's path
        os.chmod(base, 0o755)
        folder = fake_shim.install(pathlib.Path(base) / "x", harness.BUILD)
        if daemon.uid is not None:
            os.chown(folder, daemon.uid, daemon.uid)
        daemon.config["libexec_dir"] = str(folder)
        daemon.config["guest_dir"] = str(harness.BUILD / "guest")
        yield Fake(daemon, folder)
