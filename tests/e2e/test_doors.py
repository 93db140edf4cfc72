"""Browsers at the door: sessions, CSRF, Host and Origin, CORS; and TLS."""
import socket
import ssl

import doors
import harness
import pytest

OURS, THEIRS = "https://page.example", "https://evil.example"


@pytest.fixture(scope="module")
def place():
    daemon = harness.Daemon()
    try:
        port = doors.open_to_tcp(daemon, cors_origins=OURS, server_names="bottled.example")
        yield daemon, doors.Door(port), doors.make_token(daemon, "page", "operate")
    finally:
        fault = daemon.close()
    assert fault is None, fault


# --- Host and Origin ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, status",
    [("127.0.0.1:{port}", 200), ("localhost:{port}", 200), ("bottled.example:{port}", 200), ("BOTTLED.example:{port}", 200),
     ("evil.example", 403), ("evil.example:{port}", 403), ("127.0.0.1", 403), ("127.0.0.1.evil.example:{port}", 403),
     ("bottled.example", 403), ("127.0.0.2:{port}", 403)],
)
def test_hosts(place, host, status):
    """A name that somebody points at this address gets nothing, whatever it brings."""
    _, door, token = place
    reply = door.get("/version", token, Host=host.format(port=door.port))
    assert (reply.status, reply.problem) == (status, "forbidden-host" if status == 403 else None)


def test_every_change_of_another_site_is_refused(place):
    daemon, door, token = place
    for route in doors.routes():
        path = doors.path_of(route)
        for ask in (lambda: door.request(route["method"], path, token, {"Origin": THEIRS}),
                    lambda: daemon.request(route["method"], path, headers={"Origin": THEIRS})):
            reply = ask()
            assert (reply.problem == "forbidden-origin") == (route["method"] != "GET"), (route, reply)
            assert reply.headers["Access-Control-Allow-Origin"] is None
    for origin in ("null", f"http://127.0.0.1:{door.port + 1}", "http://127.0.0.1", OURS + ".evil.example", ""):
        assert door.request("POST", "/plans", token, {"Origin": origin}).problem == "forbidden-origin", origin


def test_our_own_pages_may(place):
    _, door, token = place
    for host in (f"127.0.0.1:{door.port}", f"localhost:{door.port}"):
        reply = door.request("POST", "/plans", token, {"Host": host, "Origin": f"http://{host}"}, b"{}")
        assert reply.status == 422, reply


def test_a_configured_origin_may_and_may_read(place):
    _, door, token = place
    reply = door.request("POST", "/plans", token, {"Origin": OURS}, b"{}")
    assert reply.status == 422
    for reply in (reply, door.get("/version", token, Origin=OURS), door.get("/version", Origin=OURS)):
        assert reply.headers["Access-Control-Allow-Origin"] == OURS
        assert reply.headers["Vary"] == "Origin"
        assert "Location" in reply.headers["Access-Control-Expose-Headers"]
        assert reply.headers["Access-Control-Allow-Credentials"] is None
    assert door.get("/version", token).headers["Access-Control-Allow-Origin"] is None


