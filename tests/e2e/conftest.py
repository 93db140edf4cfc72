"""Fixtures of the end-to-end tests.

All of them run inside tests/netns/enter: pytest puts itself there before it collects, so that nothing
that a test or a bottle does can reach a real network. Canaries play that network for the whole run.
"""
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "netns")]

import canary  # noqa: E402
import fake_daemon  # noqa: E402
import harness  # noqa: E402
import kvm_host  # noqa: E402
import pace  # noqa: E402
import processes  # noqa: E402
import sanitizer  # noqa: E402
import template_pool  # noqa: E402

INSIDE = "BOTTLED_TESTS_INSIDE"


def pytest_configure(config):
    if os.environ.get(INSIDE) or config.option.collectonly:
        kvm_host.register(config)
        config.addinivalue_line("markers", "plain: compares what a sanitizer changes, as memory is; not run under one")
        return
    os.environ[INSIDE] = "1"
    config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
    sys.stdout.flush()
    enter = os.path.join(HERE, "..", "netns", "enter")
    os.execv(enter, [enter, *sys.orig_argv])


def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else 300 if os.environ.get(kvm_host.INSIDE) else 120
        item.add_marker(pytest.mark.timeout(pace.stretched(seconds)), append=False)


def pytest_generate_tests(metafunc):
    """Tests marked `backends` run once for each row of the table."""
    if next(metafunc.definition.iter_markers("backends"), None):
        marks = {"kvm": [pytest.mark.kvm]}
        rows = [pytest.param(row, id=name, marks=marks.get(row["accelerator"], [])) for name, row in harness.ROWS.items()]
        metafunc.fixturenames.insert(0, "row")
        metafunc.parametrize("row", rows, indirect=True, scope="module")


@pytest.fixture(scope="module")
def row(request):
    """The row of the table that daemons are started by: qemu by TCG where a module asks for nothing else."""
    harness.ROW = getattr(request, "param", harness.ROWS["qemu-tcg"])
    yield harness.ROW
    harness.ROW = harness.ROWS["qemu-tcg"]


@pytest.fixture(scope="session", autouse=True)
def tree():
    """At the end of the run no process may be left of all that it started, and no report of a sanitizer."""
    processes.become_subreaper()
    sanitizer.prepare(harness.BUILD)
    yield
    left = [process for process in processes.descendants() if not processes.wait_gone(process.pid, 5)]
    processes.end_processes(left)
    assert not left, f"processes left at the end of the run: {left}"
    reports = sanitizer.take(harness.BUILD)
    assert reports is None, f"a sanitizer reported after the last test:\n{reports}"


@pytest.fixture(scope="session", autouse=True)
def canaries(tree):
    with canary.Canaries() as birds:
        deaf = canary.self_test(birds)
        assert not deaf, f"canaries that do not hear: {deaf}"
        yield birds


@pytest.fixture(scope="session", autouse=True)
def templates(canaries):
    harness.Daemon.templates = template_pool.Pool(nested=bool(os.environ.get(kvm_host.INSIDE)))
    yield
    harness.Daemon.templates.close()
    harness.Daemon.templates = None


def finish(daemon):
    """Ends a daemon; a fault of its own, or what it left, fails the test with the daemon's log."""
    for slug in [bottle["slug"] for bottle in list_bottles(daemon)]:
        daemon.delete(f"/bottles/{slug}")
    fault = daemon.close()
    assert fault is None, f"{fault}\n{daemon.output.text()[-8000:]}"


def list_bottles(daemon):
    if not daemon.process or daemon.process.poll() is not None:
        return []
    found, after = [], ""
    while True:
        page = daemon.get(f"/bottles?limit=1000{after}").json()
        found += page["bottles"]
        if not page["next"]:
            return found
        after = f"&after={page['next']}"


@pytest.fixture
def daemon(row):
    """A bottled of this test's own, as the user that runs the tests."""
    one = harness.Daemon()
    try:
        one.start()
        yield one
    finally:
        finish(one)


@pytest.fixture(scope="module")
def shared(row):
    """One bottled for the tests of a module that do not mind each other."""
    one = harness.Daemon()
    try:
        one.start()
        yield one
    finally:
        finish(one)


@pytest.fixture
def new_daemon(row):
    """Makes daemons with settings of their own: new_daemon(config={…}, uid=…); not started yet."""
    made = []

    def make(**options):
        made.append(harness.Daemon(**options))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            finish(one)


@pytest.fixture
def fake(new_daemon):
    """A daemon whose supervisors are no supervisors (fake_shim.py)."""
    daemon = new_daemon()
    with fake_daemon.installed(daemon) as one:
        daemon.start()
        yield one


@pytest.fixture(scope="module")
def new_shared(row):
    """Starts daemons with settings of their own for the tests of a module."""
    made = []

    def make(**options):
        made.append(harness.Daemon(**options))
        return made[-1].start()

    try:
        yield make
    finally:
        for one in made:
            finish(one)


@pytest.fixture(params=harness.USERS)
def any_user_daemon(request, row):
    """As the tests' user, and, when that is root, as an ordinary user as well."""
    one = harness.Daemon(uid=harness.USERS[request.param])
    try:
        one.start()
        yield one
    finally:
        finish(one)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of its daemons' logs."""
    if call.excinfo and not call.excinfo.errisinstance(pytest.skip.Exception):
        for one in list(harness.Daemon.living):
            if one.output:
                item.add_report_section(call.when, f"bottled in {one.base}", "\n".join(one.output.lines[-40:]))
    yield
