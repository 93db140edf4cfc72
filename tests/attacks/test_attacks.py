"""Every row of the attacks, against a bottle, and against its control (table.py says what those are).

One guest tries all of the rows, another one, whose cell is switched off, those that have it for their control.
"""
import contextlib
import json
import os

import baits
import canary
import control
import ear as ears
import harness
import pytest
import rows_network
import rows_proxy
import rows_services
import table

# The quick ones first. The scans say which ports there are, so they come before the API may open some.
ROWS = rows_network.ROWS + rows_network.SCANS + rows_services.ROWS + rows_proxy.ROWS
GUEST_DIR = harness.BUILD / "attack"
OPEN_CELL = harness.BUILD / "open-cell"
HOST_PORTS = range(51001, 51004)
SERVERS = canary.WEB | {("203.0.113.10", 2222)}  # the second is rebind.example, as long as it stays there
SLUG = "attack"
USERS = harness.USERS
GUEST_SILENCE = 120  # seconds; the scan of all ports takes some twenty of a quiet machine


def rows_on(row):
    return [one for one in ROWS if one.is_tried_on(harness.name_of(row))]


def plan(allow, command):
    return {"slug": SLUG, "command": command, "egress": {"allow": allow}, "resources": {"memory_mib": 256}}


def run_guest(daemon, allow, world_of, commands_of):
    """A bottle that runs commands; ({row: what it told}, its world). It still runs afterwards."""
    resolved = daemon.post("/plans", plan(allow, ["true"]))
    assert resolved.status == 200, resolved
    world = world_of(resolved.json())
    script = "\n".join([*commands_of(world), "echo done", "exec sleep 100000"])
    daemon.create(plan(allow, ["sh", "-c", script]), "?start=true&wait=running&timeout=90s")
    world.baits.remember(daemon.run_dir)
    log = control.follow(daemon, SLUG, b"done\n", timeout=GUEST_SILENCE)
    lines = [json.loads(line, strict=False) for line in log.splitlines() if line.startswith('{"row"')]
    world.console = lambda: daemon.log(SLUG, "console")
    return {line["row"]: line for line in lines}, world


@contextlib.contextmanager
def attacked(uid, ear, allow, commands_of, **config):
    victims = baits.Baits()
    settings = {"guest_dir": str(GUEST_DIR), "host_ports": f"{HOST_PORTS[0]}-{HOST_PORTS[-1]}", **config}
    daemon = harness.Daemon(uid=uid, config=settings)
    try:
        daemon.start()
        heard = ear.begin()
        told, world = run_guest(daemon, allow, lambda made: table.World(made, victims, daemon.run_dir, ear), commands_of)
        ear.settle()
        world.heard = heard
        yield told, heard, world
        bottle = daemon.bottle(SLUG)
        assert bottle["state"] == "running", bottle
        daemon.remove(SLUG)
    finally:
        fault = daemon.close()
        victims.close()
    assert fault is None, fault


@pytest.fixture(scope="module")
def ear(canaries):
    with ears.Ear(HOST_PORTS, SERVERS, {baits.REBINDING}) as one:
        yield one


@pytest.fixture(scope="module", params=USERS)
def who(request):
    return request.param


@pytest.fixture(scope="module")
def jailed(row, who, ear):
    """{row: (as it must be, words)} of the bottle in its cell, and what else was heard."""
    rows = rows_on(row)
    commands = lambda world: [one.command(world) for one in rows]  # noqa: E731
    with attacked(USERS[who], ear, rows_proxy.ALLOW, commands) as (told, heard, world):
        verdicts = {one.name: one.judge(told.get(one.name), heard, world) for one in rows}
        rest = {str(packet): count for packet, count in heard.counts.items()}
        return {"rows": verdicts, "heard": rest, "harm": world.baits.unharmed(), "visitors": world.baits.visitors()}


@pytest.fixture(scope="module")
def controls(row, who, ear):
    """{row: (did the control get through, words)}"""
    rows = rows_on(row)

    def commands(world):
        made = [one.control.command(one, world) for one in rows]
        return [command for command in made if command]

    with attacked(USERS[who], ear, rows_proxy.PERMIT, commands, libexec_dir=str(OPEN_CELL)) as (told, heard, world):
        for one in rows:
            one.control.prepare(one, world)
        ear.settle()
        return {one.name: one.control.judge(one, told.get(one.name), heard, world) for one in rows}


def test_names_are_unique():
    assert len({one.name for one in ROWS}) == len(ROWS) >= 60


@pytest.mark.backends
@pytest.mark.parametrize("attack", ROWS, ids=lambda attack: attack.name)
def test_attack(request, row, who, jailed, controls, attack, record_property):
    inside, words = jailed["rows"][attack.name]
    outside, control_words = controls[attack.name]
    record_property("attack", (f"{harness.name_of(row)}, {who}", attack.name, words, control_words))
    assert inside, f"{attack.sends}: {words}"
    assert outside, f"{attack.sends}: the control: {control_words}"


@pytest.mark.backends
def test_nothing_else_was_heard(jailed):
    """No packet at all on the host's network but those between the relay, the proxy and the allowed servers."""
    assert jailed["heard"] == {}


@pytest.mark.backends
def test_the_baits_were_left_alone(jailed):
    assert jailed["harm"] is None and jailed["visitors"] == 0
