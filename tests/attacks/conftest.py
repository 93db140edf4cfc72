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
