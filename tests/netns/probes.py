"""What a guest tries in order to get out, and what has to come of it: one table for the demo and the tests.

Each row is a shell command for the guest's busybox. guest_script() makes one script of them, in which the
ones that nobody answers wait side by side, and each prints one line, `id<TAB>what came back`. judge()
then compares with what must come back.

Ping is not among them: the gateway answers an echo request to any address by itself, on or off the
network, so that its answer says nothing about who can be reached.
"""
import re

REACHED, REFUSED = "reached", "refused"

# Shell functions for the guest. nc reads from a FIFO that this side holds open, and ends when the other side
# closes: an end of input would half-close the connection, and proxies drop such a request.
FUNCTIONS = r"""
gw=$(ip route | sed -n 's/^default via \([0-9.]*\).*/\1/p'); net=${gw%.1}
hold() { mkfifo "/tmp/hold.$id"; exec 8<>"/tmp/hold.$id"; }
tcp() { hold; timeout 12 nc -w 10 "$1" "$2" <&8; }
say() { hold; printf "$3" >&8; timeout 12 nc -w 10 "$1" "$2" <&8; }
ask() { host=${1#*//}
    say proxy.internal 8888 "$1 HTTP/1.1\r\nHost: ${host%%/*}\r\nConnection: close\r\n\r\n"; }
tunnel() { say proxy.internal 8888 "CONNECT $1 HTTP/1.1\r\nHost: $1\r\n\r\nGET / HTTP/1.0\r\n\r\n"; }
dns() { timeout "${4:-12}" nslookup -type="$1" "$2" "${3:-$gw}"; }
udp() { timeout 4 tftp -g -r probe -l /dev/null "$1" "$2"; }
expose() { body="{\"local\":\"$2\",\"remote\":\"$3\",\"protocol\":\"$1\"}"
    say "$gw" 80 "POST /services/forwarder/expose HTTP/1.0\r\nContent-Length: ${#body}\r\n\r\n$body"; }
try() { id=$1; shift; r=$("$@" 2>&1); s=$?
    printf '%s\t%s [%s]\n' "$id" "$(echo "$r" | tr -s '\r\n\t ' ' ' | cut -c1-400)" "$s"; }
"""


class Probe:
    """`expect` is looked for in what came back; `brief` says it in a few words (a group of `expect`, or text)."""

    def __init__(self, identity, tried, command, verdict, expect, brief, silent=False):
        self.id, self.tried, self.command, self.silent = identity, tried, command, silent
        self.verdict, self.expect, self.brief = verdict, re.compile(expect, re.IGNORECASE | re.DOTALL), brief

    def judge(self, came_back):
        """(is it as it must be, a few words)"""
        found = self.expect.search(came_back or "")
        if not found:
            return False, came_back or "nothing was reported"
        return True, found.expand(self.brief) if "\\" in self.brief else self.brief


def refuses(identity, tried, command):
    return Probe(identity, tried, command, REFUSED, r"(connection refused|no route|unreachable)", r"\1")


def denied(identity, tried, command):
    return Probe(identity, tried, command, REFUSED, r"HTTP/1\.[01] (403 \w+)", r"\1 by the proxy")


def no_name(identity, tried, command):
    # The guest's busybox says so, or that there is no answer; an address or a text is a leak.
    return Probe(identity, tried, command, REFUSED, r"(?!.*(?:203\.0\.113|leaked)).*(NXDOMAIN|No answer|can't find)", r"\1")


def silent(identity, tried, command):
    # 143: ended by `timeout`, as nothing came.
    return Probe(identity, tried, command, REFUSED, r"(?!.*(?:CANARY|203\.0\.113|leaked)).*(timeout|timed out|\[143\])", "silence",
                 silent=True)


