"""Rows about what answers the guest: gvproxy's name server, its API at the gateway, the machine's own devices."""
import json
import os
import pathlib
import socket
import stat

import frames
import processes
from rows_network import PATIENCE, by_target
from table import Answer, Control, Dialled, Row

# --- Names -------------------------------------------------------------------------------------

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, IXFR, AXFR, ANY, HTTPS = 1, 2, 5, 6, 12, 15, 16, 28, 33, 251, 252, 255, 65
CHAOS = 3
NOTHING = r"^rcode [0-5], answers 0"
NX = r"^rcode 3, answers 0"
RESOLVER = "192.0.2.53"


def name_row(name, sends, question, back=NOTHING, transport="udp", forwarded=False):
    """`question(token)`: a DNS message. `forwarded`: without a cell gvproxy asks the host's resolver; what it
    answers by itself is asked of that resolver from the host instead, to show that this would be heard."""
    made = question(name)
    control = None if forwarded else Dialled("udp", RESOLVER, 53, made)
    return Row(name, f"DNS: {sends}", lambda w: ("dns", transport, w.gw, PATIENCE * 3, made.hex()), back, within=4000, control=control)


def kind_row(name, sends, kind, **options):
    return name_row(name, sends, lambda token: frames.dns(f"{token}.leak.example", kind), **options)


def long_name(token):
    """253 bytes in all."""
    return ".".join([token, "a" * 63, "b" * 63, "c" * 63, "d" * (253 - len(token) - 4 - 3 * 63)])


def two_questions(token):
    first, second = frames.dns("proxy.internal", A), frames.dns(f"{token}.leak.example", TXT)
    return first[:4] + b"\0\2" + first[6:] + second[12:]


def update(token):
    message = frames.dns(f"{token}.leak.example", SOA)
    return message[:2] + b"\x28\0" + message[4:]


GATEWAY = r"^rcode 0, answers 1: .*192\.168\.\d+\.1$"


def own_name(name, sends, asked):
    """Its answer is right, in or out of a cell."""
    made = frames.dns(asked, A)
    return Row(name, f"DNS: {sends}", lambda w: ("dns", "udp", w.gw, PATIENCE, made.hex()), GATEWAY, control=Answer(GATEWAY))


NAMES = [
    own_name("dns-own", "A proxy.internal", "proxy.internal"),
    own_name("dns-own-case", "A PROXY.Internal", "PROXY.Internal"),
    kind_row("dns-a", "A of another name", A, back=NX),
    kind_row("dns-aaaa", "AAAA", AAAA),
    kind_row("dns-any", "ANY", ANY),
    kind_row("dns-txt", "TXT", TXT, forwarded=True),
    kind_row("dns-mx", "MX", MX, forwarded=True),
    kind_row("dns-ns", "NS", NS, forwarded=True),
    kind_row("dns-cname", "CNAME", CNAME, forwarded=True),
    kind_row("dns-srv", "SRV", SRV, forwarded=True),
    kind_row("dns-soa", "SOA", SOA),
    kind_row("dns-https", "HTTPS", HTTPS),
    name_row("dns-ptr", "PTR of 10.0.0.5", lambda t: frames.dns(f"5.0.0.10.in-addr.arpa.{t}", PTR)),
    name_row("dns-chaos", "CHAOS TXT version.bind", lambda t: frames.dns(f"version.bind.{t}", TXT, CHAOS), forwarded=True),
    name_row("dns-long", "TXT of a name of 253 bytes", lambda t: frames.dns(long_name(t), TXT), forwarded=True),
    name_row("dns-upper", "TXT in upper case", lambda t: frames.dns(f"{t}.LEAK.EXAMPLE".upper(), TXT), forwarded=True),
    name_row("dns-zone-txt", "TXT below proxy.internal", lambda t: frames.dns(f"{t}.proxy.internal", TXT), forwarded=True),
    name_row("dns-zone-a", "A of a name below proxy.internal", lambda t: frames.dns(f"{t}.proxy.internal", A), back=NX),
    name_row("dns-suffix", "A of a name that merely ends in proxy.internal", lambda t: frames.dns(f"{t}.notproxy.internal", A), back=NX),
    name_row("dns-two", "two questions in one", two_questions, back=r"^rcode [0-5], "),
    name_row("dns-update", "an update", update, back=r"^rcode [0-5], answers 0|^silence"),
    kind_row("dns-tcp-txt", "TXT over TCP", TXT, transport="tcp", forwarded=True),
    kind_row("dns-tcp-mx", "MX over TCP", MX, transport="tcp", forwarded=True),
    kind_row("dns-tcp-aaaa", "AAAA over TCP", AAAA, transport="tcp"),
    kind_row("dns-axfr", "a zone transfer", AXFR, transport="tcp"),
    kind_row("dns-ixfr", "an incremental zone transfer", IXFR, transport="tcp"),
    Row("dns-other-server", "DNS: TXT of 1.1.1.1 over UDP",
        lambda w: ("dns", "udp", "1.1.1.1", 500, frames.dns("dns-other-server.leak.example", TXT).hex()), r"^silence$"),
    Row("dns-other-server-tcp", "DNS: TXT of 9.9.9.9 over TCP",
        lambda w: ("dns", "tcp", "9.9.9.9", PATIENCE, frames.dns("dns-other-server-tcp.leak.example", TXT).hex()),
        r"^connect: Connection refused", heard=by_target("tcp", "9.9.9.9", 53)),
    Row("dns-metadata", "DNS: TXT of 169.254.169.253",
        lambda w: ("dns", "udp", "169.254.169.253", 500, frames.dns("dns-metadata.leak.example", TXT).hex()), r"^silence$",
        control=Dialled("udp", "169.254.169.253", 53, frames.dns("dns-metadata.leak.example", TXT))),
]  # fmt: skip

