"""The one promise: a bottle reaches its sidecar at proxy.internal and nothing else.

One guest tries all of tests/netns/probes.py; each line of what it tells is one test. The canaries must
have heard nothing, and the last tests show that they, and the probes, would have told: the same guest on a
gvproxy that runs outside a cell is heard. The backends are attacked one and all by tests/attacks.
"""
import contextlib
import os
import pathlib
import shutil
import sqlite3
import tempfile

import canary
import control
import harness
import probes
import pytest


@pytest.fixture(scope="module")
def tried(row, canaries):
    """{"told": {probe: what came back}, "hits": canaries that heard, "visits": of the allowed server}"""
    daemon = harness.Daemon(config={"host_ports": probes.HOST_PORTS})
    try:
        daemon.start()
        hits, visits = len(canaries.hits), len(canaries.visits)
        bottle = daemon.run(probes.plan(slug="escape"))
        assert (bottle["state"], bottle["exit_code"]) == ("exited", 0), bottle
        told = {
            "told": probes.results(daemon.log("escape")),
            "hits": canaries.hits[hits:],
            "visits": canaries.visits[visits:],
            "plan": daemon.get("/bottles/escape/plan").json(),
        }
        daemon.remove("escape")
    finally:
        fault = daemon.close()
    assert fault is None, fault
    return told


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.id)
def test_probe(tried, probe):
    as_it_must, words = probe.judge(tried["told"].get(probe.id))
    assert as_it_must, f"{probe.tried}: {words}"


def test_no_canary_heard(tried):
    assert tried["hits"] == []


def test_the_allowed_server_was_visited(tried):
    """By the three probes that may, and with no other address than its own two."""
    assert len(tried["visits"]) == 3, tried["visits"]
    assert {visit["address"] for visit in tried["visits"]} == {"203.0.113.10", "203.0.113.11"}


def test_proxy_port_was_the_one_that_was_probed(tried):
    assert tried["plan"]["port_forwards"][0]["host_port"] == 51001


def test_a_bottle_beyond_the_first_ports_and_subnets(new_daemon, canaries):
    """Its sidecar listens on another loopback address, and its subnet is a /28: the promise is the same."""
    daemon = new_daemon(config={"host_ports": probes.HOST_PORTS, "host_addresses": 2}).start()
    first, last = (int(port) for port in probes.HOST_PORTS.split("-"))
    for port in range(first, last + 1):
        daemon.create({"command": ["true"], "slug": f"b{port}"})
    daemon.create(probes.plan(slug="beyond"))
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "bottled.db")) as database, database:
        assert database.execute("UPDATE bottles SET subnet = 40190 WHERE slug = 'beyond'").rowcount == 1
    shutil.rmtree(daemon.state_dir / "bottles" / "beyond")  # it is of the user that goes with the subnet
    daemon.start()
    plan = daemon.get("/bottles/beyond/plan").json()
    assert (plan["subnet"], plan["gateway"], plan["guest_ip"]) == ("10.1.192.0/28", "10.1.192.1", "10.1.192.2")
    assert plan["port_forwards"][0]["host"] == "127.0.1.1"
    assert plan["port_forwards"][0]["host_port"] in range(first, last + 1)
    hits, visits = len(canaries.hits), len(canaries.visits)
    assert daemon.post("/bottles/beyond/start?wait=exited&timeout=120s").json()["exit_code"] == 0
    told = probes.results(daemon.log("beyond"))
    judged = {probe.id: probe.judge(told.get(probe.id)) for probe in probes.PROBES}
    assert not {name: words for name, (as_it_must, words) in judged.items() if not as_it_must}
    assert canaries.hits[hits:] == []
    assert len(canaries.visits) - visits == 3
    ports = [item["name"] for item in daemon.get("/bottles/beyond/cleanup-plan").json()["items"] if item["kind"] == "port"]
    assert ports == [f"127.0.1.1:{plan['port_forwards'][0]['host_port']}"]


# egress.allow: [(CONNECT to, status of the answer)]
RULES = {
    ("other.example:8080", "loopback.example:2222", "lan.example"): [
        ("other.example:8080", "200"),
        ("other.example:443", "403"),
        ("loopback.example:2222", "403"),  # permitted names that lead to the host or its network
        ("lan.example:80", "403"),
    ],
    ("*.example",): [
        ("allowed.example:443", "200"),
        ("lan.example:80", "403"),
        ("metadata.example:80", "403"),
        ("loopback.example:443", "403"),
    ],
    ("ALLOWED.example.",): [
        ("allowed.example:443", "200"),
        ("allowed.example.:443", "200"),
        ("notallowed.example:443", "403"),
        ("203.0.113.10:443", "403"),
    ],
    (): [("allowed.example:443", "403")],
}


