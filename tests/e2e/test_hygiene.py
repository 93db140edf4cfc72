"""What is no HTTP/1.1, or could be read in two ways, is refused with words, over a raw socket, a row each; nothing is left without an answer.

The daemon is an ordinary one but for its patience, which is short.
"""
import contextlib
import json
import socket

import doors
import fake_daemon
import pace
import pytest
import raw

HOST = b"Host: x\r\n"
PLAN = b'{"command":["true"]}'
BAD = (400, "bad-request")
ONE_MIB = 1 << 20
SHORT = f"{pace.stretched(1)}s"
PATIENCE = {"idle_timeout": SHORT, "head_timeout": SHORT, "body_timeout": SHORT, "max_connections": 16, "max_waiters": 8}


def get(path=b"/healthz", headers=b"", version=b"HTTP/1.1"):
    return b"GET " + path + b" " + version + b"\r\n" + HOST + headers + b"\r\n"


def post(headers, body=b"", path=b"/plans"):
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


def sized(body, *, path=b"/plans", headers=b""):
    return post(b"Content-Length: %d\r\n" % len(body) + headers, body, path)


def chunked(body, headers=b""):
    return post(b"Transfer-Encoding: chunked\r\n" + headers, body)


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


# name: (what is sent; status, problem). None for a problem: the answer is no problem.
ROWS = {
    # What is well.
    "a plain GET": (get(), 200, None),
    "a cookie that is none": (get(headers=b'Cookie: bottled-session="\r\n'), 200, None),
    "a thousand cookies": (get(headers=b"Cookie: " + b"; ".join(b"a%d=1" % n for n in range(1000)) + b"\r\n"), 200, None),
    "a cookie by the name that it has inside": (get(headers=b"@ookie: a=1\r\n"), *BAD),
    "an empty line before it": (b"\r\n" + get(), 200, None),
    "absolute form, the same host": (get(b"http://x/healthz"), 200, None),
    "absolute form, https, in capitals": (b"GET HTTPS://EXAMPLE/healthz HTTP/1.1\r\nHost: example\r\n\r\n", 200, None),
    "absolute form without a path": (get(b"http://x?a=1"), 404, "not-found"),
    "Host with a port": (b"GET /healthz HTTP/1.1\r\nHost: localhost:80\r\n\r\n", 200, None),
    "Host of an IPv6 address": (b"GET /healthz HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 200, None),
    "a header without a value": (get(headers=b"X-Empty:\r\n"), 200, None),
    "a header that is not ASCII": (get(headers=b"X-Name: Z\xc3\xbcrich\r\n"), 200, None),
    "100 headers": (get(headers=b"".join(b"X-%d: y\r\n" % n for n in range(99))), 200, None),
    "an address of 8192 bytes": (get(b"/" + b"a" * 8191), 404, "not-found"),
    "64 empty parameters": (get(b"/healthz?" + b"&" * 63), 200, None),
    "all at once": (
        get(b"/bottles?" + b"label=a=&" * 16 + b"state=failed&" * 14 + b"limit=1&" + b"&" * 31, b"".join(b"X-%02d: %s\r\n" % (n, b"y" * 145) for n in range(99))),
        200, None,
    ),
    "a head of 16 KiB": (get(headers=b"X-Long: " + b"a" * (16384 - 44) + b"\r\n"), 200, None),
    "a body of a length": (sized(PLAN), 200, None),
    "a body in chunks": (chunked(chunk(PLAN[:5]) + chunk(PLAN[5:]) + b"0\r\n\r\n"), 200, None),
    "chunks with an extension and a trailer": (chunked(b"14;a=b\r\n" + PLAN + b"\r\n0\r\nX-Sum: 1\r\n\r\n"), 200, None),
    "chunk sizes with zeros and capitals": (chunked(b"00014\r\n" + PLAN + b"\r\n000\r\n\r\n"), 200, None),
    "Expect: 100-continue": (sized(PLAN, headers=b"Expect: 100-continue\r\n"), 200, None),
    "a body of exactly 1 MiB": (sized(PLAN + b" " * (ONE_MIB - len(PLAN))), 200, None),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 204, None),
    # Host.
    "no Host": (b"GET /healthz HTTP/1.1\r\n\r\n", *BAD),
    "two Hosts": (get(headers=HOST), *BAD),
    "two Hosts that differ": (get(headers=b"Host: y\r\n"), *BAD),
    "an empty Host": (b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", *BAD),
    "a Host with a path": (b"GET /healthz HTTP/1.1\r\nHost: x/y\r\n\r\n", *BAD),
    "a Host with a user": (b"GET /healthz HTTP/1.1\r\nHost: a@x\r\n\r\n", *BAD),
    "a Host with a port that is none": (b"GET /healthz HTTP/1.1\r\nHost: x:http\r\n\r\n", *BAD),
    "a list of Hosts": (b"GET /healthz HTTP/1.1\r\nHost: x, y\r\n\r\n", *BAD),
    "absolute form, another host": (get(b"http://evil.example/healthz"), *BAD),
    "absolute form with a user": (get(b"http://a@x/healthz"), *BAD),
    "absolute form of another scheme": (get(b"ftp://x/healthz"), *BAD),
    # Lengths.
    "Transfer-Encoding and Content-Length": (post(b"Content-Length: 20\r\nTransfer-Encoding: chunked\r\n", chunk(PLAN) + b"0\r\n\r\n"), *BAD),
    "the same the other way around": (post(b"Transfer-Encoding: chunked\r\nContent-Length: 20\r\n", PLAN), *BAD),
    "two Content-Lengths": (post(b"Content-Length: 20\r\nContent-Length: 21\r\n", PLAN), *BAD),
    "two Content-Lengths that agree": (post(b"Content-Length: 20\r\nContent-Length: 20\r\n", PLAN), *BAD),
    "a list of lengths": (post(b"Content-Length: 20, 20\r\n", PLAN), *BAD),
    "a negative length": (post(b"Content-Length: -1\r\n"), *BAD),
    "a length with a sign": (post(b"Content-Length: +20\r\n", PLAN), *BAD),
    "a length in hex": (post(b"Content-Length: 0x14\r\n", PLAN), *BAD),
    "an empty length": (post(b"Content-Length:\r\n", PLAN), *BAD),
    "a length past 64 bits": (post(b"Content-Length: 18446744073709551636\r\n", PLAN), *BAD),
    "gzip as Transfer-Encoding": (post(b"Transfer-Encoding: gzip, chunked\r\n", chunk(PLAN) + b"0\r\n\r\n"), *BAD),
    "chunked twice": (post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), *BAD),
    "chunked with something around": (post(b"Transfer-Encoding: xchunked\r\n"), *BAD),
    # Lines.
    "bare LF": (get().replace(b"\r\n", b"\n"), *BAD),
    "bare LF after the first line": (b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n", *BAD),
    "bare LF between headers": (get(headers=b"A: b\nC: d\r\n"), *BAD),
    "bare CR in a header": (get(headers=b"A: b\rC: d\r\n"), *BAD),
    "NUL in the address": (get(b"/bottles/a\0b"), *BAD),
    "NUL in a header": (get(headers=b"A: b\0c\r\n"), *BAD),
    "a control character in a header": (get(headers=b"A: b\x01c\r\n"), *BAD),
    "DEL in a header": (get(headers=b"A: b\x7f\r\n"), *BAD),
    "a folded header": (get(headers=b"A: b\r\n c\r\n"), *BAD),
    "a folded first header": (b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n", *BAD),
    "a space before the colon": (get(headers=b"A : b\r\n"), *BAD),
    "a tab before the colon": (b"GET /healthz HTTP/1.1\r\nHost\t: x\r\n\r\n", *BAD),
    "a header without a name": (get(headers=b": b\r\n"), *BAD),
    "a header without a colon": (get(headers=b"nonsense\r\n"), *BAD),
    "a header name with a slash": (get(headers=b"A/B: c\r\n"), *BAD),
    "a doubled Content-Type": (sized(PLAN, headers=b"Content-Type: application/json\r\nContent-Type: text/plain\r\n"), *BAD),
    "a doubled Idempotency-Key": (sized(PLAN, headers=b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n"), *BAD),
    # First lines.
    "HTTP/1.0": (get(version=b"HTTP/1.0"), 505, "http-version"),
    "HTTP/1.0 without Host": (b"GET /healthz HTTP/1.0\r\n\r\n", 505, "http-version"),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", *BAD),
    "HTTP/1.2": (get(version=b"HTTP/1.2"), 505, "http-version"),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, "http-version"),
    "a version of two digits": (get(version=b"HTTP/1.11"), *BAD),
    "a version in lower case": (get(version=b"http/1.1"), *BAD),
    "another protocol": (get(version=b"RTSP/1.1"), *BAD),
    "two spaces": (b"GET  /healthz HTTP/1.1\r\n" + HOST + b"\r\n", *BAD),
    "a space at the end": (b"GET /healthz HTTP/1.1 \r\n" + HOST + b"\r\n", *BAD),
    "a space in the address": (get(b"/health z"), *BAD),
    "a space before the method": (b" " + get(), *BAD),
    "two empty lines before it": (b"\r\n\r\n" + get(), *BAD),
    "a tab for a space": (b"GET\t/healthz HTTP/1.1\r\n" + HOST + b"\r\n", *BAD),
    "a method that is no word": (b"G(T /healthz HTTP/1.1\r\n" + HOST + b"\r\n", *BAD),
    "a method without end": (b"G" * 100 + b" /healthz HTTP/1.1\r\n" + HOST + b"\r\n", *BAD),
    "a method nobody knows": (b"BREW /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method-not-allowed"),
    "a method in lower case": (b"get /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method-not-allowed"),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n", *BAD),
    "TRACE": (b"TRACE /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method-not-allowed"),
    "GET *": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", *BAD),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", *BAD),
    "words": (b"hello\r\n\r\n", *BAD),
    # Addresses.
    "an encoded NUL": (get(b"/bottles/a%00b"), *BAD),
    "an encoded slash in a slug": (get(b"/bottles/a%2fb"), *BAD),
    "the same in capitals": (get(b"/bottles/a%2Fb/plan"), *BAD),
    "a percent sign by itself": (get(b"/bottles/a%"), *BAD),
    "a percent sign before no digits": (get(b"/bottles/a%zz"), *BAD),
    "bytes that are not UTF-8": (get(b"/bottles/%ff"), *BAD),
    "a byte that has to be encoded": (get(b"/bottles/\xc3\xbc"), *BAD),
    "a fragment": (get(b"/healthz#x"), *BAD),
    "what a refusal is marked by": (get(b"!1"), *BAD),
    "dots": (get(b"/bottles/../healthz"), 404, "not-found"),
    "encoded dots": (get(b"/bottles/%2e%2e/healthz"), 404, "not-found"),
    "two slashes": (get(b"//healthz"), 404, "not-found"),
    # Sizes.
    "33 parameters": (get(b"/healthz?" + b"&".join([b"a"] * 33)), *BAD),
    "33 parameters and as many empty ones": (get(b"/healthz?" + b"&&".join([b"a"] * 33)), *BAD),
    "4,000 parameters": (get(b"/healthz?" + b"a&" * 4000), *BAD),
    "4,000 empty parameters": (get(b"/healthz?" + b"&" * 4000), *BAD),
    "4,000 parameters of another host": (get(b"http://x/healthz?" + b"a&" * 4000), *BAD),
    "an address of 8193 bytes": (get(b"/" + b"a" * 8192), 414, "uri-too-long"),
    "an address without end": (b"GET /" + b"a" * 100000, 414, "uri-too-long"),
    "a head over 16 KiB": (get(headers=b"X-Long: " + b"a" * (16385 - 44) + b"\r\n"), 431, "headers-too-large"),
    "a head without end": (b"GET / HTTP/1.1\r\n" + b"X-Long: aaaaaaaa\r\n" * 9 + b"A: " + b"a" * 500000, 431, "headers-too-large"),
    "101 headers": (get(headers=b"".join(b"X-%d: y\r\n" % n for n in range(100))), 431, "headers-too-large"),
    "a body over 1 MiB": (sized(PLAN + b" " * ONE_MIB), 413, "body-too-large"),
    "a body over 1 MiB in chunks": (chunked(chunk(b" " * 65536) * 17 + b"0\r\n\r\n"), 413, "body-too-large"),
    "chunks without end": (chunked(chunk(b" " * 65536) * 300), 413, "body-too-large"),
    "a length of exabytes": (post(b"Content-Length: 999999999999999999\r\n", PLAN), 413, "body-too-large"),
    # Chunks.
    "a chunk size that is none": (chunked(b"zz\r\n" + PLAN + b"\r\n0\r\n\r\n"), *BAD),
    "an empty chunk size": (chunked(b"\r\n" + PLAN + b"\r\n0\r\n\r\n"), *BAD),
    "a chunk size with 0x": (chunked(b"0x14\r\n" + PLAN + b"\r\n0\r\n\r\n"), *BAD),
    "a negative chunk size": (chunked(b"-1\r\n" + PLAN + b"\r\n0\r\n\r\n"), *BAD),
    "a chunk size past 64 bits": (chunked(b"1" * 17 + b"\r\n" + PLAN), *BAD),
    "a chunk line with a bare LF": (chunked(b"14\n" + PLAN + b"\r\n0\r\n\r\n"), *BAD),
    "a chunk line without end": (chunked(b"14;" + b"a" * 1000), *BAD),
    "a chunk that is longer than it says": (chunked(b"13\r\n" + PLAN + b"\r\n0\r\n\r\n"), *BAD),
    "a second chunk size that is none": (chunked(chunk(PLAN) + b"q\r\n\r\n"), *BAD),
    "a trailer that is none": (chunked(chunk(PLAN) + b"0\r\nnonsense\r\n\r\n"), *BAD),
    "a trailer without end": (chunked(chunk(PLAN) + b"0\r\n" + b"A: bbbbbbbbbbbb\r\n" * 1000), *BAD),
    # What goes with a request.
    "another expectation": (sized(PLAN, headers=b"Expect: 200-ok\r\n"), 417, "expectation-failed"),
    "an expectation of a GET": (get(headers=b"Expect: the-unexpected\r\n"), 417, "expectation-failed"),
    "a body of a GET": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx", *BAD),
    "a body that is packed": (sized(PLAN, headers=b"Content-Encoding: gzip\r\n"), 415, "unsupported-media-type"),
    "a body in another charset": (sized(PLAN, headers=b"Content-Type: application/json; charset=utf-16\r\n"), 415, "unsupported-media-type"),
}

# What stops in the middle: (what is sent, what it stops in).
MIDDLES = {
    "within the first line": (b"GET /hea", "head"),
    "within the headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b", "head"),
    "before the empty line": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r", "head"),
    "before a body": (post(b"Content-Length: 20\r\n"), "body"),
    "within a body": (post(b"Content-Length: 20\r\n", PLAN[:7]), "body"),
    "within a chunk's line": (chunked(b"1"), "body"),
    "within a chunk": (chunked(b"14\r\n" + PLAN[:7]), "body"),
    "after a chunk": (chunked(b"14\r\n" + PLAN), "body"),
    "before the last chunk": (chunked(chunk(PLAN)), "body"),
    "within the trailer": (chunked(chunk(PLAN) + b"0\r\nX-Sum: 1\r\n"), "body"),
    "within a body that is too large": (post(b"Content-Length: 2000000\r\n", b" " * 9), "body"),
    "within a file that is copied in": (
        b"PUT /bottles/none/files?path=/a HTTP/1.1\r\n" + HOST + b"Content-Length: 20\r\n\r\nabc", "body"),
}


@pytest.fixture(scope="module")
def hasty(new_shared):
    return new_shared(config=PATIENCE)


@pytest.fixture
def wire(hasty):
    with raw.Wire(hasty.socket) as one:
        yield one


def check(answer, status, problem):
    assert answer.status == status, answer
    assert answer.headers["x-request-id"], answer
    if problem is None:
        assert "problem" not in answer.headers.get("content-type", ""), answer
        return
    assert answer.headers["content-type"] == "application/problem+json", answer
    body = json.loads(answer.body)
    assert body["type"].endswith(f"/{problem}") or body["type"].endswith(f":{problem}"), body
    assert body["status"] == status and body["title"] and body["detail"], body


@pytest.mark.parametrize("name", ROWS)
def test_row(hasty, wire, name):
    sent, status, problem = ROWS[name]
    check(wire.send(sent).answer(), status, problem)
    assert hasty.get("/healthz").status == 200


@pytest.mark.parametrize("name", ["no Host", "bare LF", "NUL in a header", "HTTP/1.0", "a head over 16 KiB", "a folded header",
                                  "an encoded NUL", "Transfer-Encoding and Content-Length", "HTTP/2's preface"])
def test_byte_by_byte(hasty, name):
    """The pieces that bytes come in make no difference."""
    sent, status, problem = ROWS[name]
    with raw.Wire(hasty.socket) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for at in range(0, len(sent), step := 1 if len(sent) < 300 else 97):
            wire.send(sent[at:at + step])
        check(wire.answer(), status, problem)


def check_middle(wire, name, status, problem):
    answer = wire.answer()
    if answer.status not in ({404, 413} if "file" in name or "too large" in name else set()):
        check(answer, status, problem)
        assert MIDDLES[name][1] in json.loads(answer.body)["detail"], name
    assert wire.closed(), name


@pytest.mark.parametrize("name", MIDDLES)
def test_a_request_that_ends_in_the_middle(wire, name):
    check_middle(wire.send(MIDDLES[name][0]).end(), name, *BAD)


def test_requests_that_stop_in_the_middle(hasty):
    """All at once: each waits for its client, and no longer than it has to."""
    wires = {name: raw.Wire(hasty.socket).send(sent) for name, (sent, _) in MIDDLES.items()}
    for name, wire in wires.items():
        with wire:
            check_middle(wire, name, 408, "request-timeout")


def test_one_byte_at_a_time_is_too_slow(wire):
    """Each byte is soon enough by itself; all together they are not."""
    wire.sock.settimeout(0.2)
    for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n":
        wire.send(bytes([byte]))
        try:
            if not wire.more() or wire.left:
                break
        except TimeoutError:
            continue
    wire.sock.settimeout(10)
    check(wire.answer(), 408, "request-timeout")


def test_a_body_in_large_pieces_is_too_slow_as_well(wire):
    """What is kept in memory has one time, whether or not a piece fills a buffer to its last byte."""
    wire.sock.settimeout(pace.stretched(0.4))
    wire.send(b"POST /plans HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")
    for _ in range(14):
        wire.send(b" " * 65536)
        with contextlib.suppress(TimeoutError):
            if wire.more():
                break
    else:
        pytest.fail("it goes on and on")
    wire.sock.settimeout(10)
    check(wire.answer(), 408, "request-timeout")


def test_idle_connection_is_closed_without_a_word(wire):
    check(wire.send(get()).answer(), 200, None)
    assert wire.closed()


def test_a_long_answer_is_no_slow_client(hasty, wire):
    """Who waits for an answer is not idle, however long it takes."""
    hasty.create({"command": ["true"], "slug": "still"})
    answer = wire.send(get(b"/bottles/still/wait?state=running&timeout=%ds" % pace.stretched(3))).answer()
    check(answer, 504, "timeout")
    check(wire.send(get()).answer(), 200, None)
    hasty.remove("still")


@pytest.mark.parametrize("size", [16 * 1024 - 1, 16 * 1024])
def test_a_long_answer_to_a_request_of_any_size(new_daemon, size):
    """Its last byte may be the last that fits into a buffer: then nobody has looked whether more comes."""
    daemon = new_daemon(config=PATIENCE)
    with fake_daemon.installed(daemon):
        port = doors.open_to_tcp(daemon)
        head = (f"POST /bottles?start=true&wait=exited&timeout={pace.stretched(3)}s HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {doors.make_token(daemon, 'one', 'operate')}\r\nContent-Length: %5d\r\n\r\n")
        length = size - len(head % 0)
        with raw.Wire(("127.0.0.1", port)) as wire:
            wire.send((head % length).encode() + b'{"slug": "one", "command": ["true"]}'.ljust(length))
            check(wire.answer(), 504, "timeout")
        daemon.remove("one")


def test_what_a_guest_does_not_take_is_no_slow_client(new_daemon):
    """All of a file has been sent, and lies here: the guest has its own time to take it. Of several sizes, since it depends on
    how the bytes fall how much of it lies where."""
    daemon = new_daemon(config={**PATIENCE, "files_timeout": f"{pace.stretched(4)}s"})
    with fake_daemon.installed(daemon) as fake, contextlib.ExitStack() as stack:
        daemon.start()
        fake.start("one")
        wires = []
        for size in range(27000, 33000, 1000):
            wires.append(stack.enter_context(raw.Wire(daemon.socket)))
            wires[-1].send(b"PUT /bottles/one/files?path=/x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        for wire in wires:
            check(wire.answer(), 504, "timeout")
        daemon.remove("one")


def test_pipeline(wire):
    """Many requests at once: an answer each, in order; a refused one is the last."""
    wire.send(get(b"/version") + sized(PLAN) + get(b"/nothing") + chunked(chunk(PLAN) + b"0\r\n\r\n") + get(b"/bottles/a%00") +
              get() + b"HEAD /healthz HTTP/1.1\r\n" + HOST + b"\r\n" + get(headers=b"A : b\r\n") + get())
    for status in (200, 200, 404, 200, 400):
        assert (answer := wire.answer()).status == status, answer
    if answer.headers.get("connection") != "close":
        for status, head in ((200, False), (200, True)):
            assert wire.answer(head=head).status == status
        check(wire.answer(), *BAD)
    assert wire.closed(), wire.left


def test_a_thousand_in_one_pipeline(wire):
    wire.send(get(b"/version") * 1000 + get(headers=b"A : b\r\n") + get())
    for _ in range(1000):
        assert wire.answer().status == 200
    check(wire.answer(), *BAD)
    assert wire.closed()


def test_smuggled_request_is_not_read(hasty, wire):
    """What a proxy takes for a body is not taken for a request."""
    hidden = b"POST /bottles HTTP/1.1\r\n" + HOST + b"Content-Length: 20\r\n\r\n" + PLAN
    for sent in (
        post(b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % (len(hidden) + 5), b"0\r\n\r\n" + hidden),
        post(b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n", hidden),
        get(headers=b"A: b\n\n" + hidden),
        chunked(b"0\n\r\n" + hidden),
    ):
        with raw.Wire(hasty.socket) as one:
            check(one.send(sent).answer(), *BAD)
            assert one.closed()
    assert hasty.get("/bottles").json()["bottles"] == []


def test_a_refused_head_has_no_body_in_its_answer(wire):
    wire.send(b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert wire.answer(head=True).status == 400
    assert wire.closed()


def test_continue_is_said_before_the_body_and_not_before_a_refusal(hasty):
    with raw.Wire(hasty.socket) as wire:
        wire.send(post(b"Content-Length: 20\r\nExpect: 100-continue\r\n"))
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        check(wire.send(PLAN).answer(), 200, None)
    with raw.Wire(hasty.socket) as wire:
        wire.send(post(b"Content-Length: 2000000\r\nExpect: 100-continue\r\n"))
        assert wire.until(b"\r\n").startswith(b"HTTP/1.1 413 ")


def test_half_closed_client_has_its_answer(wire):
    check(wire.send(sized(PLAN)).end().answer(), 200, None)


def all_there_may_be(hasty):
    """So many connections, once the daemon has seen those leave that there were before."""
    while True:
        wires = [raw.Wire(hasty.socket) for _ in range(PATIENCE["max_connections"])]
        if all(wire.send(get()).answer().status == 200 for wire in wires):
            return wires
        for wire in wires:
            wire.sock.close()


def test_too_many_connections(hasty):
    """Those within the limit work; each beyond it is told so; when one leaves there is room again."""
    within = all_there_may_be(hasty)
    try:
        for _ in range(3):
            with raw.Wire(hasty.socket) as beyond:
                answer = beyond.send(get()).answer()
                check(answer, 503, "too-many-connections")
                assert int(answer.headers["retry-after"]) > 0
                assert beyond.closed()
        check(within[0].send(get()).answer(), 200, None)
    finally:
        for wire in within:
            wire.sock.close()
    with raw.Wire(hasty.socket) as wire:
        answer = wire.send(get()).answer()
    while answer.status == 503:  # until the daemon has seen them leave
        with raw.Wire(hasty.socket) as wire:
            answer = wire.send(get()).answer()
    check(answer, 200, None)