# --- gvproxy's API -----------------------------------------------------------------------------


def post(w, path, body, method="POST"):
    data = body if isinstance(body, str) else json.dumps(body)
    request = f"{method} {path} HTTP/1.0\r\nHost: {w.gw}\r\nContent-Length: {len(data)}\r\n\r\n{data}"
    return "tcp", w.gw, 80, PATIENCE * 2, request.encode().hex()


def expose(w, protocol, local, remote=None):
    remote = remote or f"tcp://{w.me}:7"
    return post(w, "/services/forwarder/expose", {"local": local, "remote": remote, "protocol": protocol})


def bait_of(name):
    """What became of a victim file of the host, or None."""

    def look(w):
        path = w.baits.path(name)
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):
                return None
            return "the host's file is a socket now"
        except FileNotFoundError:
            return "the host's file is gone"

    return look


def api_unix(name, sends, local, remote=None, back=r"HTTP/1\.\d 500"):
    """`local(world, path of the bait)`."""

    def command(w):
        return expose(w, "unix", local(w, w.baits.path(name)), remote and remote(w))

    return Row(name, f"gvproxy's API: {sends}", command, back, unharmed=bait_of(name), control=Answer("HTTP/1.. 200", bait_of(name)))


def host_socket(w):
    return "the host's socket is another one now" if w.baits.socket_changed() else None


def abstract(w):
    return "an abstract socket on the host" if f"@{w.baits.abstract}-attack" in pathlib.Path("/proc/net/unix").read_text() else None


def listens(protocol, port):
    """Does the host listen on a port that it did not listen on?"""

    def look(_w):
        for table in (protocol, f"{protocol}6"):
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                if int(local.rsplit(":", 1)[1], 16) == port and state in ("0A", "07"):
                    return f"the host listens on {protocol} port {port}"
        return None

    return look


def run_file(name):
    """A bottle's own file in its run directory: is it still the socket that was there?"""

    def look(w):
        found = next(iter(pathlib.Path(w.run_dir).glob(f"b/*/net/{name}")), None)
        before = w.baits.sockets.get(name)
        if found is None:
            return f"{name} is gone"
        status = found.stat()
        return None if before == (status.st_dev, status.st_ino) else f"{name} is another socket now"

    return look


