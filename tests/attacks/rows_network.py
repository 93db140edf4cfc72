"""Rows about packets: TCP and UDP to the canaries by every route, forged frames, and all that is not IP."""
import frames
from frames import BROADCAST, eth, ip, udp
from table import Answer, Dialled, Instead, OnHost, Row

REFUSED = r"^connect: (Connection refused|timed out|No route to host)"
# The gateway may ask at any time where its guest is: what it knows of it grows old.
ASKED = r"^\[arp 1: 192\.168\.\d+\.1 is at 5a:94:ef:e4:0c:dd\]$"
SILENCE = rf"^silence$|{ASKED}"
WAIT = 120  # ms that a frame's answer gets
PATIENCE = 600


def by_target(protocol, address, port):
    """The row's packets are those to an address and a port that no other row uses."""

    def heard(packet, _said, world):
        return (packet.protocol, packet.address, packet.port) == (protocol, address.format(net=world.net), port)

    return heard


def tcp(name, host, port, sends, to=None, control=None):
    """`to`: where it comes out without a cell, when that is not `host`."""
    return Row(
        name, f"TCP to {sends}", lambda w: ("tcp", host.format(gw=w.gw, net=w.net, next=w.next), port, PATIENCE), REFUSED,
        heard=by_target("tcp", to or host, port) if "{next}" not in host else lambda p, s, w: (p.address, p.port) == (host.format(next=w.next), port),
        control=control,
    )  # fmt: skip


def datagram(name, host, port, sends, control=None, back=SILENCE, payload=None):
    def command(w):
        data = payload or name.encode()
        return "udp", host.format(gw=w.gw, net=w.net, next=w.next), port, PATIENCE // 2, data.hex()

    return Row(name, f"UDP to {sends}", command, back, control=control)


def forged(name, sends, made, back=SILENCE, control="host", wait=WAIT, heard=None):
    """`made(world, token)`: frames. The control puts them on the host's network, or is another bottle's."""

    def build(w):
        return made(w, name.encode())

    if control == "host":
        control = OnHost(build)
    return Row(name, sends, lambda w: ("frames", wait, *(frame.hex() for frame in build(w))), back, control=control, heard=heard)


def routed(w, packet, to=None, by=None, kind=frames.IP):
    return [eth(to or w.gw_mac, by or w.mac, kind, packet)]


OTHER_MAC = bytes.fromhex("5a94ef999999")
LINK_LOCAL, ALL_NODES, ALL_ROUTERS = "fe80::5894:efff:fe00:1", "ff02::1", "ff02::2"
IPV6_CANARY = "2606:4700:4700::1111"

def on_host(address, port, name):
    return OnHost(lambda w: routed(w, udp(w.me, address, port, name.encode())))


TCP = [
    tcp("tcp-internet", "1.1.1.1", 443, "1.1.1.1:443"),
    tcp("tcp-internet-http", "198.51.100.80", 80, "198.51.100.80:80"),
    tcp("tcp-allowed-host", "203.0.113.10", 8443, "the allowed server, not by the proxy"),
    tcp("tcp-lan-10", "10.0.0.5", 22, "10.0.0.5:22"),
    tcp("tcp-lan-172", "172.16.0.9", 80, "172.16.0.9:80"),
    tcp("tcp-lan-192", "192.168.1.1", 8080, "192.168.1.1:8080"),
    tcp("tcp-cgnat", "100.64.0.1", 25, "100.64.0.1:25"),
    tcp("tcp-metadata", "169.254.169.254", 80, "the metadata service", control=Dialled("tcp", "169.254.169.254", 80)),
    tcp("tcp-resolver", "192.0.2.53", 53, "the host's resolver"),
    tcp("tcp-host-loopback", "{gw}", 2222, "gateway:2222, a service of the host's loopback", to="127.0.0.1"),
    tcp("tcp-host-ssh", "{gw}", 22, "gateway:22", to="127.0.0.1"),
    tcp("tcp-host-sidecar", "{gw}", 8889, "gateway:8889, a sidecar that the plan did not ask for", to="127.0.0.1"),
    tcp("tcp-other-bottle", "{next}.2", 80, "the guest of another bottle"),
    tcp("tcp-other-gateway", "{next}.1", 8888, "the gateway of another bottle"),
    tcp("tcp-dot", "1.1.1.1", 853, "DNS over TLS"),
]  # fmt: skip

