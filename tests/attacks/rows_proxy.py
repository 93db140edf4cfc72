"""Rows through the proxy: what its rules must refuse, however it is spelt.

`*.rows.example` has an address for each row, of 198.51.100.0/24, from the resolver that the tests play. The
bottle under attack has no rule for those names; the bottle of the controls has.
"""
import frames
from rows_network import by_target
from table import Dialled, Instead, Permitted, Row

ALLOW = ["allowed.example", "loopback.example:2222", "lan.example", "metadata.example", "rebind.example:2222"]
PERMIT = ["allowed.example", "allowed.example:22", "*.rows.example", "198.51.100.7"]
DENIED = r"HTTP/1\.[01] (403|400|405|501|502|503|404)"
REFUSED = r"HTTP/1\.[01] 403"
SECONDS = 3000


def through(w, *pieces, wait=SECONDS):
    return ("tcp", w.gw, 8888, wait, *((piece.encode("latin-1") if isinstance(piece, str) else piece).hex() for piece in pieces))


def connect(target):
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"


def get(url, host=None, more=""):
    return f"GET {url} HTTP/1.1\r\nHost: {host or url.split('/')[2]}\r\nConnection: close\r\n{more}\r\n"


def spelt(name, sends, target, host, port, address=None, back=DENIED):
    """CONNECT to a spelling of an address of the host's, which its own programs understand."""
    return Row(name, f"CONNECT {sends}", lambda w: through(w, connect(target)), back, within=SECONDS,
               heard=by_target("tcp", address or "127.0.0.1", port), control=Dialled("tcp", host, port))  # fmt: skip


def absolute(name, sends, url, host, port, address=None):
    return Row(name, f"GET {sends}", lambda w: through(w, get(url)), DENIED, within=SECONDS,
               heard=by_target("tcp", address or "127.0.0.1", port), control=Dialled("tcp", host, port))  # fmt: skip


def named(name, sends, made, back=REFUSED, number=0, port=80, control=None):
    """`made(host)`: what is sent, with the row's own name of *.rows.example in it."""
    host = f"{name}.rows.example"
    return Row(name, sends, lambda w: through(w, *made(host)), back, within=SECONDS, heard=by_target("tcp", address_of(name), port),
               control=control or Permitted())  # fmt: skip


def right_request():
    """For what no rule can permit."""
    return Instead("a right request", lambda w: through(w, get("http://proxy-get.rows.example/")),
                   lambda heard, w: heard.count(lambda p, s: p.address == address_of("proxy-get")))  # fmt: skip


def address_of(name):
    """The address that the tests' resolver gives to NAME.rows.example."""
    return f"198.51.100.{100 + OWN_NAMES.index(name)}"


OWN_NAMES = ["proxy-get", "proxy-connect", "proxy-case", "proxy-dot", "proxy-host-header", "proxy-pipeline", "proxy-smuggle-te", "proxy-smuggle-cl",
             "proxy-smuggle-fold", "proxy-smuggle-lf", "proxy-smuggle-chunk", "proxy-userinfo", "proxy-method", "proxy-http09", "proxy-suffix"]  # fmt: skip


def hello_control(host):
    return Instead("the hello of the CONNECT host", lambda w: through(w, connect("allowed.example:443"), frames.client_hello("allowed.example")),
                   lambda heard, w: heard.allowed[("203.0.113.10", 443)].count(b"\x16\3\1"))  # fmt: skip


def told_server(words):
    """Did the allowed server get those words?"""
    return lambda w: f"the server was told {words!r}" if words in w.heard.allowed[("203.0.113.10", 443)] else None


def tunnel(name, sends, payload, told, back=r"\[closed"):
    return Row(name, f"CONNECT allowed.example:443, then {sends}", lambda w: through(w, connect("allowed.example:443"), payload), back,
               within=SECONDS, unharmed=told_server(told), control=hello_control(name))  # fmt: skip