def test_preflight(place):
    """A browser asks first, without a token; what it may then do needs one."""
    _, door, _ = place
    asks = {"Origin": OURS, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization"}
    reply = door.request("OPTIONS", "/bottles/x", headers=asks)
    assert reply.status == 204 and reply.headers["Access-Control-Allow-Origin"] == OURS
    assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
    assert {"Authorization", "Content-Type", "If-Match"} <= set(reply.headers["Access-Control-Allow-Headers"].split(", "))
    assert int(reply.headers["Access-Control-Max-Age"]) > 0
    reply = door.request("OPTIONS", "/bottles/x", headers={**asks, "Origin": THEIRS})
    assert reply.status == 401 and reply.headers["Access-Control-Allow-Origin"] is None
    del asks["Access-Control-Request-Method"]
    assert door.request("OPTIONS", "/bottles/x", headers=asks).status == 401


# --- Sessions -------------------------------------------------------------------------------------


class Page:
    """What a dashboard in a browser has: a cookie, and the CSRF token."""

    def __init__(self, door, token):
        self.door = door
        reply = door.request("POST", "/session", token)
        assert reply.status == 201, reply
        self.opened, self.set_cookie = reply.json(), reply.headers["Set-Cookie"]
        self.cookie = self.set_cookie.split(";")[0]
        self.origin = f"http{'s' if door.tls else ''}://{door.host}:{door.port}"

    def request(self, method, path, body=None, csrf=True, **headers):
        headers = {"Cookie": f"other=1; {self.cookie}", "Origin": self.origin, **headers}
        if csrf is True:
            headers["X-CSRF-Token"] = self.opened["csrf_token"]
        elif csrf:
            headers["X-CSRF-Token"] = csrf
        return self.door.request(method, path, None, headers, body)


def test_session(place):
    _, door, token = place
    page = Page(door, token)
    attributes = [part.strip() for part in page.set_cookie.split(";")[1:]]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes) and "Secure" not in attributes
    assert token not in page.set_cookie
    assert {key: page.opened[key] for key in ("via", "name", "role")} == {"via": "session", "name": "page", "role": "operate"}
    assert page.request("GET", "/session", csrf=False).json() == page.opened, "a page that was loaded anew learns it again"
    assert page.request("GET", "/bottles", csrf=False).status == 200
    assert page.request("POST", "/plans", b"{}").status == 422
    assert page.request("DELETE", "/images/0123456789abcdef").problem == "forbidden-role"
    for csrf in (False, "0" * 64, page.opened["csrf_token"][:-1]):
        assert page.request("POST", "/plans", b"{}", csrf=csrf).problem == "forbidden-csrf"
    assert page.request("POST", "/plans", b"{}", Origin=THEIRS).problem == "forbidden-origin"
    assert page.request("POST", "/session").problem == "forbidden", "a session makes no further ones"


def test_logout(place):
    _, door, token = place
    page, other = Page(door, token), Page(door, token)
    assert page.request("DELETE", "/session", csrf=False).problem == "forbidden-csrf"
    reply = page.request("DELETE", "/session")
    assert reply.status == 204 and "Max-Age=0" in reply.headers["Set-Cookie"]
    assert page.request("GET", "/session", csrf=False).status == 401
    assert other.request("GET", "/session", csrf=False).status == 200
    assert door.request("DELETE", "/session", token).problem == "not-found"


def test_sessions_are_bounded(place):
    _, door, token = place
    pages = [Page(door, token) for _ in range(17)]
    assert pages[0].request("GET", "/session", csrf=False).status == 401, "the oldest went"
    assert [page.request("GET", "/session", csrf=False).status for page in pages[1:]] == [200] * 16


def test_a_session_ends_with_its_token(place):
    daemon, door, _ = place
    page = Page(door, doors.make_token(daemon, "short", "read"))
    assert page.request("GET", "/session", csrf=False).status == 200
    doors.token_command(daemon, "revoke", "short")
    assert page.request("GET", "/session", csrf=False).status == 401
    doors.make_token(daemon, "short", "read")
    assert page.request("GET", "/session", csrf=False).status == 401, "one of the same name is another"
    doors.token_command(daemon, "revoke", "short")


