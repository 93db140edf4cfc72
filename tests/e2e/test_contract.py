"""What holds for every path: each method is answered, in the form that was asked for, by the table of routes itself."""
import concurrent.futures
import gzip
import json
import os
import subprocess

import harness
import pytest
import raw

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
ROUTES = json.loads(subprocess.run([harness.BUILD / "test-tools" / "fields"], check=True, capture_output=True).stdout)["routes"] \
    if os.path.exists(harness.BUILD / "test-tools" / "fields") else []
PATHS = sorted({route["path"] for route in ROUTES})
PARTS = {"{slug}": "none", "{exec}": "0" * 16, "{id}": "0" * 16, "{name}": "gvproxy.yaml", "{session}": "0" * 16}


def filled(path, slug="none"):
    for part, value in {**PARTS, "{slug}": slug}.items():
        path = path.replace(part, value)
    return path


def allowed(path):
    methods = {route["method"] for route in ROUTES if route["path"] == path}
    return methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())


def test_the_table_is_there():
    assert len(PATHS) > 30


@pytest.mark.parametrize("path", PATHS)
def test_every_method_of_a_path_is_answered(shared, path):
    """2xx, 4xx, or 405 with Allow; with a body, but for HEAD, 204 and 304; and the connection stays for the next."""
    with raw.Wire(shared.socket) as wire:
        for method in METHODS:
            wire.send(f"{method} {filled(path)} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nAccept: */*\r\n\r\n".encode())
            answer = wire.answer(head=method == "HEAD")
            assert 200 <= answer.status < 500, (method, answer)
            assert answer.headers["x-request-id"]
            if method in allowed(path):
                assert answer.status != 405, (method, answer)
            else:
                assert answer.status == 405, (method, answer)
                assert set(answer.headers["allow"].split(", ")) == allowed(path)
            if method == "OPTIONS":
                assert answer.status == 204 and set(answer.headers["allow"].split(", ")) == allowed(path)
            elif method != "HEAD" and answer.status != 204:
                assert answer.body, (method, answer)
            if answer.status >= 400 and method != "HEAD":
                assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("route", [route for route in ROUTES if route["media"]], ids=lambda route: f"{route['method']} {route['path']}")
def test_what_is_not_acceptable_is_refused(shared, route):
    for accept, refused in (("image/png", True), ("application/json;q=0, text/*;q=0, */*;q=0", True), ("*/*", False), ("", False),
                            (f"image/png, {route['media'][0]};q=0.1", False)):
        reply = shared.request(route["method"], filled(route["path"]), body=b"" if route["body"] else None, headers={"Accept": accept})
        assert (reply.status == 406) == refused, (accept, reply)
        assert not refused or (reply.problem == "not-acceptable" and route["media"][0] in reply.json()["detail"])


def test_head_is_get_without_a_body(shared):
    shared.create({"command": ["true"], "slug": "here"})
    for path in ("/healthz", "/openapi.yaml", "/bottles", "/bottles/here", "/bottles/here/plan", "/bottles/none", "/limits"):
        got, head = shared.get(path), shared.request("HEAD", path)
        assert (head.status, head.body) == (got.status, b"")
        for name in ("Content-Type", "ETag"):
            assert head.headers.get(name) == got.headers.get(name)
        if path != "/healthz":
            assert head.headers["Content-Length"] == str(len(got.body)), path
    shared.remove("here")


