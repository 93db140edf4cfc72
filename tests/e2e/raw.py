"""Bytes to a socket and back, without a library that would mend them: what a client that is broken, slow or hostile sends."""
import socket

import pace


class Answer:
    """One response off the wire: status, headers (names in lower case) and body."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


class Wire:
    """A connection that sends what it is given. `where`: the path of a Unix socket, or (host, port)."""

    def __init__(self, where, timeout=20):
        self.sock = socket.socket(socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX)
        self.sock.settimeout(pace.stretched(timeout))
        self.sock.connect(where if isinstance(where, tuple) else str(where))
        self.left = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """All of it, or as much as the other end takes before it closes."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self

    def end(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def more(self):
        """Reads on; False at the end."""
        try:
            got = self.sock.recv(65536)
        except ConnectionResetError:
            got = b""
        self.left += got
        return bool(got)

    def until(self, mark):
        while mark not in self.left:
            if not self.more():
                raise EOFError(f"closed before {mark!r}; there was {self.left!r}")
        part, _, self.left = self.left.partition(mark)
        return part

    def exactly(self, length):
        while len(self.left) < length:
            if not self.more():
                raise EOFError(f"closed within a body; there was {self.left!r}")
        part, self.left = self.left[:length], self.left[length:]
        return part

    def answer(self, head=False):
        """The next response; an interim one is skipped. `head`: to a HEAD, which has no body."""
        while True:
            first, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, status, _ = first.split(" ", 2)
            assert version == "HTTP/1.1", first
            if status != "100":
                break
        headers = {}
        for line in lines:
            name, value = line.split(":", 1)
            assert name.lower() not in headers, f"{name} is there twice: {lines}"
            headers[name.lower()] = value.strip()
        if head or status in ("204", "304"):
            return Answer(int(status), headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            assert self.until(b"\r\n") == b""
            return Answer(int(status), headers, body)
        return Answer(int(status), headers, self.exactly(int(headers["content-length"])))

    def closed(self):
        """Waits for the end; what still came before it must be nothing."""
        while self.more():
            pass
        return self.left == b""
