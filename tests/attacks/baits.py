"""What an attack on the host would take: files and Unix sockets, and the resolver that the tests play."""
import itertools
import os
import pathlib
import re
import shutil
import socket
import tempfile

import canary
import rows_proxy

REBINDING = "rebind.example"
REBOUND = itertools.cycle(["203.0.113.10", "127.0.0.1"])
ROW_NAME = re.compile(r"^([a-z0-9-]+)\.rows\.example$", re.IGNORECASE)


class Baits:
    """A folder that everybody may write to, with a victim file for each row that asks, and a listening socket.

    Not in /tmp, where a shim has one of its own."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bb", dir="/var/tmp"))
        self.folder.chmod(0o777)
        self.victims, self.sockets = {}, {}
        self.socket_path = str(self.folder / "service.sock")
        self.abstract = self.folder.name
        self._listeners = [listener(self.socket_path), listener(f"\0{self.abstract}")]
        os.chmod(self.socket_path, 0o777)
        self._socket = identity(self.socket_path)

    def path(self, name):
        """The victim file of a row; it is there when that is first asked."""
        if name not in self.victims:
            self.victims[name] = path = self.folder / name
            path.write_text("precious\n")
            path.chmod(0o666)
        return str(self.victims[name])

    def socket_changed(self):
        try:
            return identity(self.socket_path) != self._socket
        except FileNotFoundError:
            return True

    def remember(self, run_dir):
        """The sockets of the one bottle that runs there, as they are before it is attacked."""
        for path in pathlib.Path(run_dir).glob("b/*/net/*.sock"):
            self.sockets[path.name] = identity(path)

    def visitors(self):
        """Did anyone connect to the host's own sockets?"""
        found = 0
        for one in self._listeners:
            try:
                one.accept()[0].close()
                found += 1
            except BlockingIOError:
                pass
        return found

    def unharmed(self):
        """Words for what is not as it was, or None."""
        for name, path in self.victims.items():
            if not path.is_file() or path.read_text() != "precious\n":
                return f"the victim of {name} is not what it was"
        extra = set(os.listdir(self.folder)) - set(self.victims) - {"service.sock"}
        return f"new files: {sorted(extra)}" if extra else None

    def close(self):
        for one in self._listeners:
            one.close()
        shutil.rmtree(self.folder)


def listener(address):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(address)
    sock.listen(16)
    sock.setblocking(False)
    return sock


def identity(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino


def answer(packet, otherwise=canary.dns_answer):
    """The canaries' resolver, which knows the names of rows_proxy.py as well."""
    found = canary.question_of(packet)
    row = ROW_NAME.match(found[0]) if found else None
    if not found or not (row and row[1].lower() in rows_proxy.OWN_NAMES or found[0] == REBINDING):
        return otherwise(packet)
    address = rows_proxy.address_of(row[1].lower()) if row else None
    if found[1] != 1:
        return packet[:2] + bytes.fromhex("81800001000000000000") + found[2]
    data = socket.inet_aton(address or next(REBOUND))
    head = packet[:2] + bytes.fromhex("81800001000100000000") + found[2]
    return head + bytes.fromhex("c00c0001000100000000") + b"\0\4" + data


canary.dns_answer = answer
# Where the cell is switched off, bottle-cell listens in the canaries' place.
canary.TCP_PORTS = tuple(port for port in canary.TCP_PORTS if port != 8888)
