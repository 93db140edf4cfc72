"""Who may call: every route for every kind of caller; tokens, their ends, and the limit on wrong ones."""
import http.client
import os
import re
import stat
import subprocess
import threading

import doors
import harness
import pytest

ROLES = ["none", "read", "operate", "admin"]


@pytest.fixture(scope="module")
def place():
    """A daemon with a TCP door, and a token of each kind."""
    daemon = harness.Daemon()
    try:
        port = doors.open_to_tcp(daemon, wrong_tokens=100000)
        tokens = {role: doors.make_token(daemon, f"t-{role}", role) for role in ROLES[1:]}
        tokens["revoked"] = doors.make_token(daemon, "gone", "admin")
        doors.token_command(daemon, "revoke", "gone")
        tokens["expired"] = expired_token(daemon)
        tokens["wrong"] = "bt_" + "0" * 64
        yield daemon, doors.Door(port), tokens
    finally:
        fault = daemon.close()
    assert fault is None, fault


def expired_token(daemon):
    """One whose time is over: its end is set back in the file, as time would have it."""
    value = doors.make_token(daemon, "old", "admin", "--expires", "1h")
    path = daemon.state_dir / "tokens.json"
    text = re.sub(r'("name":"old"[^}]*"expires_ms":)\d+', r"\g<1>1000", path.read_text())
    assert '"expires_ms":1000' in text
    path.write_text(text)
    return value


def verdict(reply):
    """What the door said: in, 401, or which 403."""
    if reply.status == 401:
        assert reply.problem == "unauthorized" and "Bearer" in reply.headers["WWW-Authenticate"], reply
        return "401"
    return reply.problem if reply.status == 403 else "in"


def expected(route, caller):
    """What it has to say to a caller ("unix", "other", "none", a kind of token, or a role)."""
    if caller == "none" and route["open"]:
        return "in"
    if caller in ("none", "wrong", "revoked", "expired"):
        return "401"
    if caller == "other":
        return "forbidden"
    if caller == "unix":
        return "forbidden" if (route["method"], route["path"]) == ("POST", "/session") else "in"
    return "in" if ROLES.index(caller) >= ROLES.index(route["role"]) else "forbidden-role"


def walk(ask, caller):
    """Every route; those where it was otherwise."""
    wrong = []
    for route in doors.routes():
        got = verdict(ask(route["method"], doors.path_of(route)))
        if got != expected(route, caller):
            wrong.append((route["method"], route["path"], caller, got))
    return wrong


@pytest.mark.parametrize("caller", ["none", "wrong", "revoked", "expired", "read", "operate", "admin"])
def test_every_route_for_a_tcp_client(place, caller):
    _, door, tokens = place
    assert walk(lambda method, path: door.request(method, path, tokens.get(caller)), caller) == []


def test_every_route_for_the_owner(place):
    daemon, _, _ = place
    assert walk(daemon.request, "unix") == []


@pytest.mark.skipif(os.getuid() != 0, reason="to be another user takes root")
def test_every_route_for_another_user(place):
    daemon, _, _ = place
    daemon.socket.chmod(0o666)  # even where the file's mode lets it in, its credentials do not
    assert doors.as_user(harness.OTHER_USER, lambda: walk(daemon.request, "other")) == []
    daemon.socket.chmod(0o600)


@pytest.mark.skipif(os.getuid() != 0, reason="to be another user takes root")
@pytest.mark.parametrize("role", ROLES[1:])
def test_every_route_for_the_group(new_daemon, role):
    """Its members have the role that the configuration gives, by a group of theirs or their first one."""
    daemon = new_daemon(config={"socket_group": "54321", "socket_group_role": role}).start()
    status = daemon.socket.stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (54321, 0o660)

    def ask():
        wrong = walk(daemon.request, role)
        return [fault for fault in wrong if fault[:2] != ("POST", "/session")]

    assert doors.as_user(harness.OTHER_USER, ask, groups=[12345, 54321]) == []
    daemon.socket.chmod(0o666)
    assert doors.as_user(harness.OTHER_USER, lambda: walk(daemon.request, "other"), groups=[12345]) == []


def test_a_group_that_is_not_there_is_said(new_daemon):
    daemon = new_daemon(config={"socket_group": "no-such-group"}).spawn()
    assert daemon.process.wait(10) == 2
    assert daemon.output.wait_line('socket_group: there is no group "no-such-group"', 10)


# --- Tokens -----------------------------------------------------------------------------------------


def test_tokens_are_hashed_and_ours_alone(place):
    daemon, _, tokens = place
    path = daemon.state_dir / "tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = [path for path in daemon.base.rglob("*") if path.is_file()]
    assert daemon.state_dir / "bottled.db" in files
    for path in files:
        data = path.read_bytes()
        assert not any(value.encode() in data for value in tokens.values()), path
    assert not any(value in daemon.output.text() for value in tokens.values())


def test_token_list_shows_all_but_values(place):
    daemon, _, tokens = place
    shown = doors.token_command(daemon, "list").stdout
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[1:]}
    assert rows["t-read"][0] == "read" and rows["t-read"][-1] == "never"
    assert rows["old"][0] == "admin" and rows["old"][-1] == "(over)"
    assert "gone" not in rows
    assert not any(value in shown for value in tokens.values())


def test_a_revoked_token_is_refused_by_the_next_request(place):
    """Also where the daemon saw the file a moment ago."""
    daemon, door, _ = place
    for number in range(20):
        value = doors.make_token(daemon, f"short-{number}", "read")
        assert door.get("/version", value).status == 200
        doors.token_command(daemon, "revoke", f"short-{number}")
        assert door.get("/version", value).status == 401