ADDRESSES = [
    spelt("proxy-ip-loopback", "127.0.0.1", "127.0.0.1:22", "127.0.0.1", 22),
    spelt("proxy-ip-short", "127.1", "127.1:25", "127.1", 25),
    spelt("proxy-ip-integer", "2130706433, an integer", "2130706433:8080", "2130706433", 8080),
    spelt("proxy-ip-hex", "0x7f000001, in hex", "0x7f000001:8889", "0x7f000001", 8889),
    spelt("proxy-ip-octal", "0177.0.0.1, in octal", "0177.0.0.1:8890", "0177.0.0.1", 8890),
    spelt("proxy-ip-zero", "0.0.0.0", "0.0.0.0:53", "127.0.0.1", 53),
    spelt("proxy-ip-dot", "127.0.0.1., with a dot", "127.0.0.1.:2200", "127.0.0.1", 2200),
    spelt("proxy-ip-mapped", "[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]:2201", "::ffff:127.0.0.1", 2201),
    spelt("proxy-ip-six", "[::1]", "[::1]:2202", "::1", 2202, "::1"),
    spelt("proxy-ip-six-zero", "[::]", "[::]:2203", "::1", 2203, "::1"),
    spelt("proxy-ip-brackets", "[127.0.0.1]", "[127.0.0.1]:2204", "127.0.0.1", 2204),
    spelt("proxy-ip-userinfo", "user@127.0.0.1", "user:x@127.0.0.1:2205", "127.0.0.1", 2205),
    spelt("proxy-ip-lan", "10.0.0.5", "10.0.0.5:8889", "10.0.0.5", 8889, "10.0.0.5"),
    spelt("proxy-ip-metadata", "169.254.169.254", "169.254.169.254:80", "169.254.169.254", 80, "169.254.169.254"),
    spelt("proxy-ip-nat64", "[64:ff9b::7f00:1]", "[64:ff9b::7f00:1]:80", "64:ff9b::7f00:1", 80, "64:ff9b::7f00:1"),
    Row("proxy-ip-public", "CONNECT 198.51.100.7, a public address that no rule has", lambda w: through(w, connect("198.51.100.7:443")), REFUSED,
        within=SECONDS, heard=by_target("tcp", "198.51.100.7", 443), control=Permitted()),
    absolute("proxy-get-loopback", "http://127.0.0.1:2206/", "http://127.0.0.1:2206/", "127.0.0.1", 2206),
    absolute("proxy-get-integer", "http://2130706433:2207/", "http://2130706433:2207/", "2130706433", 2207),
    absolute("proxy-get-six", "http://[::1]:2208/", "http://[::1]:2208/", "::1", 2208, "::1"),
    absolute("proxy-get-metadata", "http://169.254.169.254/latest/", "http://169.254.169.254:81/latest/", "169.254.169.254", 81, "169.254.169.254"),
    absolute("proxy-get-lan", "http://10.0.0.5/", "http://10.0.0.5:8080/", "10.0.0.5", 8080, "10.0.0.5"),
    absolute("proxy-get-userinfo", "http://allowed.example@127.0.0.1/", "http://allowed.example@127.0.0.1:2209/", "127.0.0.1", 2209),
]  # fmt: skip

def rebound(name, sends):
    """The resolver's answers alternate: a proxy must not check one and take the other."""
    return Row(name, sends, lambda w: through(w, connect("rebind.example:2222")), r"HTTP/1\.[01] (403|502|503|200.*CANARY 203\.0\.113\.10)",
               within=SECONDS, heard=by_target("tcp", "127.0.0.1", 2222), control=Dialled("tcp", "loopback.example", 2222))  # fmt: skip


RULES = [
    named("proxy-get", "GET of a host that no rule has", lambda h: [get(f"http://{h}/")]),
    named("proxy-connect", "CONNECT to a host that no rule has", lambda h: [connect(f"{h}:443")], port=443),
    named("proxy-case", "the same in upper case", lambda h: [get(f"http://{h.upper()}/")]),
    named("proxy-dot", "the same with a dot at its end", lambda h: [get(f"http://{h}./")]),
    named("proxy-userinfo", "the same with an allowed name as user", lambda h: [get(f"http://allowed.example:80@{h}/", h)], back=DENIED,
          control=right_request()),
    named("proxy-method", "the same by a method of no name", lambda h: [get(f"http://{h}/").replace("GET", "BREW", 1)], back=DENIED),
    named("proxy-host-header", "GET of a denied host that names an allowed one in Host", lambda h: [get(f"http://{h}/", "allowed.example")], back=DENIED,
          control=right_request()),
    named("proxy-suffix", "CONNECT to a name that merely begins like an allowed one", lambda h: [connect(f"{h}:443")], port=443),
    Row("proxy-port", "CONNECT to an allowed host on a port that is not allowed", lambda w: through(w, connect("allowed.example:22")), REFUSED,
        within=SECONDS, heard=by_target("tcp", "203.0.113.10", 22), control=Permitted()),
    Row("proxy-name-loopback", "CONNECT to an allowed name that resolves to loopback", lambda w: through(w, connect("loopback.example:2222")), REFUSED,
        within=SECONDS, heard=by_target("tcp", "127.0.0.1", 2222), control=Dialled("tcp", "loopback.example", 2222)),
    Row("proxy-name-lan", "GET of an allowed name that resolves to 10.0.0.5", lambda w: through(w, get("http://lan.example/")), REFUSED,
        within=SECONDS, heard=by_target("tcp", "10.0.0.5", 80), control=Dialled("tcp", "lan.example", 80)),
    Row("proxy-name-metadata", "GET of an allowed name that resolves to the metadata service", lambda w: through(w, get("http://metadata.example/")), REFUSED,
        within=SECONDS, heard=by_target("tcp", "169.254.169.254", 80), control=Dialled("tcp", "metadata.example", 80)),
    rebound("proxy-rebind", "CONNECT to an allowed name, whose answer is a public address at first"),
]  # fmt: skip


def smuggled(name, sends, made, back=r"HTTP/1|\[closed"):
    return named(name, f"a request hidden in another: {sends}", made, back=back, control=Instead(
        "the hidden request by itself", lambda w: through(w, get(f"http://{name}.rows.example/"))))  # fmt: skip


