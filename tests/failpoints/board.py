"""The board of tests/failpoints/failpoints.c, from the test's side, and what its points are called.

A point's name says the call and who made it, innermost first: `mkdir name make_place < stage_write < prepare`.
Names are of one build; a number stands behind those that are the same.
"""
import collections
import mmap
import os
import pathlib
import re
import struct
import subprocess

POINTS_MAX, POINT_SIZE = 8192, 512
HEADER = struct.Struct("=IIQII")
OFF, RECORD, ARMED = range(3)
SHOWN = 4  # functions in a name

# What can come of a call, by its class; what is in none of these can only be died at.
ERRORS = {
    "create": ("ENOSPC", "EIO", "EMFILE", "ENOMEM"),
    "existing": ("EIO", "EMFILE", "ENOMEM"),
    "file": ("ENOSPC", "EIO", "ENOMEM"),
    "directory": ("ENOSPC", "EIO"),
    "memory": ("ENOSPC", "ENOMEM"),
    "kernel": ("EIO", "ENOMEM"),
    "socket": ("ENOMEM",),
    "name": ("ENOSPC", "EIO", "ENOMEM"),
    "remove": ("EIO", "ENOMEM"),
    "inode": ("EIO", "ENOMEM"),
    "descriptor": ("EMFILE", "ENOMEM"),
    "accept": ("EMFILE", "ENOMEM"),
    "watch": ("ENOSPC", "ENOMEM"),
    "bind": ("EIO", "ENOMEM"),
    "connect": ("ENOMEM",),
    "spawn": ("EMFILE", "ENOMEM"),
}


class Point:
    def __init__(self, number, text):
        self.number = number
        self.call, self.kind = text.split("|")[0].split(" ")
        self.frames = [frame.rsplit("+", 1) for frame in text.split("|")[1:]]
        self.name = text

    @property
    def errors(self):
        return ERRORS.get(self.kind, ())


class Board:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        with open(path, "w+b") as file:
            file.truncate(HEADER.size + POINTS_MAX * POINT_SIZE)
            self.map = mmap.mmap(file.fileno(), 0)
        os.chmod(path, 0o666)  # a supervisor is its bottle's user

    def environment(self, library, program):
        return {"LD_PRELOAD": str(library), "FAILPOINT_BOARD": str(self.path), "FAILPOINT_PROGRAM": program}

    def _header(self):
        return HEADER.unpack(self.map[: HEADER.size])

    def record(self):
        self.map[: HEADER.size] = HEADER.pack(RECORD, 0, 0, 0, 0)

    def arm(self, point, action):
        """`action`: 0 to die there, or the errno to fail with."""
        self.map[: HEADER.size] = HEADER.pack(ARMED, action, point.number, 0, 0)

    def disarm(self):
        mode, _, _, fired, count = self._header()
        self.map[: HEADER.size] = HEADER.pack(OFF, 0, 0, fired, count)

    @property
    def count(self):
        """How many points were recorded so far."""
        return self._header()[4]

    @property
    def fired(self):
        return bool(self._header()[3])

    def points(self):
        found = []
        for i in range(self.count):
            at = HEADER.size + i * POINT_SIZE
            number, text = struct.unpack(f"=Q{POINT_SIZE - 8}s", self.map[at : at + POINT_SIZE])
            found.append(Point(number, text.split(b"\0")[0].decode()))
        return found


def functions(program, offsets):
    """{offset: function}; a return address belongs to the call before it."""
    offsets = sorted(set(offsets))
    lines = subprocess.run(
        ["addr2line", "-f", "-e", str(program)],
        input="".join(f"{int(offset, 16) - 1:#x}\n" for offset in offsets),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {offset: re.sub(r"\.(isra|part|constprop|cold|lto_priv).*", "", name) for offset, name in zip(offsets, lines[::2])}


def name_points(points, program):
    known = functions(program, [offset for point in points for module, offset in point.frames if module == "program"])
    seen = collections.Counter()
    for point in points:
        words = [known[offset] if module == "program" else module.split(".so")[0] for module, offset in point.frames]
        # Headers of the C library wrap the call in a function of its name.
        words = [word for i, word in enumerate(words) if i == 0 and word != point.call or i and word != words[i - 1]][:SHOWN]
        name = f"{point.call} {point.kind}: {' < '.join(words)}"
        seen[name] += 1
        point.name = f"{name} #{seen[name]}" if seen[name] > 1 else name
    return points
