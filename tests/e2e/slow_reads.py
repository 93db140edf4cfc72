"""A file whose reads wait, as those of a slow disk do: fanotify asks about each, and is answered when the test says so.

Takes root, and the file must be opened after this has begun. At the end the kernel lets everything through, since the
descriptor is closed (fanotify(7)).
"""
import ctypes
import errno
import os
import select
import struct
import threading

FAN_CLOEXEC, FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_ACCESS_PERM, FAN_ALLOW, AT_FDCWD = 1, 4, 1, 0x20000, 1, -100
EVENT = struct.Struct("IBBHQii")  # length, version, reserved, of the metadata, mask, descriptor, process


class SlowReads:
    """`with SlowReads(path) as reads:` … `reads.hold()`, `len(reads.held)` of them wait … `reads.let_go()`, once and for all."""

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.fanotify_init(FAN_CLOEXEC | FAN_CLASS_CONTENT, os.O_RDONLY | os.O_CLOEXEC)
        marked = libc.fanotify_mark(self.fd, FAN_MARK_ADD, ctypes.c_uint64(FAN_ACCESS_PERM), AT_FDCWD, os.fsencode(path))
        if self.fd < 0 or marked < 0:
            raise OSError(ctypes.get_errno() or errno.EINVAL, "fanotify", str(path))
        self.held, self._holds = [], False
        self._end, self._told = os.pipe()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.let_go()

    def _answer(self):
        while self._end not in select.select([self.fd, self._end], [], [])[0]:
            data = os.read(self.fd, 1 << 16)
            while data:
                length, *_, fd, _ = EVENT.unpack_from(data)
                self.held.append(fd)
                data = data[length:]
            if not self._holds:
                self._allow()

    def _allow(self):
        for fd in self.held:
            os.write(self.fd, struct.pack("iI", fd, FAN_ALLOW))
            os.close(fd)
        self.held = []

    def hold(self):
        self._holds = True

    def let_go(self):
        if self._thread.is_alive():
            os.close(self._told)
            self._thread.join()
            self._allow()
            os.close(self.fd)
            os.close(self._end)
