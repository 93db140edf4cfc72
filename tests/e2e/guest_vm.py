"""The real guest, booted in QEMU with nothing else of bottled: a test holds the host's end of the agent channel.

The frames are those of guest/protocol.h, written down here a second time on purpose.
"""
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time

import pace
from harness import BUILD

HELLO, STARTED, OUTPUT, EXIT, FAILED = 1, 2, 3, 4, 5
SECRETS_SET, EVENT = 10, 11
START, SIGNAL, POWEROFF, SECRETS, WAKE = 64, 65, 66, 72, 78
PROTOCOL_VERSION = 5
BOOT_TIMEOUT = 60
PATH = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
MAC = "5a:94:ef:00:00:02"


def tsc_khz():
    """Without it some boots under TCG hang while the kernel measures its clock."""
    found = re.search(r"cpu MHz\s*:\s*([\d.]+)", pathlib.Path("/proc/cpuinfo").read_text())
    return int(float(found.group(1)) * 1000) if found else 2_000_000


def packed(frame_type, payload=b""):
    return struct.pack("<IB3x", len(payload), frame_type) + payload


def start_payload(argv, env, workdir, hostname, address, gateway, user="", mac="", wall_ms=None, entropy=b""):
    strings = [hostname, address, gateway, workdir, user, *argv, *env]
    raw = b"".join((s if isinstance(s, bytes) else s.encode()) + b"\0" for s in strings)
    wall_ms = int(time.time() * 1000) if wall_ms is None else wall_ms
    fresh = struct.pack("<Q8s64s", wall_ms, bytes.fromhex(mac.replace(":", "")), entropy)
    return struct.pack("<II", len(argv), len(env)) + raw + fresh + struct.pack("<II", 0, 0)  # no mounts


def secrets_payload(number, signal_number, *items):
    return struct.pack("<III", number, signal_number, len(items)) + b"".join(item.encode() + b"\0" for item in items)


class Guest:
    """One VM. `net`: the QEMU -netdev, without its id."""

    def __init__(self, folder, append="", net="hubport,hubid=0", image=None, memory=256):
        self.console_path = pathlib.Path(folder) / "console.log"
        self.console_path.write_bytes(b"")
        self.host, guest_end = socket.socketpair()
        self.host.settimeout(pace.stretched(BOOT_TIMEOUT))
        self.received = b""
        image = image or BUILD / "guest" / "images" / "busybox.erofs"
        line = f"console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz={tsc_khz()} {append}"
        argv = ["qemu-system-x86_64", "-M", "microvm,x-option-roms=off,isa-serial=on,rtc=on", "-bios", "qboot.rom"]
        argv += ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", str(memory)]
        argv += ["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]
        argv += ["-kernel", str(BUILD / "guest" / "vmlinuz")]
        argv += ["-initrd", str(BUILD / "guest" / "initramfs.img"), "-append", line]
        argv += ["-chardev", f"file,id=console,path={self.console_path}", "-serial", "chardev:console"]
        argv += ["-netdev", f"{net},id=net0", "-device", f"virtio-net-device,netdev=net0,mac={MAC}"]
        argv += ["-drive", f"if=none,id=image,file={image},format=raw,readonly=on"]
        argv += ["-device", "virtio-blk-device,drive=image"]
        argv += ["-chardev", f"socket,id=agent,fd={guest_end.fileno()}"]
        argv += ["-device", "virtio-serial-device,max_ports=2"]
        argv += ["-device", "virtserialport,chardev=agent,nr=1,name=bottled.agent"]
        self.process = subprocess.Popen(
            argv, pass_fds=[guest_end.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        guest_end.close()

    def close(self):
        self.host.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    # --- The channel ----------------------------------------------------------------------------

    def send(self, frame_type, payload=b""):
        self.host.sendall(packed(frame_type, payload))

    def frame(self):
        """(type, payload), or None when QEMU is gone."""
        while True:
            if len(self.received) >= 8:
                length, frame_type = struct.unpack("<IB", self.received[:5])
                assert length <= 64 * 1024 and self.received[5:8] == b"\0\0\0"
                if len(self.received) >= 8 + length:
                    payload = self.received[8 : 8 + length]
                    self.received = self.received[8 + length :]
                    return frame_type, payload
            more = self.host.recv(1 << 16)
            if not more:
                return None
            self.received += more

    def hello(self):
        frame_type, payload = self.frame()
        assert frame_type == HELLO and payload[:4] == struct.pack("<I", PROTOCOL_VERSION)
        return payload[4:].decode()

    def start(self, argv, env=(PATH,), workdir="/workspace", hostname="box",
              address="192.168.50.2/24", gateway="192.168.50.1", **rest):
        self.send(START, start_payload(argv, env, workdir, hostname, address, gateway, **rest))

    def run(self, argv, **start):
        """HELLO, START and all that comes back."""
        self.hello()
        self.start(argv, **start)
        return self.result()

    def result(self):
        result = Result()
        while result.code is None and result.failed is None:
            frame = self.frame()
            assert frame, "the VM ended without EXIT; its console:\n" + self.console()
            result.take(*frame)
        return result

    def end(self, timeout=10):
        """Answers EXIT, and waits for the machine to power off by itself."""
        self.send(POWEROFF)
        return self.wait(timeout)

    def wait(self, timeout=10):
        return self.process.wait(timeout)

    def console(self):
        return self.console_path.read_text(errors="replace").replace("\r\n", "\n")


class Result:
    def __init__(self):
        self.started, self.code, self.signal, self.words, self.failed = False, None, None, None, None
        self.parts, self.events = {1: [], 2: []}, []
        self.at = time.monotonic()

    def take(self, frame_type, payload):
        if frame_type == STARTED:
            assert not self.started and payload == b""
            self.started, self.at = True, time.monotonic()
        elif frame_type == OUTPUT:
            assert self.started and 1 < len(payload) <= 32 * 1024
            self.parts[payload[0]].append(payload[1:])
        elif frame_type == EXIT:
            self.code, self.signal = struct.unpack("<II", payload[:8])
            self.words = payload[8:].decode()
            self.seconds = time.monotonic() - self.at
        elif frame_type == EVENT:
            self.events.append((payload[0], payload[1:].decode()))
        elif frame_type == FAILED:
            self.failed = payload.decode()
        else:
            raise AssertionError(f"a frame of type {frame_type}")

    @property
    def out(self):
        return b"".join(self.parts[1])

    @property
    def err(self):
        return b"".join(self.parts[2])
