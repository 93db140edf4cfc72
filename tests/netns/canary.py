"""Canaries: listeners that play the internet, the LAN, the metadata service and the host's own services
on the closed network of tests/netns/enter, and write down every contact.

There every address is local, so one wildcard listener for each port hears whatever was dialled on it;
the address that was meant is the local end of the connection. A TCP canary answers with a line and
closes, a UDP canary echoes a line, and the one on port 53 answers every question with an address and
every TXT question with text, as a resolver that a leak would reach.

Apart from them there is one server that bottles are allowed to reach: WEB, ports 80 and 443, which
speaks plain HTTP on both. Its requests are recorded in `visits`, contacts with canaries in `hits`.

    python3 canary.py       inside `enter`: prints each contact as a JSON line until it is ended
"""
import json
import selectors
import socket
import struct
import sys
import threading
import time

TCP_PORTS = (22, 25, 53, 80, 443, 2222, 8080, 8888, 8889, 8890)
UDP_PORTS = (53, 69, 123, 443, 514, 5353, 9999)
WEB = {("203.0.113.10", 80), ("203.0.113.10", 443), ("203.0.113.11", 8080)}
WEB_BODY = b"hello from the allowed server\n"
RESOLVER = "192.0.2.53"

# What an address stands for, by how it begins.
PLACES = (
    ("127.", "host loopback"),
    ("::1", "host loopback"),
    ("169.254.", "metadata"),
    ("10.", "LAN"),
    ("100.64.", "LAN"),
    ("192.168.", "LAN"),
    ("fd", "LAN"),
    (RESOLVER, "host's resolver"),
    ("", "internet"),
)

IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)


def place(address):
    return next(name for start, name in PLACES if address.startswith(start))


def question_of(packet):
    """The name and the type of a DNS question, or None."""
    labels, at = [], 12
    try:
        while packet[at]:
            labels.append(packet[at + 1 : at + 1 + packet[at]].decode("latin-1"))
            at += packet[at] + 1
        return ".".join(labels), struct.unpack_from("!H", packet, at + 1)[0], packet[12 : at + 5]
    except (IndexError, struct.error):
        return None


def dns_answer(packet):
    """An answer that gives the name away: A is 203.0.113.99, TXT is text, all else is empty."""
    found = question_of(packet)
    if not found:
        return None
    _, kind, question = found
    data = {1: bytes([203, 0, 113, 99]), 16: b"\x06leaked"}.get(kind)
    head = packet[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if data else 0, 0, 0) + question
    if not data:
        return head
    return head + struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data


class Canaries:
    """`with Canaries() as canaries:` … `canaries.hits`, a list of dicts that only grows."""

    def __init__(self, heard=None):
        self.hits, self.visits = [], []
        self._heard = heard
        self._lock = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._sockets = []
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            try:
                for port in TCP_PORTS:
                    self._listen(family, socket.SOCK_STREAM, host, port)
                for port in UDP_PORTS:
                    self._listen(family, socket.SOCK_DGRAM, host, port)
            except OSError:
                if family == socket.AF_INET:
                    raise  # without IPv6 there is nothing to hear there
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.send(b".")
        self._thread.join()
        for sock in self._sockets + [self._stop, self._stopped]:
            sock.close()

    def _listen(self, family, kind, host, port):
        sock = socket.socket(family, kind)
        self._sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        elif kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        sock.setblocking(False)
        take = self._take_connection if kind == socket.SOCK_STREAM else self._take_datagram
        self._selector.register(sock, selectors.EVENT_READ, take)

    def _serve(self):
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                try:
                    key.data(key.fileobj)
                except OSError:
                    pass  # a peer that is gone again; what it said is on record

    def _note(self, record, where):
        with self._lock:
            where.append(record)
            self._lock.notify_all()
        if self._heard:
            self._heard(record)

    def _record(self, protocol, address, port, peer, data=b""):
        record = {
            "time": round(time.time(), 3),
            "place": place(address),
            "protocol": protocol,
            "address": address,
            "port": port,
            "peer": f"{peer[0]}:{peer[1]}",
            "data": data[:200].decode("latin-1"),
        }
        if port == 53 and protocol == "udp" and question_of(data):
            record["question"] = question_of(data)[0]
        return record

    def _take_connection(self, listener):
        connection, peer = listener.accept()
        address, port = connection.getsockname()[:2]
        if (address, port) in WEB:
            threading.Thread(target=self._web, args=(connection, address, port, peer), daemon=True).start()
            return
        with connection:
            self._note(self._record("tcp", address, port, peer), self.hits)
            connection.sendall(f"CANARY {address}:{port}\n".encode())

    def _take_datagram(self, sock):
        data, ancillary, _, peer = sock.recvmsg(4096, 256)
        address = "::"
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                address = socket.inet_ntoa(value[8:12])
        port = sock.getsockname()[1]
        self._note(self._record("udp", address, port, peer, data), self.hits)
        answer = f"CANARY {address}:{port}\n".encode()
        if port == 53:
            answer = dns_answer(data) or answer
        elif data.startswith(b"\0\1"):
            answer = b"\0\5\0\0" + answer + b"\0"  # asked by tftp: an error message that it shows
        if sock.family == socket.AF_INET:
            # From the address that was asked, or the asker would not take it.
            info = struct.pack("=I4s4s", 0, socket.inet_aton(address), bytes(4))
            sock.sendmsg([answer], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, peer)
        else:
            sock.sendto(answer, peer)

    def _web(self, connection, address, port, peer):
        with connection:
            connection.settimeout(20)
            request = b""
            try:
                while b"\r\n\r\n" not in request and len(request) < 65536:
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    request += piece
                self._note(self._record("http", address, port, peer, request), self.visits)
                if request:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(WEB_BODY)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + WEB_BODY)
            except OSError:
                pass

    def wait_hits(self, count, timeout=5):
        """Blocks until `count` contacts were heard; false when the time was over first."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self.hits) >= count, timeout)


# Contacts that prove that the canaries hear: one for each kind of place, over TCP and UDP.
SELF_TEST = (
    ("tcp", "1.1.1.1", 80),
    ("tcp", "1.1.1.1", 443),
    ("tcp", "169.254.169.254", 80),
    ("tcp", "10.0.0.5", 80),
    ("tcp", "192.168.1.1", 80),
    ("tcp", "100.64.0.1", 80),
    ("tcp", "127.0.0.1", 2222),
    ("tcp", "203.0.113.12", 443),
    ("udp", "1.1.1.1", 53),
    ("udp", "8.8.8.8", 9999),
    ("udp", "169.254.169.254", 123),
    ("udp", "127.0.0.1", 5353),
    ("udp", RESOLVER, 53),
)


def touch(protocol, address, port, timeout=5):
    """Dials a canary from here; its answer as bytes."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        if protocol == "udp":
            sock.send(b"self-test")
        return sock.recv(512)


def self_test(canaries):
    """Touches every canary of SELF_TEST from here; the ones that did not answer or were not heard."""
    deaf = []
    for protocol, address, port in SELF_TEST:
        before = len(canaries.hits)
        try:
            answered = b"CANARY" in touch(protocol, address, port)
        except OSError:
            answered = False
        heard = any(hit["address"] == address and hit["port"] == port for hit in canaries.hits[before:])
        if not (answered and heard):
            deaf.append((protocol, address, port))
    return deaf


def main():
    with Canaries(heard=lambda record: print(json.dumps(record), flush=True)):
        print("ready", file=sys.stderr, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
