"""The network policy's file: the mission's lines byte for byte, and the very file that gvproxy was started with."""
import contextlib
import itertools
import pathlib
import socket

MISSION = b"""\
subnet: "192.168.50.0/24"
gateway: "192.168.50.1"
dns:
  - zone: "."
    records:
      - name: "proxy.internal"
        ip: "192.168.50.1"
port_forwards:
  - gateway_port: 8888
    host: "127.0.0.1"
    host_port: 51001
"""
# What a port range of three has besides 51001; in use while the plan is made.
OTHERS = (51002, 51003)
PORTS = {"host_ports": "51001-51003"}
PLAN = {"command": ["sh", "-c", "echo up; sleep 1000 & wait"], "egress": {"allow": ["allowed.example"]}}


@contextlib.contextmanager
def only_51001_is_free():
    with contextlib.ExitStack() as stack:
        for port in OTHERS:
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", port))
            taken.listen()
        yield


def plan_of_subnet_50(daemon):
    """The resolved plan of the first slug that hashes to 192.168.50.0/24."""
    for number in itertools.count():
        assert number < 5000, "no slug of 5,000 hashes to subnet 50"
        reply = daemon.post("/plans", {**PLAN, "slug": f"example-{number}"})
        assert reply.status == 200, reply
        if reply.json()["subnet"] == "192.168.50.0/24":
            return reply.json()


def file_of(plan, name):
    return next(file for file in plan["files"] if file["name"] == name)["content"].encode()


def test_mission_example(new_daemon):
    daemon = new_daemon(config=PORTS).start()
    before = daemon.footprint()
    with only_51001_is_free():
        plan = plan_of_subnet_50(daemon)
    assert plan["port_forwards"] == [
        {"sidecar": "pipelock", "gateway_port": 8888, "host": "127.0.0.1", "host_port": 51001}
    ]
    assert plan["dns"] == [{"zone": ".", "records": [{"name": "proxy.internal", "ip": "192.168.50.1"}]}]
    assert MISSION in file_of(plan, "gvproxy.yaml")
    assert daemon.footprint() == before, "a dry run wrote something"


def test_running_gvproxy_has_that_file(new_daemon):
    daemon = new_daemon(config=PORTS).start()
    with only_51001_is_free():
        plan = plan_of_subnet_50(daemon)
        slug = plan["slug"]
        daemon.create({**PLAN, "slug": slug})
    wanted = file_of(plan, "gvproxy.yaml")
    assert MISSION in wanted
    daemon.post(f"/bottles/{slug}/start?wait=running&timeout=30s")
    (gvproxy,) = [p for p in daemon.processes_named("gvproxy") if p.argv[:1] == ["/gvproxy"]]
    given = gvproxy.argv[gvproxy.argv.index("-config") + 1]
    assert pathlib.Path(f"/proc/{gvproxy.pid}/root{given}").read_bytes() == wanted
    assert (pathlib.Path(plan["stage_dir"]) / "gvproxy.yaml").read_bytes() == wanted
    raw = daemon.get(f"/bottles/{slug}/plan/files/gvproxy.yaml")
    assert (raw.status, raw.body) == (200, wanted)


def test_no_text_of_the_client(shared):
    """What a client chose is in none of its lines, and the words of other allow lists are in no file at all."""
    slug = "client-chose-this"
    made = {**PLAN, "slug": slug, "env": {"MARK": "client-env"}, "labels": {"mark": "client-label"}}
    files = shared.post("/plans", made).json()["files"]
    assert {file["name"] for file in files} >= {"gvproxy.yaml"}
    for file in files:
        for word in ("allow-cidr", "allow-host", "allow_cidr", "allow_host", "TSI", "tsi"):
            assert word not in file["content"], file["name"]
    text = next(file["content"] for file in files if file["name"] == "gvproxy.yaml")
    assert "client" not in text and "allowed.example" not in text
