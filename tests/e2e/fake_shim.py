#!/usr/bin/env python3
"""A supervisor without a bottle behind it: what bottled does with what a shim says, or does not say.

As bottle-shim: `install(folder)` makes a libexec_dir with this program in bottle-shim's place. It says that
the bottle runs, and to each of its requests what `<slug>.answers` in that folder holds (see ANSWERS); what it
got is in `<slug>.heard`, a JSON object a line; every datagram sent to `<slug>.say` goes to bottled as it is, but for `hang up`.
"""
import json
import os
import pathlib
import socket
import sys
import select

# "hello": the state that it says first; "egress": "ok", {"error": words}, "silent", "die"; "report": a packet's members, "silent"; "stop": "ok", "silent".
ANSWERS = {"hello": "running", "egress": "ok", "report": {"checks": []}, "stop": "ok"}


def install(folder, build):
    folder.mkdir(mode=0o755)
    for name in ("bottle-cell", "bottle-krun", "bottle-owner.so", "bottle-private.so", "guest", "openapi.yaml"):
        (folder / name).symlink_to(build / name)
    (folder / "bottle-shim").write_text(f"#!{sys.executable}\n" + pathlib.Path(__file__).read_text())
    (folder / "bottle-shim").chmod(0o755)
    return folder


class Shim:
    def __init__(self):
        with os.fdopen(3) as spec:
            self.spec = json.load(spec)
        self.folder = pathlib.Path(sys.argv[0]).resolve().parent
        self.slug = self.spec["slug"]
        os.chdir(self.spec["run_dir"])
        self.stat = pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind("shim.sock")
        self.listener.listen(4)
        self.say = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.folder / f"{self.slug}.say"
        path.unlink(missing_ok=True)
        self.say.bind(str(path))
        self.clients = []

    def answers(self):
        path = self.folder / f"{self.slug}.answers"
        return {**ANSWERS, **(json.loads(path.read_text()) if path.exists() else {})}

    def heard(self, what):
        with (self.folder / f"{self.slug}.heard").open("a") as log:
            log.write(json.dumps(what) + "\n")

    def status(self, state):
        started = 0 if state == "starting" else 1700000000000
        return {"state": state, "reason": None, "exit_code": None, "started_ms": started, "finished_ms": 0,
                "pid": os.getpid(), "start_time": int(self.stat[19]), "boots": 1, "processes": []}

    def send(self, packet):
        for client in list(self.clients):
            try:
                client.send(packet if isinstance(packet, bytes) else json.dumps(packet).encode())
            except OSError:
                self.clients.remove(client)

    def end(self):
        status = {**self.status("stopped"), "finished_ms": 1700000001000}
        pathlib.Path("exit.json").write_text(json.dumps(status))
        self.send(status)
        os._exit(0)

    def on_egress(self, request, fds):
        with os.fdopen(fds[0]) as content:
            egress = json.load(content)
        self.heard({"egress": egress})
        answer = self.answers()["egress"]
        if answer == "die":
            os._exit(1)
        if answer != "silent":
            error = None if answer == "ok" else answer["error"]
            self.send({"applied": request["id"], "error": error})

    def on_report(self, request):
        self.heard({"report": request["id"]})
        answer = self.answers()["report"]
        if answer != "silent":
            self.send({"report": request["id"], **answer})

    def on_request(self, client):
        try:
            data, fds, _, _ = socket.recv_fds(client, 65536, 4)
        except OSError:
            data = b""
        if not data:
            self.clients.remove(client)
            return
        request = json.loads(data)
        if request["op"] == "hello" and request["token"] == self.spec["token"]:
            self.send(self.status(self.answers()["hello"]))
        elif request["op"] == "stop":
            self.heard({"stop": request["grace_ms"]})
            if self.answers()["stop"] == "ok":
                self.end()
        elif request["op"] == "egress":
            self.on_egress(request, fds)
        elif request["op"] == "report":
            self.on_report(request)

    def run(self):
        os.write(4, b"ok\n")
        os.close(4)
        while True:
            for source in select.select([self.listener, self.say, *self.clients], [], [])[0]:
                if source is self.listener:
                    self.clients.append(self.listener.accept()[0])
                elif source is self.say:
                    said = self.say.recv(65536)
                    if said == b"hang up":
                        while self.clients:
                            self.clients.pop().close()
                    else:
                        self.send(said)
                else:
                    self.on_request(source)


if __name__ == "__main__":
    Shim().run()