@pytest.mark.skipif(os.getuid() != 0, reason="to be another user takes root")
def test_root_makes_tokens_for_a_users_daemon(new_daemon):
    """The file is the daemon's user's, whoever ran the command; and both can go on with it."""
    daemon = new_daemon(uid=harness.OTHER_USER)
    door = doors.Door(doors.open_to_tcp(daemon))
    value = doors.make_token(daemon, "one", "read")
    assert door.get("/version", value).status == 200
    argv = [str(harness.BUILD / "bottled"), "token", "revoke", "one", "--state-dir", str(daemon.state_dir)]
    revoke = lambda: subprocess.run(argv, capture_output=True, timeout=30, env=daemon.environment()).returncode
    assert doors.as_user(harness.OTHER_USER, revoke) == 0
    assert door.get("/version", value).status == 401
    assert door.get("/version", doors.make_token(daemon, "two", "read")).status == 200


def test_a_stream_of_a_revoked_token_says_no_more(new_daemon):
    """What happens after the revocation does not reach who listened before it."""
    daemon = new_daemon()
    door = doors.Door(doors.open_to_tcp(daemon))
    connections = {}
    for name in ("stays", "goes"):
        value = doors.make_token(daemon, name, "read")
        connections[name] = connection = door.connect()
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {value}", "Accept": "text/event-stream"})
    streams = {name: connection.getresponse() for name, connection in connections.items()}
    daemon.create({"command": ["true"], "slug": "before"})
    for stream in streams.values():
        read_until(stream, b"before")
    doors.token_command(daemon, "revoke", "goes")
    daemon.create({"command": ["true"], "slug": "after"})
    read_until(streams["stays"], b"after")
    with pytest.raises(http.client.IncompleteRead) as left:
        streams["goes"].read()
    assert b"after" not in left.value.partial
    for connection in connections.values():
        connection.close()


def read_until(stream, word):
    seen = b""
    while word not in seen:
        piece = stream.read1(65536)
        assert piece, f"it ended with {seen!r}"
        seen += piece


def test_commands_at_once_lose_no_token(place):
    daemon, door, _ = place
    values = {}

    def make(number):
        values[number] = doors.make_token(daemon, f"many-{number}", "read")

    threads = [threading.Thread(target=make, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [door.get("/version", values[number]).status for number in range(12)] == [200] * 12


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["create", "--name", "x"], "create wants --name NAME and --role"),
        (["create", "--name", "x", "--role", "root"], "create wants --name NAME and --role"),
        (["create", "--name", "t-read", "--role", "read"], 'there is a token "t-read" already'),
        (["create", "--name", "token-file", "--role", "read"], 'is not "token-file"'),
        (["create", "--name", "A b", "--role", "read"], "a name has 1 to 64"),
        (["create", "--name", "x", "--role", "read", "--expires", "soon"], '--expires: "soon" is no time'),
        (["create", "--name", "x", "--role", "read", "--expires", "0d"], "--expires: "),
        (["revoke", "nobody"], 'there is no token "nobody"'),
        (["revoke"], "revoke wants the NAME"),
    ],
)
def test_what_the_command_refuses(place, arguments, words):
    daemon, _, _ = place
    done = doors.token_command(daemon, *arguments, check=False)
    assert done.returncode == 1 and words in done.stderr and done.stdout == "", done


@pytest.mark.parametrize("arguments", [[], ["make"], ["list", "--bogus"], ["list", "extra"]])
def test_usage_of_the_command(arguments):
    done = subprocess.run([harness.BUILD / "bottled", "token", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "bottled token" in done.stderr


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o644), lambda path: path.write_text('{"tokens": [{}]}')])
def test_a_file_that_cannot_be_trusted_lets_nobody_in(new_daemon, spoil):
    daemon = new_daemon()
    door = doors.Door(doors.open_to_tcp(daemon))
    value = doors.make_token(daemon, "one", "read")
    assert door.get("/version", value).status == 200
    path = daemon.state_dir / "tokens.json"
    kept = path.read_text()
    spoil(path)
    assert door.get("/version", value).status == 401
    assert daemon.output.wait_line("no token holds until their file can be read", 5)
    path.write_text(kept)
    path.chmod(0o600)
    assert door.get("/version", value).status == 200


def test_the_token_file_is_an_admin(new_daemon):
    daemon = new_daemon()
    file = daemon.base / "token"
    file.write_text("a-token-of-some-length-0123456789\n")
    file.chmod(0o600)
    door = doors.Door(doors.open_to_tcp(daemon, token_file=str(file)))
    reply = door.get("/session", "a-token-of-some-length-0123456789")
    assert reply.json() == {"via": "token", "name": "token-file", "role": "admin"}


# --- Wrong tokens -----------------------------------------------------------------------------------


def test_wrong_tokens_are_limited_by_address(new_daemon):
    daemon = new_daemon()
    port = doors.open_to_tcp(daemon, wrong_tokens=3)
    value = doors.make_token(daemon, "one", "admin")
    bad, good = doors.Door(port, source="127.0.0.2"), doors.Door(port, source="127.0.0.3")
    assert [bad.get("/version", f"wrong-{number}-0123456789").status for number in range(3)] == [401] * 3
    for token in ("wrong-again-0123456789", value):
        reply = bad.get("/version", token)
        assert (reply.status, reply.problem) == (429, "too-many-attempts")
        assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert bad.get("/version").status == 401, "without one there is nothing to limit"
    assert good.get("/version", value).status == 200, "another address"
    assert daemon.get("/version").status == 200, "the owner is never kept out"
    assert daemon.get("/version", headers={"Authorization": "Bearer nonsense"}).status == 200
    assert "127.0.0.2" in daemon.output.wait_line("wrong token", 5)