@pytest.mark.parametrize("allow", RULES, ids=lambda allow: ",".join(allow) or "none")
def test_proxy_rules(canaries, shared, allow):
    """Rules by host, suffix and port; a permitted name that leads to a private address is refused all the same."""
    rows = RULES[allow]
    script = probes.guest_script([(n, f"tunnel {target}") for n, (target, _) in enumerate(rows)])
    hits = len(canaries.hits)
    bottle = shared.run({"command": ["sh", "-c", script], "egress": {"allow": list(allow)}})
    told = probes.results(shared.log(bottle["slug"]))
    came_back = [(target, told.get(str(n), "").split(" ")[1:2]) for n, (target, _) in enumerate(rows)]
    assert came_back == [(target, [status]) for target, status in rows], told
    assert canaries.hits[hits:] == []


def test_two_bottles_do_not_reach_each_other(new_daemon):
    """Neither the other's guest nor the other's proxy."""
    daemon = new_daemon().start()
    serve = "mkdir /tmp/w; echo secret >/tmp/w/index.html; httpd -f -p 80 -h /tmp/w & echo up; wait"
    other = daemon.create({"command": ["sh", "-c", serve], "slug": "other"}, "?start=true&wait=running")
    port = daemon.get("/bottles/other/plan").json()["port_forwards"][0]["host_port"]
    gateway = other["guest_ip"].rsplit(".", 1)[0] + ".1"
    tries = [(other["guest_ip"], 80), (gateway, 8888), (gateway, 80), ("$gw", port)]
    script = probes.guest_script([(n, f"tcp {ip} {port}") for n, (ip, port) in enumerate(tries)])
    bottle = daemon.run({"command": ["sh", "-c", script]})
    told = probes.results(daemon.log(bottle["slug"]))
    assert len(told) == len(tries), told
    for n, target in enumerate(tries):
        assert "refused" in told[str(n)] or "unreachable" in told[str(n)], (target, told[str(n)])


def test_gateway_api_changes_nothing(daemon):
    """gvproxy answers the guest at gateway:80, without a password. In its cell the worst requests come to nothing."""
    attacks = [
        ("unix", "/run/bottle/api.sock", "tcp://$net.2:7"),
        ("unix", "/run/bottle/vm.sock", "tcp://$net.2:7"),
        ("unix", "/run/bottle/net.sock", "tcp://$net.2:7"),
        ("unix", "/gvproxy.yaml", "tcp://$net.2:7"),
        ("tcp", "127.0.0.1:8888", "$net.2:7"),
    ]
    tries = [(n, f"expose {' '.join(attack)}") for n, attack in enumerate(attacks)]
    script = probes.guest_script([*tries, ("after", "ask 'GET http://allowed.example/'")]) + "sleep 1000 & wait\n"
    daemon.create(
        {"slug": "pwn", "command": ["sh", "-c", script], "egress": {"allow": ["allowed.example"]}},
        "?start=true&wait=running",
    )
    before = daemon.footprint()
    log = control.follow(daemon, "pwn", b"done\n")
    told = probes.results(log)
    for n, attack in enumerate(attacks):
        assert " 500 " in told[str(n)], (attack, told[str(n)])
    assert "hello from the allowed server" in told["after"]
    after = daemon.footprint()
    for what in ("sockets", "ports", "processes"):
        assert after[what] == before[what], what


def status_of(pid, field):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(f"{field}:"))