UDP = [
    datagram("udp-internet", "8.8.8.8", 9999, "8.8.8.8:9999"),
    datagram("udp-resolver", "192.0.2.53", 53, "the host's resolver"),
    datagram("udp-ntp", "1.1.1.1", 123, "1.1.1.1:123"),
    datagram("udp-quic", "1.1.1.1", 443, "1.1.1.1:443"),
    datagram("udp-lan", "10.0.0.5", 514, "10.0.0.5:514"),
    datagram("udp-lan-192", "192.168.1.1", 69, "192.168.1.1:69"),
    datagram("udp-cgnat", "100.64.0.1", 9999, "100.64.0.1:9999"),
    datagram("udp-metadata", "169.254.169.254", 123, "the metadata service",
             control=Dialled("udp", "169.254.169.254", 123, b"udp-metadata")),
    datagram("udp-host-loopback", "{gw}", 5353, "gateway:5353, a service of the host's loopback"),
    datagram("udp-proxy-port", "{gw}", 8888, "the proxy's port"),
    datagram("udp-broadcast", "255.255.255.255", 9999, "255.255.255.255",
             control=Dialled("udp", "127.255.255.254", 9999, b"udp-broadcast")),
    datagram("udp-subnet-broadcast", "{net}.255", 9999, "the subnet's broadcast address",
             control=Dialled("udp", "192.0.2.255", 9999, b"udp-subnet-broadcast")),
    datagram("udp-mdns", "224.0.0.251", 5353, "224.0.0.251, multicast DNS", control=on_host("224.0.0.251", 5353, "udp-mdns")),
    datagram("udp-ssdp", "239.255.255.250", 1900, "239.255.255.250, SSDP", control=on_host("239.255.255.250", 1900, "udp-ssdp")),
]  # fmt: skip

FORGED = [
    forged("raw-router", "a UDP frame to 8.8.4.4 with the gateway as router",
           lambda w, t: routed(w, udp(w.me, "8.8.4.4", 9999, t)), control=None),
    # gvproxy may ask everyone for that address, to tell it that nobody is there.
    forged("raw-source-neighbour", "the same from another address of the subnet",
           lambda w, t: routed(w, udp(f"{w.net}.77", "8.8.4.4", 9999, t)), back=rf"{SILENCE}|^\[arp 1:", control=None),
    forged("raw-source-foreign", "the same from 10.9.9.9",
           lambda w, t: routed(w, udp("10.9.9.9", "8.8.4.4", 9999, t))),
    forged("raw-source-gateway", "the same from the gateway's own address",
           lambda w, t: routed(w, udp(w.gw, "8.8.4.4", 9999, t))),
    forged("raw-source-loopback", "the same from 127.0.0.1", lambda w, t: routed(w, udp("127.0.0.1", "8.8.4.4", 9999, t))),
    forged("raw-source-mac", "the same from another MAC",
           lambda w, t: routed(w, udp(w.me, "8.8.4.4", 9999, t), by=OTHER_MAC)),
    forged("raw-source-gateway-mac", "the same from the gateway's MAC",
           lambda w, t: routed(w, udp(w.me, "8.8.4.4", 9999, t), by=w.gw_mac)),
    forged("raw-host-side", "a UDP frame to the host-side address :5353 by the gateway",
           lambda w, t: routed(w, udp(w.me, f"{w.net}.254", 5353, t)), control=None),
    forged("raw-syn-neighbour", "a TCP SYN to another address of the subnet by the gateway",
           lambda w, t: routed(w, frames.tcp(w.me, f"{w.net}.3", 8888, by_port=40023)), back=rf"{SILENCE}|rst",
           heard=lambda p, s, w: (p.address, p.port) == (f"{w.net}.3", 8888), control=None),
    forged("raw-syn-internet", "a TCP SYN to 8.8.4.4:443 by the gateway",
           lambda w, t: routed(w, frames.tcp(w.me, "8.8.4.4", 443, by_port=40024)), back=rf"{SILENCE}|rst",
           heard=lambda p, s, w: (p.address, p.port) == ("8.8.4.4", 443), control=None),
    forged("raw-syn-forged", "the same from another address of the subnet",
           lambda w, t: routed(w, frames.tcp(f"{w.net}.78", "8.8.4.4", 444, by_port=40025)), back=rf"{SILENCE}|rst|arp",
           heard=lambda p, s, w: (p.address, p.port) == ("8.8.4.4", 444), control=None),
    forged("raw-ack-internet", "a TCP segment of no connection to 8.8.4.4:445",
           lambda w, t: routed(w, frames.tcp(w.me, "8.8.4.4", 445, flags=frames.ACK, data=t, by_port=40026)), back=rf"{SILENCE}|rst"),
    forged("raw-to-loopback", "a UDP frame to 127.0.0.1:5353 by the gateway",
           lambda w, t: routed(w, udp(w.me, "127.0.0.1", 5353, t))),
    forged("raw-syn-loopback", "a TCP SYN to 127.0.0.1:22 by the gateway",
           lambda w, t: routed(w, frames.tcp(w.me, "127.0.0.1", 22, by_port=40022)),
           heard=lambda p, s, w: (p.address, p.port, p.source_port) == ("127.0.0.1", 22, 40022)),
    forged("raw-other-subnet", "a UDP frame to a host of another 192.168 subnet",
           lambda w, t: routed(w, udp(w.me, f"{w.next}.2", 9999, t)), control=None),
    forged("raw-broadcast-mac", "a UDP frame to 8.8.4.4 for everyone's MAC",
           lambda w, t: routed(w, udp(w.me, "8.8.4.4", 9999, t), to=BROADCAST)),
    # gvproxy's switch gives a frame for an unknown MAC to every port, also to the one that it came from. QEMU's card
    # drops it there, libkrun's does not.
    forged("raw-other-mac", "a UDP frame to 8.8.4.4 for a MAC of nobody",
           lambda w, t: routed(w, udp(w.me, "8.8.4.4", 9999, t), to=OTHER_MAC), back=rf"{SILENCE}|^\[udp from 192\.168\.\d+\.2:40000 raw-other-mac\]$"),
    forged("raw-multicast-mac", "a multicast UDP frame", lambda w, t: routed(w, udp(w.me, "239.1.2.3", 9999, t), to=bytes.fromhex("01005e010203"))),
    forged("raw-fragments", "a UDP datagram in two fragments",
           lambda w, t: [eth(w.gw_mac, w.mac, frames.IP, part) for part in in_two(udp(w.me, "8.8.4.4", 9999, (t + b" ") * 4))]),
    forged("raw-source-route", "a UDP frame with a loose source route over the gateway",
           lambda w, t: routed(w, with_route(w, t)), back=rf"{SILENCE}|icmp", wait=WAIT),
    forged("raw-ttl-one", "a UDP frame whose time to live is over",
           lambda w, t: routed(w, ip(w.me, "8.8.4.4", frames.UDP, udp(w.me, "8.8.4.4", 9999, t)[20:], ttl=1)), back=rf"{SILENCE}|icmp 11"),
    forged("raw-jumbo", "a UDP frame of 9,000 bytes", lambda w, t: routed(w, udp(w.me, "8.8.4.4", 9999, t + bytes(8950)))),
]  # fmt: skip

