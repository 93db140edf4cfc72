"""Fixtures of the attacks: those of the end-to-end tests (the closed network, daemons, backends), and the line a row.

Each finished test tells its row by user properties, which also come back from a nested test host; the end of the run
prints them, a line a row, and the numbers.
"""
import importlib.util
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
E2E = os.path.join(HERE, "..", "e2e")
sys.path[:0] = [HERE, E2E, os.path.join(HERE, "..", "netns")]

_spec = importlib.util.spec_from_file_location("e2e_conftest", os.path.join(E2E, "conftest.py"))
_e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_e2e)
globals().update({name: value for name, value in vars(_e2e).items() if name.startswith("pytest_") or hasattr(value, "_pytestfixturefunction")
                  or type(value).__name__ == "FixtureFunctionDefinition"})  # fmt: skip

# As whom bottled runs on a backend, where not as each user of harness.USERS in turn. What differs by the user is the
# cell and its jails, which are the same on all; what differs by the backend is the VM.
WHO = {"qemu-kvm": "same user", "smolmachines-kvm": "ordinary user"}


def pytest_collection_modifyitems(config, items):
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))  # the first of a module waits for all of its guest's rows
    left = [item for item in items if not is_tried(item)]
    items[:] = [item for item in items if is_tried(item)]
    config.hook.pytest_deselected(items=left)


def is_tried(item):
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if params.get("row") not in _e2e.harness.ROWS.values():
        return True
    backend = _e2e.harness.name_of(params["row"])
    if backend in WHO and params.get("who", WHO[backend]) != WHO[backend]:
        return False
    return "attack" not in params or not hasattr(params["attack"], "is_tried_on") or params["attack"].is_tried_on(backend)


LINES = []  # (backend and user, name, jailed, control, outcome)


def pytest_runtest_logreport(report):
    properties = dict(report.user_properties)
    if report.when == "call" and "attack" in properties:
        LINES.append((*properties["attack"], report.outcome))


def pytest_terminal_summary(terminalreporter):
    if not LINES:
        return
    terminalreporter.section("attacks: in the cell | the control")
    for where, name, jailed, control, outcome in LINES:
        terminalreporter.write_line(f"{'ok   ' if outcome == 'passed' else 'WRONG'} {where:<24} {name:<26} {jailed:<72} | {control}")
    rows = {name for _, name, _, _, _ in LINES}
    wrong = sum(outcome != "passed" for *_, outcome in LINES)
    places = sorted({where for where, *_ in LINES})
    terminalreporter.write_line(f"attack: {len(LINES) - wrong} passed, {wrong} failed: {len(rows)} rows on {', '.join(places)}")