@pytest.mark.backends
def test_the_jails_from_outside(daemon):
    """What the kernel says about the running programs: no network but lo, no rights, one user for the bottle."""
    daemon.create({"slug": "jailed", "command": ["sleep", "1000"]}, "?start=true&wait=running")
    ours = os.readlink("/proc/self/ns/net")
    vmm = daemon.row["vmm"]
    inside = {name: daemon.processes_named(name)[-1] for name in ("gvproxy", vmm, "squid")}
    for name, process in inside.items():
        assert status_of(process.pid, "CapEff") == "0000000000000000", name
        assert status_of(process.pid, "NoNewPrivs") == "1", name
        for namespace in ("user", "pid", "mnt", "ipc"):
            link = f"ns/{namespace}"
            assert os.readlink(f"/proc/{process.pid}/{link}") != os.readlink(f"/proc/self/{link}"), (name, link)
    for name in ("gvproxy", vmm):
        assert status_of(inside[name].pid, "Seccomp") == "2", name
        assert os.readlink(f"/proc/{inside[name].pid}/ns/net") != ours, name
        devices = pathlib.Path(f"/proc/{inside[name].pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"], name
        visible = set(os.listdir(f"/proc/{inside[name].pid}/root"))
        assert not visible & {"home", "root", "var", "srv", "boot"}, (name, visible)
    users = {status_of(process.pid, "Uid").split()[0] for process in daemon.own_processes()}
    if os.getuid() == 0:
        assert len(users) == 1 and int(users.pop()) >= 65536, "the bottle's own user"
    else:
        assert users == {str(os.getuid())}


# --- The negative control ----------------------------------------------------------------------


def test_canaries_hear(canaries):
    assert canary.self_test(canaries) == []


# What stands between these and the world is the cell alone. Not among them: the metadata service, from which
# gvproxy keeps its guests by itself.
CELL_ONLY = {"internet-443", "lan-10", "lan-192", "lan-100", "dns-tcp", "gateway-22", "gateway-2222", "gateway-8889"}
CELL_ONLY |= {"udp-internet", "udp-gateway", "dns-txt", "dns-zone", "dns-other"}


def test_without_the_cell_the_probes_get_out(canaries):
    """The same guest, the same gvproxy.yaml, no cell: the probes reach what they must not reach, and are heard."""
    hits = len(canaries.hits)
    tried = [probe for probe in probes.PROBES if probe.id in CELL_ONLY]
    told = probes.results(control.run_unconfined(probes.guest_script(tried)))
    kept_in = {probe.id: told.get(probe.id) for probe in tried if probe.judge(told.get(probe.id))[0]}
    assert len(tried) == len(CELL_ONLY) and not kept_in
    assert all(probe.id in told for probe in tried), told
    places = {hit["place"] for hit in canaries.hits[hits:]}
    assert {"internet", "LAN", "host loopback", "host's resolver"} <= places, places


# --- A cell that is none ------------------------------------------------------------------------

OPEN = harness.BUILD / "open-cell"


def libexec(folder, **programs):
    """A libexec_dir with the built programs, but `programs` in the place of those of their names."""
    for name in ("bottle-shim", "bottle-cell", "bottle-krun", "guest", "openapi.yaml"):
        (folder / name).symlink_to(programs.get(name.replace("-", "_"), harness.BUILD / name))
    return str(folder)


@pytest.fixture
def folder(new_daemon):
    made = pathlib.Path(tempfile.mkdtemp(prefix="bx", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_gvproxy_does_not_run_in_a_cell_with_a_way_out(new_daemon, folder):
    """bottle-cell looks for itself: a shim that forgot the cell's network gets no gvproxy."""
    config = {"libexec_dir": libexec(folder, bottle_shim=OPEN / "bottle-shim")}
    daemon = new_daemon(config=config).start()
    daemon.create({"slug": "holed", "command": ["sleep", "1000"]}, "?start=true", status=201)
    bottle = daemon.wait("holed", "failed")
    assert bottle["state"] == "failed", bottle
    assert "this is no cell, gvproxy does not run here: a route leads to everywhere/0" in bottle["reason"]
    assert not daemon.processes_named("gvproxy")


def test_an_open_cell_is_heard(new_daemon, canaries):
    """The build that only tests have, the control of every attack: all else is as it always is."""
    hits = len(canaries.hits)
    daemon = new_daemon(config={"libexec_dir": str(OPEN)}).start()
    tried = [probe for probe in probes.PROBES if probe.id in CELL_ONLY]
    daemon.run({"slug": "open", "command": ["sh", "-c", probes.guest_script(tried)]})
    told = probes.results(daemon.log("open"))
    assert len(told) == len(tried), told
    assert {probe.id: told[probe.id] for probe in tried if probe.judge(told[probe.id])[0]} == {}
    assert {"internet", "LAN", "host loopback", "host's resolver"} <= {hit["place"] for hit in canaries.hits[hits:]}
