"""Egress rules in force: at the real squid alone, and in real bottles while they change."""
import concurrent.futures
import json
import os
import re
import select
import shutil
import socket
import threading
import time

import harness
import processes
import pytest
import rendering

from test_squid_conf import SQUID, Squid, squid  # noqa: F401  (a fixture)

pytestmark = pytest.mark.timeout(300)
LASTING = ["sh", "-c", "echo up; while :; do sleep 1000 & wait $!; done"]


def proxy_port(daemon, slug):
    """The host port of a bottle's proxy: what its relay dials."""
    forwards = daemon.get(f"/bottles/{slug}/plan").json()["port_forwards"]
    return next(f["host_port"] for f in forwards if f["sidecar"] == "pipelock")


def change(daemon, slug, allow, **egress):
    return daemon.request("PATCH", f"/bottles/{slug}", {"egress": {"allow": allow, **egress}})


def test_live(daemon):
    daemon.create({"slug": "live", "command": LASTING, "egress": {"allow": ["allowed.example"]}}, "?start=true&wait=running")
    for n in range(10):
        with harness.Clock() as clock:
            reply = change(daemon, "live", ["other.example:8080", f"n{n}.example"])
        assert reply.status == 200, reply
        print(clock.seconds)
