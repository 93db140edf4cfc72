"""Ethernet frames as a guest's root would forge them: the bytes that tests/attacks/rows.py sends.

Checksums are right where a receiver would look at them, so that a frame that is dropped is dropped for what it is.
"""
import ipaddress
import os
import socket
import struct

BROADCAST = b"\xff" * 6
IP, ARP, VLAN, QINQ, IPV6, MPLS, PPPOE, LLDP, PAE = (
    0x0800, 0x0806, 0x8100, 0x88A8, 0x86DD, 0x8847, 0x8863, 0x88CC, 0x888E,
)  # fmt: skip
ICMP, IGMP, IPIP, TCP, UDP, DCCP, GRE, ESP, OSPF, SCTP, UDPLITE = 1, 2, 4, 6, 17, 33, 47, 50, 89, 132, 136
SYN, ACK = 2, 16


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def eth(to, by, kind, payload):
    return to + by + struct.pack("!H", kind) + payload


def vlan(to, by, tag, inner, kind=IP):
    return eth(to, by, VLAN, struct.pack("!HH", tag, kind) + inner)


def ip(by, to, protocol, payload, fragment=0, options=b"", ttl=64):
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 7, fragment, ttl, protocol, 0,
        socket.inet_aton(by), socket.inet_aton(to),
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def pseudo(by, to, protocol, length):
    return socket.inet_aton(by) + socket.inet_aton(to) + struct.pack("!HH", protocol, length)


def udp(by, to, port, data, by_port=40000):
    head = struct.pack("!HHHH", by_port, port, 8 + len(data), 0)
    total = checksum(pseudo(by, to, UDP, 8 + len(data)) + head + data) or 0xFFFF
    return ip(by, to, UDP, head[:6] + struct.pack("!H", total) + data)


def tcp(by, to, port, flags=SYN, data=b"", by_port=40000):
    def head(total):
        return struct.pack("!HHIIBBHHH", by_port, port, 0x10000, 0, 0x50, flags, 64240, total, 0)

    total = checksum(pseudo(by, to, TCP, 20 + len(data)) + head(0) + data)
    return ip(by, to, TCP, head(total) + data)


def icmp(by, to, kind, data, code=0):
    body = struct.pack("!BBHHH", kind, code, 0, 7, 1) + data
    return ip(by, to, ICMP, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


def igmp(by, group, data):
    body = struct.pack("!BBH4s", 0x16, 0, 0, socket.inet_aton(group))
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip(by, group, IGMP, body + data, ttl=1)


def sctp(by, to, port, data):
    """An INIT; its CRC is left out, as nobody gets to look at it."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    return ip(by, to, SCTP, struct.pack("!HHII", 40000, port, 0, 0) + chunk + data)


def arp(operation, by_mac, by, to_mac, to, data=b""):
    body = struct.pack("!HHBBH", 1, IP, 6, 4, operation)
    return body + by_mac + socket.inet_aton(by) + to_mac + socket.inet_aton(to) + data


def ip6(by, to, protocol, payload):
    ends = ipaddress.IPv6Address(by).packed + ipaddress.IPv6Address(to).packed
    return struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64) + ends + payload


def icmp6(by, to, kind, body):
    ends = ipaddress.IPv6Address(by).packed + ipaddress.IPv6Address(to).packed
    packet = struct.pack("!BBH", kind, 0, 0) + body
    total = checksum(ends + struct.pack("!II", len(packet), 58) + packet)
    return ip6(by, to, 58, packet[:2] + struct.pack("!H", total) + packet[4:])


def udp6(by, to, port, data):
    ends = ipaddress.IPv6Address(by).packed + ipaddress.IPv6Address(to).packed
    head = struct.pack("!HHHH", 40000, port, 8 + len(data), 0)
    total = checksum(ends + struct.pack("!II", 8 + len(data), 17) + head + data) or 0xFFFF
    return ip6(by, to, 17, head[:6] + struct.pack("!H", total) + data)


def dhcp(hardware, kind, data=b""):
    """A DHCP message to everyone: 1 is DISCOVER, 2 is what only a server sends."""
    body = struct.pack("!BBBBIHH", 2 if kind == 2 else 1, 1, 6, 0, 0x1234, 0, 0x8000) + bytes(16)
    body += hardware + bytes(10) + bytes(192) + b"\x63\x82\x53\x63\x35\1" + bytes([kind]) + b"\xff" + data
    return body


def dns(name, kind, number_class=1, identity=0x1234):
    question = b"".join(bytes([len(part)]) + part for part in name.encode("latin-1").split(b".") if part)
    return struct.pack("!HHHHHH", identity, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack("!HH", kind, number_class)


def client_hello(host):
    """A TLS hello, with that name in its SNI; none when it is None."""
    names = b""
    if host is not None:
        name = host.encode()
        entry = struct.pack("!BH", 0, len(name)) + name
        names = struct.pack("!HHH", 0, len(entry) + 2, len(entry)) + entry
    extensions = names + bytes.fromhex("000a00080006001d00170018") + bytes.fromhex("000b00020100")
    extensions += bytes.fromhex("000d000a00080403080404010501") + bytes.fromhex("002b0003020303")
    ciphers = bytes.fromhex("13011302c02bc02fc02cc030009c009d")
    body = b"\3\3" + os.urandom(32) + b"\0" + struct.pack("!H", len(ciphers)) + ciphers + b"\1\0"
    body += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\1" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\3\1" + struct.pack("!H", len(handshake)) + handshake