class OnService(Control):
    """The same path on gvproxy's service socket, which lies on the host: there it is answered."""

    kind = "on the service socket"

    def __init__(self, path):
        self.path = path

    def command(self, row, world):
        return None

    def judge(self, row, told, heard, world):
        found = next(iter(pathlib.Path(world.run_dir).glob("b/*/net/api.sock")))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(found))
            sock.sendall(f"GET {self.path} HTTP/1.0\r\n\r\n".encode())
            status = sock.recv(4096).split(b"\r\n")[0].decode()
        return " 404 " not in status, f"{self.kind}: {status}"


def hidden(name, path):
    return Row(name, f"gvproxy's API: GET {path}", lambda w: post(w, path, "", "GET"), r"HTTP/1\.\d 404", control=OnService(path))


SSH = "ssh-tunnel://root@{me}:22/run/x.sock?key={key}"

API = [
    api_unix("api-unix-victim", "a socket over a file of the host", lambda w, path: path),
    api_unix("api-unix-traversal", "the same by way of ../..", lambda w, path: f"/run/bottle/../..{path}"),
    api_unix("api-unix-relative", "the same from its own folder", lambda w, path: f"../..{path}"),
    api_unix("api-unix-ssh", "a socket over a file of the host, for an ssh-tunnel with a key of the host", lambda w, path: path,
             lambda w: SSH.format(me=w.me, key=w.baits.path("key"))),
    Row("api-unix-socket", "gvproxy's API: a socket over a socket of the host", lambda w: expose(w, "unix", w.baits.socket_path),
        r"HTTP/1\.\d 500", unharmed=host_socket, control=Answer("HTTP/1.. 200", host_socket)),
    Row("api-unix-abstract", "gvproxy's API: an abstract socket", lambda w: expose(w, "unix", f"@{w.baits.abstract}-attack"),
        r"HTTP/1\.\d (500|200)", unharmed=abstract, control=Answer("HTTP/1.. 200", abstract)),
    Row("api-unix-run-api", "gvproxy's API: a socket over its own service socket", lambda w: expose(w, "unix", "/run/bottle/api.sock"),
        r"HTTP/1\.\d 500", unharmed=run_file("api.sock"),
        control=Answer("HTTP/1.. 200", None, lambda w: expose(w, "unix", "/run/bottle/free.sock"))),
    Row("api-unix-run-vm", "gvproxy's API: a socket over the VM's", lambda w: expose(w, "unix", "/run/bottle/vm.sock"),
        r"HTTP/1\.\d 500", unharmed=run_file("vm.sock"),
        control=Answer("HTTP/1.. 200", None, lambda w: expose(w, "unix", "/run/bottle/free2.sock"))),
    Row("api-unix-config", "gvproxy's API: a socket over its config", lambda w: expose(w, "unix", "/gvproxy.yaml"),
        r"HTTP/1\.\d 500", control=Answer("HTTP/1.. (200|500)", None)),
    Row("api-tcp", "gvproxy's API: a TCP listener", lambda w: expose(w, "tcp", "0.0.0.0:7101", f"{w.me}:7"),
        r"HTTP/1\.\d (200|500)", unharmed=listens("tcp", 7101), control=Answer("HTTP/1.. 200", listens("tcp", 7101))),
    Row("api-tcp-forward", "gvproxy's API: a TCP listener over the plan's forward", lambda w: expose(w, "tcp", "127.0.0.1:8888", f"{w.me}:7"),
        r"HTTP/1\.\d 500", unharmed=listens("tcp", 7102),
        control=Answer("HTTP/1.. 200", listens("tcp", 7102), lambda w: expose(w, "tcp", "127.0.0.1:7102", f"{w.me}:7"))),
    Row("api-udp", "gvproxy's API: a UDP listener", lambda w: expose(w, "udp", "0.0.0.0:7103", f"{w.me}:7"),
        r"HTTP/1\.\d (200|500)", unharmed=listens("udp", 7103), control=Answer("HTTP/1.. 200", listens("udp", 7103))),
    Row("api-npipe", "gvproxy's API: a named pipe", lambda w: expose(w, "npipe", w.baits.path("api-npipe")),
        r"HTTP/1\.\d 500", unharmed=bait_of("api-npipe"),
        control=Answer("HTTP/1.. 200", bait_of("api-npipe"), lambda w: expose(w, "unix", w.baits.path("api-npipe")))),
    Row("api-unexpose", "gvproxy's API: take the plan's forward away",
        lambda w: post(w, "/services/forwarder/unexpose", {"local": "127.0.0.1:8888", "protocol": "tcp"}), r"HTTP/1\.\d 500",
        control=Answer("HTTP/1.. 200", listens("tcp", 7105), lambda w: expose(w, "tcp", "127.0.0.1:7105", f"{w.me}:7"))),
    Row("api-all", "gvproxy's API: what is forwarded", lambda w: post(w, "/services/forwarder/all", "", "GET"),
        r"^(?!.*/var/tmp/).*HTTP/1\.\d 200", control=Answer("HTTP/1.. 200.*/var/tmp/")),
    hidden("api-stats", "/stats"),
    hidden("api-cam", "/cam"),
    hidden("api-leases", "/leases"),
    hidden("api-dhcp", "/services/dhcp/leases"),
    hidden("api-dns", "/services/dns/all"),
    hidden("api-tunnel", "/tunnel?ip=127.0.0.1&port=22"),
    Row("api-connect", "gvproxy's API: CONNECT 10.0.0.6:80", lambda w: post(w, "10.0.0.6:80", "", "CONNECT"),
        r"HTTP/1\.\d (404|405|400)", heard=by_target("tcp", "10.0.0.6", 80),
        control=Answer("CANARY", None, lambda w: ("tcp", "10.0.0.6", 53, 500))),
    Row("api-absolute", "gvproxy's API: GET http://10.0.0.6/ as of a proxy", lambda w: post(w, "http://10.0.0.6/", "", "GET"),
        r"HTTP/1\.\d 404", heard=by_target("tcp", "10.0.0.6", 80), control=Dialled("tcp", "10.0.0.6", 80)),
]  # fmt: skip

