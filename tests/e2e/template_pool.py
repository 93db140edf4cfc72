"""Templates that the daemons of a test run share, so that only the first of hundreds of bottles boots cold.

A daemon knows the templates that lie in its state directory when it starts, and checks whether they hold. So the first
daemon of each kind of user has one made by a daemon made for that, of the machine that plans get which ask for nothing
else, and every daemon is given hard links to its files. Bottles of other machines boot cold, and are given no template:
`template_after` is longer than any test.
"""
import os
import pathlib
import shutil
import tempfile

NEVER = "24h"
MADE = r"a template is made"
# The processor's frequency as bottled once measured it: its guests under TCG are told, so templates depend on it.
FREQUENCY = "tsc-khz"
TIMEOUT = 120  # of a boot and a save, where the processor is emulated twice


class Pool:
    def __init__(self, nested=False, machine=None):
        self.nested = nested
        self.machine = machine or {}  # what of a plan makes another machine
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="bp", dir="/tmp"))
        self._known = {}  # {(row, uid): folder}

    def give(self, daemon):
        """Before the first start of a daemon that makes no templates itself."""
        if daemon.config.get("template_after") != NEVER or (daemon.state_dir / "templates").exists():
            return
        kind = daemon.row["accelerator"], daemon.uid
        if daemon.row["vmm"] == "bottle-krun" or "guest_dir" in daemon.config:
            return  # that backend has none; that machine is another
        if self.nested and daemon.row["accelerator"] == "tcg":
            return  # an emulator in an emulator: those tests boot nothing
        if kind not in self._known:
            self._known[kind] = self._make(daemon)
        for template in self._known[kind].glob("[0-9a-f]*"):
            target = daemon.state_dir / "templates" / template.name
            target.mkdir(mode=0o700, parents=True)
            for file in template.iterdir():
                os.link(file, target / file.name)
            for folder in (daemon.state_dir, target.parent, target):
                folder.chmod(0o700)
                if daemon.uid is not None:
                    os.chown(folder, daemon.uid, daemon.uid)
        if (self._known[kind] / FREQUENCY).exists():
            shutil.copy(self._known[kind] / FREQUENCY, daemon.state_dir)
            if daemon.uid is not None:
                os.chown(daemon.state_dir / FREQUENCY, daemon.uid, daemon.uid)

    def _make(self, daemon):
        folder = self.base / str(len(self._known))
        maker = type(daemon)(uid=daemon.uid, config={**daemon.row["config"], "template_after": "0s", "boot_timeout": f"{TIMEOUT}s"})
        try:
            maker.start()
            maker.create({"slug": "first", "command": ["sleep", "1000"], **self.machine}, f"?start=true&wait=running&timeout={TIMEOUT}s")
            line = maker.output.wait_line(MADE, TIMEOUT)
            assert line, f"no template was made:\n{maker.output.text()[-3000:]}"
            maker.remove("first")
            maker.stop()
            shutil.move(maker.state_dir / "templates", folder)
            if (maker.state_dir / FREQUENCY).exists():
                shutil.copy(maker.state_dir / FREQUENCY, folder)
        finally:
            fault = maker.close()
        assert fault is None, fault
        return folder

    def close(self):
        shutil.rmtree(self.base)
