"""5,000 bottles: no two share a subnet, a MAC or a port, over restarts and over names that come and go."""
import http.client
import json
import threading

import harness
import pytest

COUNT = 5000
CLIENTS = 8


def on_many_connections(daemon, calls):
    """Runs (method, path, body) calls on a few kept-alive connections; the JSON answers in order."""
    answers, faults = [None] * len(calls), []

    def client(first):
        connection = harness.UnixConnection(str(daemon.socket), 60)
        try:
            for index in range(first, len(calls), CLIENTS):
                method, path, body = calls[index]
                text = json.dumps(body) if body is not None else None
                headers = {"Content-Type": "application/json"} if text else {}
                connection.request(method, path, body=text, headers=headers)
                reply = harness.Reply(connection.getresponse())
                assert reply.status in (200, 201), (method, path, reply)
                answers[index] = reply.json()
        except (AssertionError, OSError, http.client.HTTPException) as fault:
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]
    return answers


def make(daemon, slugs):
    plan = {"command": ["true"]}
    on_many_connections(daemon, [("POST", "/bottles", {**plan, "slug": slug}) for slug in slugs])


def plans_of(daemon, slugs):
    found = on_many_connections(daemon, [("GET", f"/bottles/{slug}/plan", None) for slug in slugs])
    return {plan["slug"]: plan for plan in found}


def allocation(plan):
    return {name: plan[name] for name in ("subnet", "gateway", "guest_ip", "mac", "port_forwards", "stage_dir")}


def check_distinct(plans):
    assert len(plans) == COUNT
    every = list(plans.values())
    for what, values in {
        "subnet": [plan["subnet"] for plan in every],
        "gateway": [plan["gateway"] for plan in every],
        "guest_ip": [plan["guest_ip"] for plan in every],
        "mac": [plan["mac"] for plan in every],
        "stage_dir": [plan["stage_dir"] for plan in every],
        "host_port": [forward["host_port"] for plan in every for forward in plan["port_forwards"]],
    }.items():
        assert len(values) >= COUNT
        assert len(set(values)) == len(values), f"two bottles share a {what}"
    assert not [plan for plan in every if plan["subnet"].startswith("192.168.17.")]
    assert all(plan["mac"] == plan["mac"].lower() for plan in every)


@pytest.mark.timeout(400)
def test_5000_bottles(daemon):
    slugs = [f"b{number}" for number in range(COUNT)]
    before = daemon.footprint()
    with harness.Clock() as making:
        make(daemon, slugs)
    plans = plans_of(daemon, slugs)
    check_distinct(plans)
    tenth = slugs[::10]
    for round_ in range(2):
        on_many_connections(daemon, [("DELETE", f"/bottles/{slug}", None) for slug in tenth])
        with harness.Clock() as restarting:
            daemon.restart() if round_ else (daemon.kill(), daemon.start())
        assert len(plans_of(daemon, slugs[1:3])) == 2
        make(daemon, tenth)
        now = plans_of(daemon, slugs)
        check_distinct(now)
        for slug in slugs:
            if slug not in tenth:
                assert allocation(now[slug]) == allocation(plans[slug]), "a restart changed a plan"
        plans = now
        print(f"restart with {COUNT} bottles: {restarting.seconds:.1f} s")
    print(f"{COUNT} bottles prepared in {making.seconds:.1f} s: {COUNT / making.seconds:.0f} a second")
    with harness.Clock() as removing:
        on_many_connections(daemon, [("DELETE", f"/bottles/{slug}", None) for slug in slugs])
    print(f"{COUNT} bottles deleted in {removing.seconds:.1f} s")
    rows = daemon.footprint()["rows"]
    assert daemon.get("/bottles").json()["bottles"] == []
    assert rows.get("bottles", 0) == 0, rows
    assert daemon.footprint()["state files"] == before["state files"]
