#!/usr/bin/env python3
"""Runs a plan in a bottle of its own: its output comes live, and this ends as its command does.

    run.py [--socket PATH] PLAN.json        exit status: the command's; 125 where there is none

Python's standard library only.
"""
import argparse
import base64
import http.client
import json
import socket
import sys


class Bottled(http.client.HTTPConnection):
    """bottled on its Unix socket."""

    def __init__(self, path):
        super().__init__("bottled")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, headers={}):
        self.request(method, path, body, headers)
        return self.getresponse()


def run(path, plan):
    """Shows what the command prints; the last line of the answer, and the bottle's name (or None)."""
    headers = {"Accept": "application/x-ndjson", "Content-Type": "application/json"}
    reply = Bottled(path).ask("POST", "/bottles?start=true&wait=exited&timeout=1h", json.dumps(plan), headers)
    if reply.status != 201:
        return {"problem": json.load(reply)}, None
    slug, line = reply.headers["Location"].rsplit("/", 1)[-1], {}
    try:
        for text in reply:
            line = json.loads(text)
            if "stream" in line:
                sys.stdout.buffer.write(line["data"].encode() if "data" in line else base64.b64decode(line["base64"]))
                sys.stdout.buffer.flush()
    except http.client.IncompleteRead:
        pass  # bottled has ended: the bottle runs on
    return line, slug


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", default="/run/bottled/bottled.sock")
    parser.add_argument("plan", type=argparse.FileType())
    arguments = parser.parse_args()
    last, slug = run(arguments.socket, json.load(arguments.plan))
    if slug:
        Bottled(arguments.socket).ask("DELETE", f"/bottles/{slug}")
    if last.get("exit_code") is not None:
        return last["exit_code"]
    problem = last.get("problem") or {"detail": last.get("reason") or "the answer was cut"}
    print(problem["detail"], *(f"{one['pointer']}: {one['detail']}" for one in problem.get("errors", [])), sep="\n  ", file=sys.stderr)
    return 125


if __name__ == "__main__":
    sys.exit(main())
