"""Reading GET /events as a stream, as a browser's EventSource does. Standard library only."""
import json

import harness


class Stream:
    """One connection. Iterating gives (name, data) of each message; `place` is the last id that was said."""

    def __init__(self, daemon, query="", place=None, timeout=20):
        self.connection = harness.UnixConnection(str(daemon.socket), timeout)
        headers = {"Accept": "text/event-stream", **({} if place is None else {"Last-Event-ID": str(place)})}
        self.connection.request("GET", f"/events{query}", headers=headers)
        self.response = self.connection.getresponse()
        self.place, self.comments = place, 0

    def __enter__(self):
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"] == "text/event-stream"
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.response.close()
        self.connection.close()

    def begin(self):
        """Reads up to where the stream says from where it goes on."""
        while self.place is None or self.response.readline() != b"\n":
            self.place = 0 if self.place is None else self.place
        return self

    def blocks(self):
        """What stands between two blank lines, as a dict of its fields."""
        fields = {}
        for line in self.response:
            name, _, value = line.decode().rstrip("\n").partition(":")
            if line == b"\n":
                yield fields
                fields = {}
            elif name:
                fields[name] = value.removeprefix(" ")
            else:
                self.comments += 1

    def __iter__(self):
        for fields in self.blocks():
            self.place = int(fields.get("id", self.place or 0))
            if "data" in fields:
                yield fields.get("event", "message"), json.loads(fields["data"])

    def take(self, count):
        found = []
        for message in self:
            found.append(message)
            if len(found) == count:
                break
        assert len(found) == count, found
        return found