PROBES = [
    Probe("proxy-get", "proxy.internal:8888, GET http://allowed.example/", "ask 'GET http://allowed.example/'",
          REACHED, r"HTTP/1\.[01] (200 \w+).*hello from the allowed server", r"\1, the page"),
    Probe("proxy-wget", "the same by wget, from the environment alone", "wget -q -O - http://allowed.example/",
          REACHED, r"hello from the allowed server", "the page"),
    Probe("proxy-connect", "proxy.internal:8888, CONNECT other.example:8080", "tunnel other.example:8080",
          REACHED, r"HTTP/1\.[01] (200 [\w ]+?)(?: HTTP|\s+\w+-).*hello from the allowed server", "200, a tunnel, the page"),
    denied("proxy-denied", "proxy, GET http://denied.example/", "ask 'GET http://denied.example/'"),
    denied("proxy-denied-connect", "proxy, CONNECT denied.example:443", "tunnel denied.example:443"),
    denied("proxy-port", "proxy, CONNECT allowed.example:22", "tunnel allowed.example:22"),
    denied("proxy-unknown", "proxy, GET http://secret.leak.example/", "ask 'GET http://secret.leak.example/'"),
    denied("proxy-loopback", "proxy, CONNECT 127.0.0.1:2222 (host)", "tunnel 127.0.0.1:2222"),
    denied("proxy-metadata", "proxy, GET http://169.254.169.254/", "ask 'GET http://169.254.169.254/'"),
    denied("proxy-lan", "proxy, GET http://10.0.0.5/", "ask 'GET http://10.0.0.5/'"),
    refuses("gateway-22", "gateway:22", "tcp $gw 22"),
    refuses("gateway-2222", "gateway:2222, a service of the host's loopback", "tcp $gw 2222"),
    refuses("gateway-8889", "gateway:8889, a sidecar that the plan did not ask for", "tcp $gw 8889"),
    refuses("gateway-51001", "gateway:51001, the proxy's port on the host", "tcp $gw 51001"),
    refuses("gateway-443", "gateway:443", "tcp $gw 443"),
    Probe("gateway-api", "gateway:80, gvproxy's own API: put a socket on the host",
          "expose unix /run/bottle/api.sock tcp://$net.2:7", REFUSED,
          r"HTTP/1\.[01] (500 Internal Server Error).*not permitted", r"500: operation not permitted"),
    refuses("host-nat", "192.168.x.254:2222, where gvproxy maps the host", "tcp $net.254 2222"),
    refuses("internet-443", "1.1.1.1:443", "tcp 1.1.1.1 443"),
    refuses("internet-80", "203.0.113.10:80, the allowed server, not by the proxy", "tcp 203.0.113.10 80"),
    refuses("metadata", "169.254.169.254:80", "tcp 169.254.169.254 80"),
    refuses("lan-10", "10.0.0.5:80", "tcp 10.0.0.5 80"),
    refuses("lan-192", "192.168.1.1:80", "tcp 192.168.1.1 80"),
    refuses("lan-100", "100.64.0.1:80", "tcp 100.64.0.1 80"),
    refuses("dns-tcp", "1.1.1.1:53 over TCP", "tcp 1.1.1.1 53"),
    refuses("internet-v6", "[2606:4700:4700::1111]:443", "tcp 2606:4700:4700::1111 443"),
    silent("udp-internet", "1.1.1.1:9999 over UDP", "udp 1.1.1.1 9999"),
    silent("udp-gateway", "gateway:5353 over UDP, a service of the host's loopback", "udp $gw 5353"),
    silent("udp-metadata", "169.254.169.254:123 over UDP", "udp 169.254.169.254 123"),
    silent("dns-other", "DNS server 1.1.1.1: A secret.leak.example", "dns a secret.leak.example 1.1.1.1 4"),
    no_name("dns-a", "DNS: A secret.leak.example", "dns a secret.leak.example"),
    no_name("dns-txt", "DNS: TXT secret.leak.example", "dns txt secret.leak.example"),
    no_name("dns-allowed", "DNS: A allowed.example", "dns a allowed.example"),
    no_name("dns-zone", "DNS: TXT proxy.internal", "dns txt proxy.internal"),
]

ALLOW = ["allowed.example", "other.example:8080"]
# So that "the proxy's port on the host" is 51001 for sure, the daemon gets these and 51001 is free.
HOST_PORTS = "51001-51003"


def guest_script(probes):
    """`probes`: rows of the table, or (id, command) pairs. Prints "done" at the end."""
    rows = [(p.id, p.command, p.silent) if isinstance(p, Probe) else (*p, False) for p in probes]
    lines = [f"try {identity} {command} >/tmp/told.{identity} &" for identity, command, silent in rows if silent]
    lines += [f"try {identity} {command}" for identity, command, silent in rows if not silent]
    return "\n".join([FUNCTIONS.strip(), *lines, "wait", "cat /tmp/told.* 2>/dev/null", "echo done"]) + "\n"


def plan(probes=None, slug=None):
    """The bottle that tries them."""
    made = {
        "command": ["sh", "-c", guest_script(probes or PROBES)],
        "egress": {"allow": ALLOW},
    }
    return {"slug": slug, **made} if slug else made


def results(log):
    """{probe id: what came back} from the command's log."""
    return dict(line.split("\t", 1) for line in log.splitlines() if "\t" in line)