def test_a_cookie_that_is_none(place):
    _, door, _ = place
    for cookie in ("bottled_session=", "bottled_session=" + "0" * 64, "xbottled_session=1", "a; ;=;"):
        assert door.get("/version", Cookie=cookie).status == 401, cookie


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def secure(new_daemon, tmp_path):
    cert, key = doors.make_certificate(tmp_path)
    daemon = new_daemon()
    port = doors.open_to_tcp(daemon, tls_cert=str(cert), tls_key=str(key))
    return daemon, port, cert, key


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls(secure):
    daemon, port, cert, _ = secure
    token = doors.make_token(daemon, "one", "operate")
    door = doors.Door(port, tls=doors.trusting(cert))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert doors.Door(port, tls=doors.trusting(cert, version)).get("/version", token).status == 200
    old = doors.trusting(cert)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        doors.Door(port, tls=old).get("/version", token)
    assert door.get("/version").status == 401
    assert door.request("POST", "/bottles", token, body=b'{"command": ["true"], "slug": "x"}').status == 201
    assert len(door.get("/openapi.yaml", token).body) > 50000
    body = b'{"command": ["' + b"x" * 500000 + b'"]}'
    assert door.request("POST", "/plans", token, body=body).status == 422, "of many records"
    page = Page(door, token)
    assert "Secure" in page.set_cookie
    assert page.request("POST", "/plans", b"{}").status == 422
    assert page.request("POST", "/plans", b"{}", Origin=f"http://127.0.0.1:{port}").problem == "forbidden-origin"


def test_heads_are_checked_under_tls(secure):
    """The same eyes look at what was deciphered (server/front.h), however the records are cut."""
    _, port, cert, _ = secure
    host = f"127.0.0.1:{port}".encode()
    tries = {
        b"GET /version HTTP/1.1\r\nHost: " + host + b"\r\n\r\n": b"401",
        b"GET /version HTTP/1.1\r\nHost: a\r\nHost: " + host + b"\r\n\r\n": b"400",
        b"POST /plans HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": b"400",
        b"GET /version HTTP/1.1\nHost: " + host + b"\n\n": b"400",
        b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n": b"414",
    }
    for data, status in tries.items():
        for step in (len(data), 1 if len(data) < 200 else 9000):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                with doors.trusting(cert).wrap_socket(raw, server_hostname="127.0.0.1") as wire:
                    for at in range(0, len(data), step):
                        wire.sendall(data[at : at + step])
                    assert wire.recv(4096).split(b" ")[1] == status, data[:100]


def test_plain_http_on_a_tls_port_ends(secure):
    daemon, port, _, _ = secure
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/" not in wire.recv(4096)
    assert daemon.get("/healthz").status == 200


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda cert, key: key.chmod(0o644), "tls_key .*has to be a file that only its owner may write"),
        (lambda cert, key: key.write_text("nonsense"), "tls_cert .* and its tls_key: "),
        (lambda cert, key: cert.unlink(), "tls_cert: .*No such file"),
        (lambda cert, key: doors.make_certificate(cert.parent, "two")[1].replace(key), "tls_cert .*tls_key: .*[Kk]ey"),
    ],
)
def test_files_that_do_not_serve_are_said(new_daemon, tmp_path, spoil, words):
    cert, key = doors.make_certificate(tmp_path)
    spoil(cert, key)
    daemon = new_daemon(config={"tls_cert": str(cert), "tls_key": str(key)}).spawn()
    assert daemon.process.wait(10) == 2
    assert daemon.output.wait_line(words, 5), daemon.output.text()


@pytest.mark.parametrize("config", [{}, {"insecure_listen": True}, {"tls": True}])
def test_beyond_loopback(new_daemon, tmp_path, config):
    """Without TLS only where it is said; then by the address that the client came to."""
    config = dict(config)
    tls = None
    if config.pop("tls", False):
        cert, key = doors.make_certificate(tmp_path)
        config.update(tls_cert=str(cert), tls_key=str(key))
        tls = doors.trusting(cert)
    daemon = new_daemon(config={"listen": ["0.0.0.0:0"], **config}).spawn()
    if not config:
        assert daemon.process.wait(10) == 2
        assert "listen: 0.0.0.0:0 is not loopback" in daemon.output.text()
        return
    port = doors.port_of(daemon)
    token = doors.make_token(daemon, "one", "read")
    assert doors.Door(port, tls=tls).get("/version", token).status == 200
    assert doors.Door(port, tls=tls).get("/version", token, Host=f"0.0.0.0:{port}").problem == "forbidden-host"
