"""Lives that are lived while a failpoint waits in them: what a client does, step by step, and what it may be told.

A life is a list of steps, each a function of its world. Where something went wrong the step's answer is a
problem that says so; steps after it may find less than they had expected. What is never right: no answer from
a daemon that lives, an answer without words, a wait that does not end.
"""
import dataclasses
import http.client
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import fake_shim  # noqa: E402
import harness  # noqa: E402

START_TIMEOUT = 15
ANSWER_S = 130
MAKING_S = 60
MACHINE = {"resources": {"disk_mib": 64}}


class Died(Exception):
    """The daemon is gone."""


class World:
    """One daemon, in folders of its own, and its client."""

    def __init__(self, board=None, library=None, program="bottled", fake=False, config=None):
        self.daemon = harness.Daemon(config={"log_level": "info", "boot_timeout": "60s", **(config or {})})
        # That bottled ends itself where it could not go on is no fault that a sanitizer is to report.
        self.preload = {**board.environment(library, program), "ASAN_OPTIONS": "handle_abort=0"} if board else {}
        self.beside = pathlib.Path(tempfile.mkdtemp(prefix="bx", dir="/tmp"))
        self.beside.chmod(0o755)
        self.board, self.opening = board, None  # how many points it met before its first "ready"
        self.strict = False
        self.replies, self.refusals, self.wrong = 0, [], []
        if fake:
            self.daemon.config["libexec_dir"] = str(fake_shim.install(self.beside / "x", harness.BUILD))
        self.roots = self.beside / "roots"
        (self.roots / "tree" / "bin").mkdir(parents=True)
        (self.roots / "tree" / "bin" / "tool").write_text("#!/bin/sh\n")
        self.daemon.config["image_roots"] = str(self.roots)

    @property
    def patience(self):
        """With a state that may never come, because the bottle was not started."""
        return "10s" if self.strict else "3s"

    def warm(self, pool):
        """Gives the daemon, which does not run, the template of its machine, unless it has one."""
        folder = self.daemon.state_dir / "templates"
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        pool.give(self.daemon)

    def start(self, failing=True):
        """Starts the daemon; Died where it ended by itself, with words."""
        self.daemon.env = self.preload if failing else {}
        self.daemon.spawn()
        if self.daemon.output.wait_line("^ready on ", START_TIMEOUT):
            if self.opening is None and self.board:
                self.opening = self.board.count
            return
        self.gone()

    def gone(self):
        """It is no longer there; hung is worse."""
        try:
            status = self.daemon.process.wait(START_TIMEOUT)
        except Exception:
            self.wrong.append(f"bottled neither answers nor ends:\n{self.daemon.output.text()[-2000:]}")
            self.daemon.kill()
            raise Died() from None
        if status not in (-9, 0) and not re.search("level=error|^bottled: ", self.daemon.output.text(), re.M):
            self.wrong.append(f"bottled ended with {status} and without a word")
        self.status = status
        raise Died()

    def stop(self):
        try:
            status = self.daemon.stop(30)
        except Exception:
            self.wrong.append(f"bottled does not end:\n{self.daemon.output.text()[-2000:]}")
            self.daemon.kill()
            raise Died() from None
        if status == -9:
            raise Died()
        if status != 0 and self.strict:
            self.wrong.append(f"bottled ended with {status}")

    def ask(self, method, path, body=None, expect=(200,), **options):
        """A call; its reply where it is one of `expect`, else None (strict: a fault)."""
        try:
            reply = self.daemon.request(method, path, body=body, timeout=ANSWER_S, **options)
        except TimeoutError:
            self.wrong.append(f"{method} {path} was not answered within {ANSWER_S} s:\n{self.daemon.output.text()[-2000:]}")
            return None
        except (OSError, http.client.HTTPException) as error:
            if self.daemon.process.poll() is not None or self.ended():
                raise Died() from None
            self.refusals.append(f"{method} {path}: cut off ({error!r})")
            if self.strict:
                self.wrong.append(self.refusals[-1])
            return None
        self.replies += 1
        if reply.status in expect:
            return reply
        self.refusals.append(f"{method} {path}: {reply}")
        if self.strict:
            self.wrong.append(self.refusals[-1])
        elif reply.problem is None or not reply.json().get("detail"):
            self.wrong.append(f"{method} {path} was refused without words: {reply}")
        return None

    def ended(self):
        """After a connection broke: did the daemon die, or did it close it?"""
        try:
            self.daemon.process.wait(0.3)
        except Exception:
            return False
        return True

    def close(self):
        try:
            return self.daemon.close()
        finally:
            shutil.rmtree(self.beside, ignore_errors=True)


# --- Steps ----------------------------------------------------------------------------------------


def plan(slug, **more):
    return {"slug": slug, "command": ["sh", "-c", "echo up; sleep 600"], "labels": {"life": "1"}, **more}


