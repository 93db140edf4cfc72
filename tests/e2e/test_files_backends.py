"""Files into and out of a bottle on each backend, of a bottled that an ordinary user runs where the tests can be one."""
import os

import harness
import pytest
from test_exec import LASTING, SLUG
from test_files import FOLDER, get, put, shell


@pytest.mark.backends
def test_there_and_back(new_daemon):
    one = new_daemon(uid=list(harness.USERS.values())[-1]).start()
    one.create({"slug": SLUG, "command": LASTING}, "?start=true&wait=running&timeout=100s")
    data = os.urandom(300000)
    put(one, "/a/b", data, owner="5:6")
    reply = get(one, "/a/b")
    assert reply.body == data and reply.headers["X-File-Owner"] == "5:6"
    put(one, "/c", get(one, "/a", what=FOLDER).body, 200, FOLDER, owner="keep")
    assert shell(one, "cmp /a/b /c/b && stat -c '%s %u' /c/b") == "300000 5\n"