def test_packed_where_it_pays(shared):
    """gzip for long text where it is taken; not for what has an ETag, is short, or is a stream."""
    shared.create({"command": ["true"], "slug": "here", "labels": {f"l{n}": "x" * 200 for n in range(20)}})
    for path, packs in (("/openapi.yaml", True), ("/limits", True), ("/bottles", True), ("/bottles/here", False), ("/healthz", False),
                        ("/bottles/here/logs?stream=console", False), ("/bottles/none", False)):
        plain = shared.get(path)
        assert "Content-Encoding" not in plain.headers
        for accepted, taken in (("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)):
            reply = shared.get(path, headers={"Accept-Encoding": accepted})
            assert reply.status == plain.status
            assert (reply.headers.get("Content-Encoding") == "gzip") == (packs and taken), (path, accepted)
            if packs:
                assert "Accept-Encoding" in reply.headers["Vary"]
            if packs and taken:
                assert len(reply.body) < len(plain.body) // 2
                assert gzip.decompress(reply.body) == plain.body
    shared.remove("here")


def test_request_ids(shared):
    for sent, kept in (("abc-1.2_3", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("a\tb", False), ("", False), ("<x>", False)):
        reply = shared.get("/healthz", headers={"X-Request-Id": sent})
        assert (reply.headers["X-Request-Id"] == sent) == kept and reply.headers["X-Request-Id"], sent
    made = {shared.get("/healthz").headers["X-Request-Id"] for _ in range(5)}
    assert len(made) == 5
    shared.get("/healthz", headers={"X-Request-Id": "look-for-me"})
    assert shared.output.wait_line(r"id=look-for-me", 5)


def test_a_bottle_that_is_looked_at_often(shared):
    """Its answer is made once and sent again: each with the id of its own request and nothing of another's, and never what the
    bottle was before."""
    shared.create({"command": ["true"], "slug": "here"})

    def look(connection, k):
        sent = f"look-{k}" + "x" * (k % 40) if k % 3 else None
        extra = {"X-Request-Id": sent} if sent else {}
        if k % 5 == 0:
            extra["Origin"] = "null"
        connection.request("HEAD" if k % 7 == 0 else "GET", "/bottles/here", headers=extra)
        response = connection.getresponse()
        response.read()
        names = response.headers.get_all("X-Request-Id")
        assert len(names) == 1 and names[0] == (sent or names[0])
        assert ("Vary" in response.headers) == (k % 5 == 0)
        kept = {name: value for name, value in response.headers.items() if name not in ("Date", "X-Request-Id", "Vary")}
        assert response.status == 200 and len(kept) == len(response.headers) - 2 - (k % 5 == 0), response.headers
        return names[0], tuple(sorted(kept.items()))

    def many(n):
        connection = harness.UnixConnection(str(shared.socket), 20)
        try:
            return [look(connection, n * 100 + k) for k in range(60)]
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        seen = [one for part in pool.map(many, range(8)) for one in part]
    assert len({name for name, _ in seen}) == len(seen) and len({kept for _, kept in seen}) == 1
    before = shared.get("/bottles/here")
    for n in range(20):
        made = shared.request("PATCH", "/bottles/here", {"labels": {"n": str(n)}})
        assert made.status == 200
        for _ in range(3):
            after = shared.get("/bottles/here")
            assert after.body == made.body != before.body and after.headers["ETag"] == made.headers["ETag"] != before.headers["ETag"]
        before = after
    shared.remove("here")
    assert shared.get("/bottles/here").status == 404


def test_conditions(shared):
    first = shared.post("/bottles", {"command": ["true"], "slug": "here"})
    tag = first.headers["ETag"]
    path = "/bottles/here"
    for header, status in ((tag, 304), (f'"x", {tag}', 304), (f"W/{tag}", 304), ("*", 304), ('"x"', 200)):
        reply = shared.get(path, headers={"If-None-Match": header})
        assert reply.status == status and reply.headers["ETag"] == tag, header
        assert bool(reply.body) == (status == 200)
    patch = {"labels": {"a": "1"}}
    for header, status in (('"x"', 412), (f"W/{tag}", 412), ("nonsense", 412), (tag, 200), (tag, 412), ("*", 200)):
        reply = shared.request("PATCH", path, patch, headers={"If-Match": header, "Content-Type": "application/merge-patch+json"})
        assert reply.status == status, (header, reply)
        patch = {"labels": {"a": str(len(header))}}
    assert shared.get(path).headers["ETag"] != tag
    shared.remove("here")


def test_pages_hold_still(daemon):
    """What comes and goes between the pages moves none that was there all the time, and shows none twice."""
    for number in range(40):
        daemon.create({"command": ["true"], "slug": f"b{number}", "labels": {"parity": str(number % 2)}})
    seen, after, number = [], "", 0
    while True:
        page = daemon.get(f"/bottles?limit=7{after}").json()
        seen += [bottle["slug"] for bottle in page["bottles"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
        daemon.remove(page["bottles"][-1]["slug"])  # the one that the cursor stands on
        daemon.remove(f"b{39 - number}")  # one that is still to come
        daemon.create({"command": ["true"], "slug": f"new{number}"})
        number += 1
    assert len(seen) == len(set(seen))
    assert [slug for slug in seen if slug.startswith("b")][:30] == [f"b{n}" for n in range(30)]
    assert [bottle["slug"] for bottle in daemon.get("/bottles?label=parity=0&state=prepared&limit=3").json()["bottles"]] == ["b0", "b2", "b4"]
