"""The doors: the Unix socket, loopback TCP with its token and its Host; and what is read through them."""
import http.client
import os
import socket
import stat

import harness
import pytest
import yaml

TOKEN = "a-token-of-some-length-0123456789"


@pytest.fixture
def tcp(new_daemon):
    daemon = new_daemon()
    token = daemon.base / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    daemon.config.update(token_file=str(token), listen=["127.0.0.1:18080"])
    return daemon.start()


def over_tcp(method, path, headers, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", 18080, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def test_tcp_wants_a_token(tcp):
    auth = {"Authorization": f"Bearer {TOKEN}"}
    assert over_tcp("GET", "/bottles", auth)[0] == 200
    for wrong in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
        status, headers, body = over_tcp("GET", "/bottles", wrong)
        assert status == 401 and "Bearer" in headers["WWW-Authenticate"], (wrong, body)
        assert TOKEN.encode() not in body
    status, _, body = over_tcp("GET", "/bottles", {**auth, "Host": "evil.example"})
    assert (status, b"forbidden-host" in body) == (403, True), body
    assert TOKEN not in tcp.output.text()


def test_socket_is_the_owners(daemon):
    mode = stat.S_IMODE(os.stat(daemon.socket).st_mode)
    assert mode & 0o007 == 0, oct(mode)


def test_another_user_is_turned_away(daemon):
    if os.getuid() != 0:
        pytest.skip("to be another user takes root")
    daemon.socket.chmod(0o666)  # even where the file's mode lets it in, its credentials do not
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setresgid(harness.OTHER_USER, harness.OTHER_USER, harness.OTHER_USER)
            os.setgroups([])
            os.setresuid(harness.OTHER_USER, harness.OTHER_USER, harness.OTHER_USER)
            status = 0 if daemon.get("/bottles").status == 403 else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert daemon.get("/bottles").status == 200


def test_around_the_bottles(shared):
    assert shared.get("/healthz").status == 200
    assert shared.get("/readyz").status == 200
    assert shared.get("/version").json()["version"]
    described = shared.get("/openapi.yaml")
    assert described.status == 200
    assert "/bottles" in yaml.safe_load(described.body)["paths"]
    backends = {backend["name"] for backend in shared.get("/backends").json()["backends"]}
    assert backends == {"qemu", "smolmachines"}


def test_pages_of_bottles(daemon):
    slugs = [f"b{number}" for number in range(25)]
    for number, slug in enumerate(slugs):
        daemon.create({"command": ["true"], "slug": slug, "labels": {"half": str(number % 2)}})
    seen, after = [], ""
    while True:
        page = daemon.get(f"/bottles?limit=10{after}").json()
        seen += [bottle["slug"] for bottle in page["bottles"]]
        if page["next"] is None:
            break
        assert len(page["bottles"]) == 10
        after = f"&after={page['next']}"
    assert seen == slugs, "oldest first, each once"
    odd = daemon.get("/bottles?label=half=1&limit=100").json()
    assert [bottle["slug"] for bottle in odd["bottles"]] == slugs[1::2]


def test_plan_as_a_page(shared):
    plan = {"command": ["echo", "hello"], "slug": "page", "egress": {"allow": ["allowed.example"]}}
    shared.create(plan)
    page = shared.get("/bottles/page/plan", headers={"Accept": "text/plain"})
    assert page.headers["Content-Type"].startswith("text/plain")
    resolved = shared.get("/bottles/page/plan").json()
    for word in ("page", "allowed.example", resolved["subnet"], str(resolved["port_forwards"][0]["host_port"])):
        assert word in page.text, page.text
    for file in resolved["files"]:
        raw = shared.get(f"/bottles/page/plan/files/{file['name']}")
        assert len(raw.body) == file["bytes"]
        assert raw.body == (shared.state_dir / "bottles" / "page" / file["name"]).read_bytes()
    shared.remove("page")


def test_slow_and_broken_clients_do_not_stop_others(shared):
    """A request that never ends, one that ends in the middle, and garbage: the next client is answered."""
    broken = []
    for start in (b"POST /bottles HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"GET /bot", b"\x00\x01\x02\r\n\r\n"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(shared.socket))
        sock.sendall(start)
        broken.append(sock)
    assert shared.get("/healthz").status == 200
    for sock in broken:
        sock.close()
    assert shared.get("/healthz").status == 200
    assert shared.get("/bottles").json()["bottles"] == []
