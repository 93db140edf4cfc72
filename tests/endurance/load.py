"""A mixed load on a bottled: clients that create, change, start, stop, exec into and delete bottles of their own,
and that ask for what can't be. Shared by crash, soak and lifecycles; `inside()` first, to be where the
end-to-end tests are.
"""
import collections
import http.client
import os
import pathlib
import random
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e")]


def inside():
    """On a network of its own (tests/netns/enter), and with every process that bottled leaves below this one."""
    enter = HERE.parent / "netns" / "enter"
    if "BOTTLED_TESTS_INSIDE" not in os.environ:
        os.environ["BOTTLED_TESTS_INSIDE"] = "1"
        os.execv(enter, [enter, sys.executable, *sys.argv])
    import processes

    processes.become_subreaper()


SLEEPS = ["sh", "-c", "echo up; while :; do sleep 1000 & wait $!; done"]
# What a client does how often, of 100; starts are a boot of a microVM each.
WEIGHTS = {"create": 34, "patch": 20, "delete": 30, "show": 10, "stop": 2, "exec": 2, "start": 1, "nonsense": 1}


class Client(threading.Thread):
    """One client with bottles of its own; ends when the daemon does, or when it is told to."""

    def __init__(self, daemon, name, seed, mine, figures, weights=None, live=2):
        super().__init__(daemon=True)
        self.daemon_, self.name_, self.random, self.figures = daemon, name, random.Random(seed), figures
        self.mine, self.live = mine, live  # {slug: whether it was started}, kept over restarts
        self.weights, self.told, self.faults = weights or WEIGHTS, threading.Event(), []

    def run(self):
        try:
            while not self.told.is_set():
                self.one()
        except (OSError, http.client.HTTPException):
            pass  # killed: this call has no answer
        except Exception as error:  # noqa: BLE001 - to be told by the thread that waits
            self.faults.append(repr(error))

    def ask(self, method, path, body=None, fits=(200,)):
        reply = self.daemon_.request(method, path, body=body, timeout=60)
        self.figures["answered"] += 1
        # One that comes up or ends has no proxy to take it; and the supervisor of a start may be the part that is killed.
        killed = reply.problem == "boot-failed" and "the supervisor was killed" in reply.json()["detail"]
        if reply.status not in fits and reply.problem != "egress-not-applied" and not killed:
            self.faults.append(f"{method} {path}: {reply}")
        if method in ("POST", "PATCH", "DELETE") and reply.status < 300:
            self.figures["acknowledged"] += 1
        return reply

    def pick(self, started=None):
        names = [slug for slug, live in self.mine.items() if started is None or live == started]
        return self.random.choice(sorted(names)) if names else None

    def one(self):
        names = list(self.weights)
        what = self.random.choices(names, [self.weights[name] for name in names])[0]
        getattr(self, f"do_{what}")()

    def do_create(self):
        if len(self.mine) >= 12:
            self.do_delete()
            return
        slug = f"{self.name_}-{self.random.randrange(16):x}"
        self.mine.setdefault(slug, False)
        labels = {"n": str(self.random.randrange(1000))}
        self.ask("POST", "/bottles", {"slug": slug, "command": SLEEPS, "labels": labels}, (201, 409))

    def do_patch(self):
        if slug := self.pick():
            change = {"labels": {"n": str(self.random.randrange(1000))}}
            if self.random.random() < 0.2:
                change["egress"] = {"allow": [f"h{self.random.randrange(9)}.example"]}
            self.ask("PATCH", f"/bottles/{slug}", change, (200, 404, 409))

    def do_delete(self):
        if slug := self.pick():
            query = "?keep=logs" if self.random.random() < 0.05 else ""
            self.ask("DELETE", f"/bottles/{slug}{query}", fits=(200, 404))
            self.mine.pop(slug, None)

    def do_show(self):
        slug = self.pick() or "none"
        path = self.random.choice(["", "/plan", "/cleanup-plan", "/logs?stream=console", "/stats"])
        self.ask("GET", f"/bottles/{slug}{path}", fits=(200, 404, 409))

    def do_start(self):
        if sum(self.mine.values()) < self.live and (slug := self.pick(started=False)):
            self.mine[slug] = True
            self.ask("POST", f"/bottles/{slug}/start", fits=(200, 202, 404, 409))
            self.figures["starts"] += 1

    def do_stop(self):
        if slug := self.pick(started=True):
            self.mine[slug] = False
            self.ask("POST", f"/bottles/{slug}/stop?grace=0s", fits=(200, 202, 404))

    def do_exec(self):
        if slug := self.pick(started=True):
            self.ask("POST", f"/bottles/{slug}/exec", {"command": ["true"]}, (200, 404, 409, 502, 503, 504))

    def do_nonsense(self):
        call = self.random.choice(
            [
                ("POST", "/bottles", b"{", (400,)),
                ("POST", "/bottles", {"slug": "No", "command": []}, (422,)),
                ("POST", "/bottles/none-of-them/start", None, (404,)),
                ("DELETE", "/bottles", None, (405,)),
                ("PATCH", "/bottles/none-of-them", {"labels": {"a": 1}}, (404, 422)),
                ("GET", "/bottles?limit=-1", None, (400,)),
                ("POST", "/bottles", b"x" * 1100000, (413,)),
            ]
        )
        self.ask(*call)


class Load:
    def __init__(self, daemon, seed, clients=4, **options):
        self.figures = collections.Counter()
        self.daemon, self.options, self.random = daemon, options, random.Random(seed)
        self.mine = [{} for _ in range(clients)]
        self.clients, self.faults = [], []

    def begin(self):
        self.clients = [
            Client(self.daemon, f"c{i}", self.random.random(), mine, self.figures, **self.options) for i, mine in enumerate(self.mine)
        ]
        for client in self.clients:
            client.start()

    def end(self):
        """After the daemon was killed, or to let the clients come to their ends."""
        for client in self.clients:
            client.told.set()
        for client in self.clients:
            client.join(100)
            self.faults += client.faults
            if client.is_alive():
                self.faults.append(f"client {client.name_} is still waiting for an answer")
        return self.faults