def bottles(world):
    world.start()
    world.ask("POST", "/plans", plan("first"))
    world.ask("POST", "/bottles", plan("first", egress={"allow": ["allowed.example"]}), (201,))
    world.ask("POST", "/bottles", plan("second", resources={"disk_mib": 64}), (201,))
    world.ask("POST", "/bottles", plan("third"), (201,))
    world.ask("POST", "/bottles", plan("first"), (409,) if world.strict else (409, 201))
    world.ask("GET", "/bottles?limit=10")
    world.ask("GET", "/bottles/first")
    world.ask("GET", "/bottles/first/plan/files/gvproxy.yaml")
    world.ask("PATCH", "/bottles/first", {"labels": {"life": "2"}})
    world.ask("PATCH", "/bottles/first", {"egress": {"allow": ["other.example"]}})
    world.ask("GET", "/bottles/first/cleanup-plan")
    world.ask("POST", "/bottles/first/stop", expect=(200,))
    world.ask("GET", "/events?after=0&limit=10")
    world.ask("GET", "/readyz")
    world.ask("DELETE", "/bottles/second", expect=(200, 404))
    world.ask("DELETE", "/bottles/third?keep=logs", expect=(200, 404))
    world.stop()
    world.start()
    world.ask("GET", "/bottles/first")
    world.ask("PATCH", "/bottles/first", {"labels": {"life": "3"}})
    world.ask("DELETE", "/bottles/first", expect=(200, 404))
    world.stop()


def images(world):
    world.start()
    source = f"dir:{world.roots / 'tree'}"
    reply = world.ask("POST", "/images?wait=true", {"source": source}, (200, 201))
    world.ask("POST", "/bottles", plan("imaged", image=source), (201,))
    world.ask("DELETE", "/bottles/imaged", expect=(200, 404))
    image = reply.json() if reply else None
    for image in (world.ask("GET", "/images") or harness_empty).json()["images"]:
        world.ask("DELETE", f"/images/{image['id']}", expect=(200, 204))
    world.stop()


class harness_empty:
    @staticmethod
    def json():
        return {"images": []}


def starts(world):
    """With a supervisor that only says that its bottle runs."""
    world.start()
    world.ask("POST", "/bottles", plan("first", egress={"allow": ["allowed.example"]}, resources={"disk_mib": 64}), (201,))
    world.ask("POST", "/bottles/first/start?wait=running&timeout=10s")
    world.ask("PATCH", "/bottles/first", {"egress": {"allow": ["other.example"]}})
    world.ask("POST", "/bottles/first/egress-report")
    world.ask("POST", f"/bottles/first/stop?wait=stopped&timeout={world.patience}")
    world.ask("POST", "/bottles?start=true&wait=running&timeout=10s", plan("second"), (201,))
    world.ask("POST", "/bottles?start=true&wait=running&timeout=10s", plan("third"), (201,))
    world.ask("DELETE", "/bottles/third", expect=(200, 404))
    world.stop()
    world.start()
    world.ask("GET", "/bottles/second")
    world.ask("POST", "/bottles/first/start?wait=running&timeout=10s")
    world.ask("POST", f"/bottles/second/stop?wait=stopped&timeout={world.patience}")
    world.ask("DELETE", "/bottles/first", expect=(200, 404))
    world.ask("DELETE", "/bottles/second", expect=(200, 404))
    world.stop()


def machine(world):
    """One real microVM."""
    world.start()
    world.ask("POST", "/bottles?start=true&wait=running&timeout=100s", plan("vm", **MACHINE), (201,))
    world.ask("POST", "/bottles/vm/exec", {"command": ["true"]})
    world.ask("POST", "/bottles/vm/stop?wait=stopped&timeout=100s&grace=1s")
    world.ask("DELETE", "/bottles/vm", expect=(200, 404))
    world.stop()


def templates(world):
    """The first microVM boots cold, and one more is saved, which the second starts from. (There may be one from before, but
    of a machine that is another now: the host's clock rate is measured anew where it could not be kept.)"""
    world.start()
    first = world.ask("POST", "/bottles?start=true&wait=running&timeout=100s", plan("first", **MACHINE), (201,))
    made = first and (first.json()["boot"] == "template" or world.daemon.output.wait_line("a template (is made|could not be made)", MAKING_S))
    if world.strict and not made:
        world.wrong.append("no template is made")
    reply = world.ask("POST", "/bottles?start=true&wait=running&timeout=100s", plan("second", **MACHINE), (201,))
    if world.strict and reply and reply.json()["boot"] != "template":
        world.wrong.append(f"the second bottle did not start from the template: {reply}")
    world.ask("DELETE", "/bottles/first", expect=(200, 404))
    world.ask("DELETE", "/bottles/second", expect=(200, 404))
    world.stop()


@dataclasses.dataclass(frozen=True)
class Life:
    """`like`: a life that is the same at some points, which are walked there: those before the first "ready" of the
    daemon, or all (`like_all`) that both meet."""

    live: callable
    program: str  # whose points are walked
    fake: bool = False  # its supervisors
    vm: str = ""  # "warm": it starts from a template; "cold": not before the life is lived again
    like: str = None
    like_all: bool = False
    config: dict = None  # the daemon's


MAKES = {"template_after": "0s"}
LIVES = {
    "bottles": Life(bottles, "bottled", fake=True),
    "images": Life(images, "bottled", like="bottles"),
    "starts": Life(starts, "bottled", fake=True, like="bottles"),
    "machine": Life(machine, "bottled", vm="warm", like="bottles"),
    "shim": Life(machine, "bottle-shim", vm="warm"),
    "boot": Life(machine, "bottle-shim", vm="cold", like="shim", like_all=True),
    "templates": Life(templates, "bottled", like="machine", like_all=True, config=MAKES),
    "maker": Life(templates, "bottle-shim", like="boot", like_all=True, config=MAKES),
}
