"""GET /docs in a real browser: lists every route, and runs one."""
import os

import doors
import pytest
from browser import Browser

import harness

FILES = ["index.html", "page.js", "swagger-ui-bundle.js", "swagger-ui.css"]


@pytest.fixture(scope="module")
def place(row):
    daemon = harness.Daemon()
    try:
        yield daemon, doors.open_to_tcp(daemon)
    finally:
        fault = daemon.close()
    assert fault is None, fault


@pytest.fixture(scope="module")
def browser():
    one = Browser()
    try:
        yield one
    finally:
        one.close()


def test_the_files(place):
    """Without a token, for a page can show none; nothing else can be had there."""
    daemon, port = place
    for path in ["/docs", *(f"/docs/{name}" for name in FILES), "/openapi.yaml"]:
        reply = doors.Door(port).request("GET", path, None)
        assert reply.status == 200, (path, reply)
        if path != "/openapi.yaml":
            policy = reply.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
    for name in ("made-from", "LICENSE", "nothing.js"):
        assert daemon.get(f"/docs/{name}").status == 404
    assert daemon.get("/docs/..%2fbottled").status in (400, 404)


def test_the_page_in_a_browser(place, browser, tmp_path):
    daemon, port = place
    token = doors.make_token(daemon, "reader", "read")
    browser.open(f"http://127.0.0.1:{port}/docs")
    count = len(doors.routes())
    browser.until("return document.querySelectorAll('.opblock').length >= arguments[0]", count)
    shown = browser.run(
        "return [...document.querySelectorAll('.opblock-summary')].map(one => ["
        "one.querySelector('.opblock-summary-method').textContent,"
        "one.querySelector('.opblock-summary-path').dataset.path])"
    )
    assert sorted(map(tuple, shown)) == sorted((route["method"], route["path"]) for route in doors.routes())
    # A token, as a person would give it; then GET /version through the page.
    browser.run("document.querySelector('.btn.authorize').click()")
    browser.until(
        "const input = document.querySelector('.auth-container input'); if (!input) return false;"
        "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, arguments[0]);"
        "input.dispatchEvent(new Event('input', {bubbles: true})); return true", token
    )
    browser.run("document.querySelector('.auth-btn-wrapper .authorize').click()")
    browser.until("return document.querySelector('.auth-container .auth-btn-wrapper .btn-done')")
    browser.run("document.querySelector('.btn-done').click()")
    browser.run("document.querySelector('.opblock-summary-path[data-path=\"/version\"]').closest('.opblock-summary').querySelector('button').click()")
    find = "const block = document.querySelector('.opblock-summary-path[data-path=\"/version\"]').closest('.opblock');"
    browser.until(find + "const go = block.querySelector('.execute'); if (go) go.click(); return !!go")
    said = browser.until(
        find + "const live = block.querySelector('.live-responses-table .response'); return live && live.textContent")
    assert said.startswith("200") and daemon.get("/version").json()["version"] in said, said
    browser.run(find + "block.scrollIntoView()")
    browser.screenshot(os.environ.get("SCREENSHOT", tmp_path / "docs.png"))
    assert browser.complaints() == []
