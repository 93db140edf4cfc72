"""The ear on the closed network: hears every packet there, of whatever kind, and can send one itself.

It is one packet socket on `lo`, where all addresses live. So it also hears what no listener could: SCTP, IGMP,
an ICMP echo that is answered elsewhere, IPv6, a frame of no known kind. What a bottle is allowed to do on that
network (its relay to its proxy, its proxy to the servers that are allowed) is not counted as heard, but kept
as `allowed` with what it said.
"""
import collections
import socket
import struct
import threading

import canary

LISTENS_TO_ALL = 0x0003  # ETH_P_ALL
OUTGOING = 4  # PACKET_OUTGOING: on `lo` each packet is seen again as it comes back
KEPT = 1 << 16  # bytes of what was said, each way
IPV4, IPV6 = 0x0800, 0x86DD
NAMES = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 132: "sctp"}


class Packet(collections.namedtuple("Packet", "protocol source source_port address port")):
    """One kind of packet: who sends what to whom. Ports are 0 where there are none."""

    def __str__(self):
        return f"{self.protocol} {self.source}:{self.source_port} -> {self.address}:{self.port}"


def parse(frame):
    """(Packet, payload); the protocol of what is not IP is its Ethernet type."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == IPV4 and len(frame) >= 34:
        header, number = (frame[14] & 15) * 4, frame[23]
        source, address = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        inner = frame[14 + header :]
    elif kind == IPV6 and len(frame) >= 54:
        number = frame[20]
        source, address = (socket.inet_ntop(socket.AF_INET6, frame[n : n + 16]) for n in (22, 38))
        inner = frame[54:]
    else:
        return Packet(f"type {kind:04x}", "", 0, "", 0), frame[14:]
    ports = struct.unpack_from("!HH", inner) if number in (6, 17, 132) and len(inner) >= 4 else (0, 0)
    skip = (inner[12] >> 4) * 4 if number == 6 and len(inner) > 12 else 8 if number == 17 else 0
    return Packet(NAMES.get(number, f"protocol {number}"), source, ports[0], address, ports[1]), inner[skip:]


class Heard:
    """What was heard in one stretch of time."""

    def __init__(self):
        self.counts = collections.Counter()  # of Packet
        self.said = collections.defaultdict(bytes)  # Packet: payload
        self.allowed = collections.defaultdict(bytes)  # (address, port) of an allowed server: what it was told

    def count(self, test):
        return sum(number for packet, number in list(self.counts.items()) if test(packet, self.said.get(packet, b"")))


class Ear:
    """`with Ear(host_ports) as ear: heard = ear.begin(); …; ear.settle(); heard.counts`"""

    def __init__(self, host_ports=(), servers=canary.WEB, names=()):
        self.host_ports, self.servers, self.names = frozenset(host_ports), set(servers), set(names)
        self.heard = Heard()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), 64 << 20)
        self._socket.bind(("lo", LISTENS_TO_ALL))
        self._settled = threading.Event()
        self._mark = b"the ear has heard all until here"
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended = True
        self.settle()
        self._thread.join()
        self._socket.close()

    _ended = False

    def begin(self):
        self.settle()
        self.heard = Heard()
        return self.heard

    def settle(self, timeout=60):
        """All that was sent until this call is counted when it returns."""
        self._settled.clear()
        self._socket.send(bytes(12) + b"\x88\xb5" + self._mark)
        if not self._settled.wait(timeout):
            raise AssertionError("the ear does not keep up")
        dropped = struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
        assert not dropped, f"the ear missed {dropped} packets"

    def send(self, frame):
        """Puts a frame of a guest on this network, as if it had come through."""
        self._socket.send(bytes(12) + frame[12:])

    def _listen(self):
        while True:
            frame, sender = self._socket.recvfrom(65600)
            if sender[2] == OUTGOING:
                continue
            if frame.endswith(self._mark):
                self._settled.set()
                if self._ended:
                    return
                continue
            packet, payload = parse(frame)
            self._take(packet, payload)

    def _take(self, packet, payload):
        heard = self.heard
        for address, port in ((packet.address, packet.port), (packet.source, packet.source_port)):
            if packet.protocol == "tcp" and ((address, port) in self.servers or port in self.host_ports and address == "127.0.0.1"):
                heard.allowed[packet.address, packet.port] = (heard.allowed[packet.address, packet.port] + payload)[:KEPT]
                return
        if packet.protocol == "udp" and 53 in (packet.port, packet.source_port):
            question = canary.question_of(payload)
            if question and question[0] in self.names:
                return
        heard.counts[packet] += 1
        if len(heard.said[packet]) < KEPT:
            heard.said[packet] += payload[:2048] + b"\n"