# --- The machine -------------------------------------------------------------------------------

# Disks, a floppy drive, a keyboard, a second serial and a parallel port, PCI, VGA, a debug exit and console,
# power management, the hypervisor's back door.
ABSENT = [0x1F0, 0x1F7, 0x170, 0x3F4, 0x60, 0x64, 0x2F8, 0x378, 0xCF8, 0xCFC, 0x3C4, 0x3D4, 0x501, 0x402, 0x604, 0xB004, 0x4004,
          0x5658, 0x1CE, 0x220, 0x300, 0xAE00, 0xC000]  # fmt: skip


def marked_console(w):
    return "its bytes are on the console" if "~io~" in w.console() else None


QEMU, KRUN = ("qemu-tcg", "qemu-kvm"), ("smolmachines-kvm",)
POWER = "poke", 0x501, 0x31, 0x604, 0x2000, 0xB004, 0x2000, 0x4004, 0x3400, 0x402, 0x41, 0xAE00, 1

# An absent port reads as ff on QEMU's machine and as 00 on libkrun's. That one has a keyboard controller, which can
# only reset the machine, and serial ports at 2e8 and 3e8 that lead nowhere.
MACHINE = [
    Row("io-absent", "reads of I/O ports whose devices must not be there", lambda w: ("ports", *ABSENT), r"^([0-9a-f]+=ff )+$",
        control=Answer(r"3f8=|3fd=(?!ff)", None, lambda w: ("ports", 0x3FD)), backends=QEMU),
    Row("io-absent-krun", "the same", lambda w: ("ports", *sorted({*ABSENT, 0x3F8, 0x3FD} - {0x60, 0x64})), r"^([0-9a-f]+=00 )+$",
        control=Answer(r"^3ed=60", None, lambda w: ("ports", 0x3ED)), backends=KRUN),
    Row("io-power", "writes that would end or debug a machine which has such devices", lambda w: POWER, r"alive$",
        control=Answer("alive$", marked_console, lambda w: ("poke", *(n for c in "~io~\r\n" for n in (0x3F8, ord(c))))), backends=QEMU),
    Row("io-power-krun", "the same", lambda w: POWER, r"^([0-9a-f]+=00 )+alive$",
        control=Answer(r"^3ef=5a", None, lambda w: ("poke", 0x3EF, 0x5A)), backends=KRUN),
]  # fmt: skip

ROWS = NAMES + API + MACHINE