def post(lines, body):
    return f"POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n{lines}\r\n{body}"


SMUGGLED = [
    smuggled("proxy-pipeline", "a denied one behind an allowed one", lambda h: [get("http://allowed.example/").replace("close", "keep-alive") + get(f"http://{h}/")]),
    smuggled("proxy-smuggle-te", "length and chunks, the chunks end first",
             lambda h: [post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + get(f"http://{h}/"))]),
    smuggled("proxy-smuggle-cl", "two lengths", lambda h: [post("Content-Length: 0\r\nContent-Length: 5\r\n", get(f"http://{h}/"))]),
    smuggled("proxy-smuggle-fold", "a folded header", lambda h: [post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n" + get(f"http://{h}/"))]),
    smuggled("proxy-smuggle-lf", "bare line feeds", lambda h: [f"GET http://allowed.example/ HTTP/1.1\nHost: allowed.example\n\n{get(f'http://{h}/')}"]),
    smuggled("proxy-smuggle-chunk", "a chunk of a false length",
             lambda h: [post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff1\r\n" + get(f"http://{h}/"))]),
    named("proxy-http09", "a request of HTTP/0.9", lambda h: [f"GET http://{h}/\r\n\r\n"], back=r"40[03]|\[closed|^silence$",
          control=right_request()),
]  # fmt: skip

def stays(name, sends, payload):
    """What speaks in a tunnel can't be known for sure; it speaks to the host of the CONNECT and to nobody else."""
    return Row(name, f"CONNECT allowed.example:443, then {sends}", lambda w: through(w, connect("allowed.example:443"), payload, wait=500), "HTTP/1.. 200",
               within=SECONDS, heard=lambda p, s, w: p.address == "203.0.113.12", control=Dialled("tcp", "denied.example", 443))  # fmt: skip


TUNNELS = [
    tunnel("tunnel-sni", "a TLS hello for another host", frames.client_hello("denied.example"), b"denied.example"),
    tunnel("tunnel-sni-suffix", "a TLS hello for a name that ends alike", frames.client_hello("notallowed.example"), b"notallowed.example"),
    stays("tunnel-sni-none", "a TLS hello for no host", frames.client_hello(None)),
    stays("tunnel-ssh", "SSH", b"SSH-2.0-attack\r\n"),
    stays("tunnel-plain", "plain HTTP for another host", b"GET /tunnel-plain HTTP/1.1\r\nHost: denied.example\r\n\r\n"),
    stays("tunnel-http2", "an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    stays("tunnel-connect", "another CONNECT, for another host", connect("denied.example:443").encode()),
]  # fmt: skip


def answered(name, sends, piece, back, wait=2500):
    """Is answered or cut off at once, and nothing comes of it; a right request is answered."""
    return Row(name, sends, lambda w: through(w, piece, wait=wait), back, within=wait, control=right_request())


MALFORMED = r"HTTP/1\.[01] 4\d\d|\[closed"
HEADS = [
    answered("proxy-http2", "an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), MALFORMED),
    answered("proxy-dns", "a DNS question over the proxy's port", len(frames.dns("proxy-dns.leak.example", 16)).to_bytes(2, "big")
             + frames.dns("proxy-dns.leak.example", 16), MALFORMED),
    answered("proxy-tls", "a TLS hello to the proxy itself", frames.client_hello("allowed.example"), MALFORMED),
    answered("proxy-socks", "SOCKS 5", b"\5\1\0", MALFORMED),
    answered("proxy-empty-target", "CONNECT without a target", b"CONNECT  HTTP/1.1\r\n\r\n", MALFORMED),
    answered("proxy-port-70000", "CONNECT to port 70000", connect("allowed.example:70000").encode(), MALFORMED),
    answered("proxy-port-zero", "CONNECT to port 0", connect("allowed.example:0").encode(), MALFORMED),
    answered("proxy-nul", "CONNECT to a name with a NUL in it", b"CONNECT allowed.example\0.leak.example:443 HTTP/1.1\r\n\r\n", MALFORMED),
    answered("proxy-ftp", "ftp:// by the proxy", get("ftp://allowed.example/").encode(), DENIED),
    answered("proxy-file", "file:// by the proxy", get("file:///etc/passwd").encode(), DENIED),
    answered("proxy-manager", "the engine's own pages", get("http://proxy.internal:8888/squid-internal-mgr/info").encode(), DENIED),
    answered("proxy-trace", "TRACE", b"TRACE / HTTP/1.1\r\nHost: proxy.internal\r\n\r\n", DENIED),
    answered("proxy-long-head", "a head of 60,000 bytes", b"GET http://allowed.example/ HTTP/1.1\r\nX: " + b"a" * 30000, r"HTTP/1\.[01] 4\d\d|\[closed|^silence"),
]  # fmt: skip

ROWS = ADDRESSES + RULES + SMUGGLED + TUNNELS + HEADS + [rebound("proxy-rebind-again", "the same once more, when its answer has changed")]