PROTOCOLS = [
    forged(name, words, lambda w, t, number=number: routed(w, ip(w.me, "8.8.4.4", number, t)), back=rf"{SILENCE}|icmp 3/2")
    for name, words, number in (
        ("proto-ipip", "IP in IP", frames.IPIP), ("proto-gre", "GRE", frames.GRE), ("proto-esp", "ESP", frames.ESP),
        ("proto-ospf", "OSPF", frames.OSPF), ("proto-udplite", "UDP-Lite", frames.UDPLITE), ("proto-dccp", "DCCP", frames.DCCP),
        ("proto-6in4", "IPv6 in IPv4", 41), ("proto-253", "a protocol of no name", 253),
    )
] + [
    forged("sctp-init", "an SCTP INIT to 1.1.1.1", lambda w, t: routed(w, frames.sctp(w.me, "1.1.1.1", 9999, t)), back=rf"{SILENCE}|icmp 3/2"),
    forged("icmp-internet", "an ICMP echo to 1.1.1.1; gvproxy itself answers",
           lambda w, t: routed(w, frames.icmp(w.me, "1.1.1.1", 8, t)), back=r"icmp 0/0 from 1\.1\.1\.1|^silence"),
    forged("icmp-metadata", "an ICMP echo to the metadata service",
           lambda w, t: routed(w, frames.icmp(w.me, "169.254.169.254", 8, t)), back=r"icmp 0/0|^silence"),
    forged("icmp-gateway", "an ICMP echo to the gateway", lambda w, t: routed(w, frames.icmp(w.me, w.gw, 8, t)), back=r"icmp 0/0|^silence"),
    forged("icmp-redirect", "an ICMP redirect for the gateway", lambda w, t: routed(w, frames.icmp(w.me, w.gw, 5, t, code=1))),
    forged("icmp-timestamp", "an ICMP timestamp to 10.0.0.5",
           lambda w, t: routed(w, frames.icmp(w.me, "10.0.0.5", 13, bytes(12) + t)), back=r"icmp|^silence"),
    forged("igmp-join", "an IGMP join of 239.1.2.3", lambda w, t: routed(w, frames.igmp(w.me, "239.1.2.3", t), to=bytes.fromhex("01005e010203"))),
]  # fmt: skip


