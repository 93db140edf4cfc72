"""Creates with Idempotency-Keys by clients that crash at any moment, on a bottled that is killed now and then.

Each client means a number of bottles. It sends the request of one, dies before, while or after it is answered, and sends
it again until it has seen the answer. In the end there must be exactly the bottles that were meant.
"""
import json
import random
import socket
import threading
import time

import harness


class Client(threading.Thread):
    """Makes bottle after bottle of its numbers, by hand, so that it can die within a request."""

    def __init__(self, crowd, numbers, seed):
        super().__init__(daemon=True)
        self.crowd, self.numbers, self.dice = crowd, numbers, random.Random(seed)
        self.made, self.fault = {}, None
        self.attempts = self.crashes = self.replays = self.busy = 0

    def run(self):
        try:
            for number in self.numbers:
                while not self.attempt(number):
                    pass
        except Exception as fault:  # shown by the one who waits for it
            self.fault = fault

    def attempt(self, number):
        """One try; True once its answer was read."""
        body = json.dumps({"command": ["true"], "labels": {"meant": str(number)}}).encode()
        sent = (b"POST /bottles HTTP/1.1\r\nHost: x\r\nIdempotency-Key: create-%d\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (number, len(body), body))
        self.attempts += 1
        fate = self.dice.random()
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(60)
                sock.connect(str(self.crowd.daemon.socket))
                if fate < 0.1:  # it dies while it sends
                    sock.sendall(sent[:self.dice.randrange(len(sent))])
                    return self.crashed()
                sock.sendall(sent)
                if fate < 0.3:  # it dies and nobody knows how far its request came
                    return self.crashed()
                answer = b""
                while got := sock.recv(65536):
                    answer += got
                    if fate < 0.4:  # it dies while it reads
                        return self.crashed()
        except OSError:
            self.crowd.wait_ready()  # bottled was killed
            return False
        return self.read(number, answer)

    def crashed(self):
        self.crashes += 1
        return False

    def read(self, number, answer):
        head, _, body = answer.partition(b"\r\n\r\n")
        if not body:
            return False  # cut off by a kill
        status = int(head.split(b" ", 2)[1])
        if status in (409, 503):  # under way, or bottled is ending
            self.busy += 1
            return False
        assert status == 201, answer
        self.replays += b"idempotency-replayed: true" in head.lower()
        self.made[number] = json.loads(body)["slug"]
        return True


class Crowd:
    def __init__(self, daemon, count, *, kills, clients=8, seed=1):
        self.daemon, self.count, self.kills = daemon, count, kills
        self.dice = random.Random(seed)
        self.ready = threading.Event()
        self.ready.set()
        self.clients = [Client(self, range(first, count, clients), seed * 1000 + first) for first in range(clients)]

    def wait_ready(self):
        assert self.ready.wait(60), "bottled does not come back"

    def made(self):
        return sum(len(client.made) for client in self.clients)

    def run(self):
        """Runs it all; what came of it, in figures."""
        marks = sorted(self.dice.sample(range(self.count // 20, self.count * 9 // 10), self.kills))
        with harness.Clock() as clock:
            for client in self.clients:
                client.start()
            for mark in marks:
                while self.made() < mark and any(client.is_alive() for client in self.clients):
                    self.clients[0].join(0.005)
                self.ready.clear()
                self.daemon.kill()
                self.daemon.start()
                self.ready.set()
            for client in self.clients:
                client.join()
        for client in self.clients:
            if client.fault:
                raise client.fault
        totals = {name: sum(getattr(client, name) for client in self.clients)
                  for name in ("attempts", "crashes", "replays", "busy")}
        return {"meant": self.count, "kills": self.kills, "seconds": round(clock.seconds, 1), **totals}

    def check(self):
        """Exactly the bottles that were meant, each once, and each is the one that its client was told of."""
        told = {number: slug for client in self.clients for number, slug in client.made.items()}
        there, after = {}, ""
        while after is not None:
            page = self.daemon.get(f"/bottles?limit=1000{after and '&after=' + after}").json()
            for bottle in page["bottles"]:
                there.setdefault(int(bottle["labels"]["meant"]), []).append(bottle["slug"])
            after = page["next"]
        twice = {number: found for number, found in there.items() if len(found) > 1}
        assert not twice, f"made more than once: {twice}"
        assert len(told) == self.count
        assert {number: [slug] for number, slug in told.items()} == there
        files = {path.name for path in (self.daemon.state_dir / "bottles").iterdir()}
        assert set(told.values()) <= files
        return len(there), len(files) - len(told)


def main(count, kills):
    daemon = harness.Daemon(config={"max_bottles": count + 100, "log_level": "error"})
    try:
        crowd = Crowd(daemon.start(), count, kills=kills, seed=int(time.time()))
        figures = crowd.run()
        bottles, orphans = crowd.check()
        print(" ".join(f"{name}={value}" for name, value in {**figures, "bottles": bottles, "orphan_directories": orphans}.items()))
    finally:
        fault = daemon.close()
    assert fault is None, fault
