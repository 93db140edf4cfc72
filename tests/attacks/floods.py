"""The floods: attacks that may hurt their own bottle, and nothing else.

Each is a row: what is sent, and what may become of the bottle that sends it.
"""
import re

import frames
from frames import BROADCAST, eth

LIVES = "running"  # the bottle outlives it
ENDS = "failed"  # the bottle is ended, with a reason
EITHER = f"{LIVES}|{ENDS}"
NETWORK, CONSOLE, COMMAND, END, SAID = "network", "console", "command", "end", "said"


class Flood:
    """`arguments(world)`: the attacker's. `said`: what it must have said of itself. `state`, `reason`: what may
    become of its bottle, and within how many seconds of its begin where that is its end. `felt`: how it shows that
    it was a flood: by the bytes that gvproxy took in (at least so many), by a log that had to be rotated, by
    the bottle's end, or by no more than what it says of itself. `control`: how many of it are sent in a bottle whose cell is switched off, where the ear
    must hear them; 0 where there is nothing to hear."""

    def __init__(self, name, sends, arguments, said, state=LIVES, reason="", felt=NETWORK, least=0, control=0, ends_within=60):
        self.name, self.sends, self.arguments, self.said = name, sends, arguments, re.compile(said)
        self.state, self.reason = re.compile(f"^({state})$"), re.compile(reason)
        self.felt, self.least, self.control, self.ends_within = felt, least, control, ends_within


def arp(w):
    frame = eth(BROADCAST, w.mac, frames.ARP, frames.arp(1, w.mac, f"{w.net}.0", bytes(6), w.gw, b"flood-arp"))
    return frame.hex(), 10, 26, 30  # the sender's MACs and address


def dhcp(w):
    frame = bytearray(eth(BROADCAST, w.mac, frames.IP, frames.udp("0.0.0.0", "255.255.255.255", 67, frames.dhcp(w.mac, 1, b"flood-dhcp"), 68)))
    frame[40:42] = b"\0\0"
    return bytes(frame).hex(), 10, 74  # the sender's MAC and the client's hardware address


def neighbour(w):
    packet = frames.icmp6("fe80::1", "ff02::1:ff00:1", 135, bytes(20) + b"flood-neighbour")
    return eth(bytes.fromhex("3333ff000001"), w.mac, frames.IPV6, packet).hex(), 10, 36


def flow(w):
    frame = bytearray(eth(w.gw_mac, w.mac, frames.IP, frames.udp(w.me, "198.51.100.99", 9999, b"flood-udp")))
    frame[40:42] = b"\0\0"
    return bytes(frame).hex(), 34  # the source port


def half_open(w):
    """From an address that nobody has, so that nobody resets them; the source port counts."""
    frame = bytearray(eth(w.gw_mac, w.mac, frames.IP, frames.tcp(f"{w.net}.200", w.gw, 8888, by_port=0)))
    frame[34:36], frame[40:42], frame[50:52] = b"\0\0", b"\xff\xff", b"\0\0"
    total = frames.checksum(frames.pseudo(f"{w.net}.200", w.gw, frames.TCP, 20) + bytes(frame[34:54]))
    frame[50:52] = total.to_bytes(2, "big")
    return bytes(frame).hex(), 34, "~40"


def packets(name, sends, count, made, **options):
    """A frame many times with a counter in it."""

    def arguments(w, number=count):
        frame, *places = made(w)
        return "flood", number, 1, frame, *places

    return Flood(name, sends, arguments, rf"^sent {count}$", least=count * 20, **options)


def question(w):
    made = frames.udp(w.me, w.gw, 53, frames.dns("flood-dns.leak.example", 16))
    frame = bytearray(eth(w.gw_mac, w.mac, frames.IP, made))
    frame[40:42] = b"\0\0"
    return bytes(frame).hex(), 34, 42  # the source port and the question's number


def big(w):
    return frames.eth(w.gw_mac, w.mac, frames.IP, frames.udp(w.me, "198.51.100.98", 9997, b"flood-big" + bytes(1440))).hex(), 34


CONNECT = b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example:443\r\n\r\n".hex()
GARBAGE = bytes(range(256)).hex()
OUTPUT = (b"\x00\x10\x00\x00\x03\0\0\0" + b"\1" + b"x" * 4095).hex()
FRAME = "5a94efe40cdd5a94ef0000010800"

SOON = 2.5  # seconds: two, and what a boot of a busy machine's clock may add
GVPROXY = r"gvproxy|gateway|memory|^None$"

FLOODS = [
    packets("flood-arp", "10,000 ARP requests, each from another MAC and address", 10000, arp),
    packets("flood-dhcp", "5,000 DHCP requests, each from another MAC", 5000, dhcp),
    packets("flood-neighbour", "10,000 neighbour solicitations of IPv6", 10000, neighbour),
    packets("flood-udp", "40,000 UDP flows to nowhere", 40000, flow, state=EITHER, reason=GVPROXY, control=50),
    packets("flood-big", "10,000 large UDP datagrams to nowhere", 10000, big, state=EITHER, reason=GVPROXY, control=50),
    packets("flood-dns", "5,000 DNS questions of other names", 5000, question, state=EITHER, reason=GVPROXY, control=5),
    packets("flood-half-open", "5,000 half-open connections to the proxy", 5000, half_open, state=EITHER, reason=GVPROXY),
    Flood("flood-idle", "1,000 connections to the proxy that say nothing", lambda w: ("hold", w.gw, 8888, 1000, 500), r"^held \d{2,4}$", least=10000),
    Flood("flood-connect", "2,000 refused CONNECTs, one after the other", lambda w: ("storm", w.gw, 8888, 2000, CONNECT), r"^answered (19|20)\d\d$",
          least=100000),
    Flood("flood-console", "1 MiB to the console", lambda w: ("spew", "/dev/console", 1), r"^wrote 10485\d\d bytes", felt=CONSOLE),
    Flood("flood-output", "64 MiB of output by the agent's channel", lambda w: ("spew", "-", 64), r"^wrote 671\d{5} bytes", felt=COMMAND),
    Flood("flood-agent", "garbage to the host by the agent's port itself", lambda w: ("agent", 2000, GARBAGE), "", state=ENDS, reason="agent",
          felt=END, ends_within=SOON),
    Flood("flood-agent-output", "64 MiB of well-formed frames by the agent's port itself", lambda w: ("agent", 16384, OUTPUT), "", state=EITHER,
          reason="agent|^None$", felt=COMMAND),
    # QEMU's card sends nothing any more after one: its own bottle is cut off.
    Flood("runts-empty", "frames of 0 bytes", lambda w: ("runts", FRAME, 0, 0, 0), r"^(\[0 sent\]){3}$", felt=SAID),
    Flood("runts-wedge", "frames of 1 to 5 bytes", lambda w: ("runts", FRAME, 1, 2, 3, 4, 5), "", state=ENDS, reason="gvproxy", felt=END,
          ends_within=SOON),
    Flood("runts-crash", "frames of 6 to 13 bytes", lambda w: ("runts", FRAME, 6, 7, 8, 9, 10, 11, 12, 13), "", state=ENDS, reason="gvproxy", felt=END,
          ends_within=SOON),
]  # fmt: skip