def in_two(packet):
    """The fragments of an IP packet of ours."""
    payload, cut = packet[20:], 24
    by, to = (".".join(map(str, packet[n : n + 4])) for n in (12, 16))
    return [ip(by, to, packet[9], payload[:cut], fragment=0x2000), ip(by, to, packet[9], payload[cut:], fragment=cut // 8)]


def with_route(w, token):
    hops = bytes(map(int, "8.8.4.4".split(".")))
    return ip(w.me, w.gw, frames.UDP, udp(w.me, "8.8.4.4", 9999, token)[20:], options=b"\x83\x07\x04" + hops + b"\0")


def arps(w, token, address):
    return [eth(BROADCAST, w.mac, frames.ARP, frames.arp(1, w.mac, w.me, bytes(6), address, token))]


def icmp6(w, kind, to, token, body=bytes(4)):
    return routed(w, frames.icmp6(LINK_LOCAL, to, kind, body + token), to=bytes.fromhex("333300000001"), kind=frames.IPV6)


def v6(name, sends, made):
    """The gateway speaks IPv4 only: silence, and the same on the host's network is heard."""
    return forged(name, sends, made)


LINK = [
    forged("arp-host-side", "ARP: who has the host-side address?", lambda w, t: arps(w, t, f"{w.net}.254"), back=rf"{SILENCE}|arp 2"),
    forged("arp-neighbour", "ARP: who has another address of the subnet?", lambda w, t: arps(w, t, f"{w.net}.3"), back=rf"{SILENCE}|arp 2"),
    forged("arp-internet", "ARP: who has 1.1.1.1?", lambda w, t: arps(w, t, "1.1.1.1"), back=rf"{SILENCE}|arp 2"),
    forged("arp-metadata", "ARP: who has 169.254.169.254?", lambda w, t: arps(w, t, "169.254.169.254"), back=rf"{SILENCE}|arp 2"),
    forged("arp-for-another", "ARP: another address of the subnet is at this MAC",
           lambda w, t: [eth(BROADCAST, w.mac, frames.ARP, frames.arp(2, w.mac, f"{w.net}.3", w.gw_mac, w.gw, t))], back=rf"{SILENCE}|arp 2"),
    forged("arp-for-internet", "ARP: 1.1.1.1 is at this MAC",
           lambda w, t: [eth(BROADCAST, w.mac, frames.ARP, frames.arp(2, w.mac, "1.1.1.1", w.gw_mac, w.gw, t))], back=rf"{SILENCE}|arp 2"),
    forged("vlan-udp", "a UDP frame to 8.8.4.4 with a VLAN tag", lambda w, t: [frames.vlan(w.gw_mac, w.mac, 5, udp(w.me, "8.8.4.4", 9999, t))]),
    forged("vlan-priority", "the same with tag 0", lambda w, t: [frames.vlan(w.gw_mac, w.mac, 0, udp(w.me, "8.8.4.4", 9999, t))]),
    forged("vlan-double", "the same with two tags",
           lambda w, t: [eth(w.gw_mac, w.mac, frames.QINQ, b"\0\5\x81\0\0\6\x08\0" + udp(w.me, "8.8.4.4", 9999, t))]),
    v6("ip6-internet", "IPv6: UDP to an address of the internet",
       lambda w, t: routed(w, frames.udp6("fd00::2", IPV6_CANARY, 443, t), kind=frames.IPV6)),
    v6("ip6-link-local", "IPv6: UDP to everyone on the link", lambda w, t: routed(w, frames.udp6(LINK_LOCAL, ALL_NODES, 9999, t), kind=frames.IPV6)),
    v6("ip6-mapped", "IPv6: UDP to ::ffff:127.0.0.1", lambda w, t: routed(w, frames.udp6("fd00::2", "::ffff:127.0.0.1", 5353, t), kind=frames.IPV6)),
    v6("ip6-router-advertisement", "IPv6: a router advertisement", lambda w, t: icmp6(w, 134, ALL_NODES, t, bytes.fromhex("400000ff0000000000000000"))),
    v6("ip6-router-solicitation", "IPv6: a router solicitation", lambda w, t: icmp6(w, 133, ALL_ROUTERS, t)),
    v6("ip6-neighbour", "IPv6: a neighbour solicitation", lambda w, t: icmp6(w, 135, "ff02::1:ff00:1", t, bytes(20))),
    v6("ip6-echo", "IPv6: an echo to everyone on the link", lambda w, t: icmp6(w, 128, ALL_NODES, t)),
    v6("ip6-mld", "IPv6: a listener report", lambda w, t: icmp6(w, 131, "ff02::fb", t, bytes(20))),
    forged("type-lldp", "an LLDP frame", lambda w, t: routed(w, t, to=bytes.fromhex("0180c200000e"), kind=frames.LLDP)),
    forged("type-eapol", "an EAPOL frame", lambda w, t: routed(w, t, to=bytes.fromhex("0180c2000003"), kind=frames.PAE)),
    forged("type-pppoe", "a PPPoE discovery", lambda w, t: routed(w, t, to=BROADCAST, kind=frames.PPPOE)),
    forged("type-mpls", "an MPLS frame", lambda w, t: routed(w, b"\0\1\1\x40" + udp(w.me, "8.8.4.4", 9999, t), kind=frames.MPLS)),
    forged("type-stp", "a spanning tree frame", lambda w, t: routed(w, b"BB\3" + t, to=bytes.fromhex("0180c2000000"), kind=3 + len(t))),
    forged("type-unknown", "a frame of a type that does not exist", lambda w, t: routed(w, t, kind=0x9999)),
    forged("dhcp-foreign", "DHCP: a request from another MAC",
           lambda w, t: [eth(BROADCAST, OTHER_MAC, frames.IP, udp("0.0.0.0", "255.255.255.255", 67, frames.dhcp(OTHER_MAC, 1, t), 68))],
           back=rf"{SILENCE}|udp from [0-9.]*:67"),
    forged("dhcp-server", "DHCP: an offer, as if this were the server",
           lambda w, t: [eth(BROADCAST, w.mac, frames.IP, udp(w.me, "255.255.255.255", 68, frames.dhcp(w.mac, 2, t), 67))]),
    Row("frame-65535", "a frame of 65,535 bytes", lambda w: ("frames", WAIT, f"{huge(w).hex()}*65535"), rf"{SILENCE}|icmp|^send",
        heard=lambda p, s, w: p.port == 9998,
        control=Instead("the same datagram in a small frame", lambda w: ("udp", "8.8.4.4", 9998, 100, b"frame-65535".hex()),
                        lambda heard, w: heard.count(lambda p, s: p.port == 9998))),
]  # fmt: skip


def huge(w):
    """The head of a UDP datagram that fills its frame."""
    packet = udp(w.me, "8.8.4.4", 9998, bytes(65535 - 14 - 28))
    return eth(w.gw_mac, w.mac, frames.IP, packet[:28])


def syn(w, address):
    """A SYN whose port is 0: the attacker counts it up and its complement into the sequence number."""
    return eth(w.gw_mac, w.mac, frames.IP, frames.tcp(w.me, address, 0, by_port=41000))


def scan(name, sends, host, back, opened):
    def command(w, low=1, high=65535):
        return "scan", scan_frame(w, host.format(gw=w.gw, net=w.net)).hex(), low, high

    return Row(name, sends, command, back, within=60000, heard=lambda p, s, w: False, control=Answer(opened, command=lambda w: command(w, 2000, 2300)), slow=True)  # fmt: skip


def scan_frame(w, address):
    frame = bytearray(syn(w, address))
    # The checksum as it is with any port p and the sequence number's low half at ~p: both together add nothing.
    frame[36:38], frame[40:42], frame[50:52] = b"\0\0", b"\xff\xff", b"\0\0"
    total = frames.checksum(frames.pseudo(w.me, address, frames.TCP, 20) + bytes(frame[34:54]))
    frame[50:52] = total.to_bytes(2, "big")
    return bytes(frame)


# 53 is gvproxy's name server, 80 its API, 8888 the one forward of the plan.
SCANS = [
    Row("tcp-host-side", "a SYN to the host-side address :2222 by the gateway", lambda w: ("scan", scan_frame(w, f"{w.net}.254").hex(), 2222, 2222),
        r"^accepting:; refused: 1; silent: 0", heard=by_target("tcp", "{net}.254", 2222)),
    Row("scan-host-ports", "a SYN to the gateway on each port that proxies have on the host",
        lambda w: ("scan", scan_frame(w, w.gw).hex(), 51001, 51003), r"^accepting:; refused: 3; silent: 0", heard=lambda p, s, w: False,
        control=Answer(r"accepting: 5100[123];")),
    scan("scan-gateway", "a SYN to every port of the gateway", "{gw}", r"^accepting: 53 80 8888; refused: 65532; silent: 0", r"accepting: 2222;"),
    scan("scan-host-side", "a SYN to every port of the host-side address", "{net}.254", r"^accepting:; refused: 65535; silent: 0", r"accepting: 2222;"),
]  # fmt: skip

ROWS = TCP + UDP + FORGED + PROTOCOLS + LINK
