"""Tests marked `kvm` need a KVM that works. Where a guest boots on this machine's own, they run as all others.
Elsewhere they run inside tests/kvmhost, before the first of the others, in nested hosts of one CPU, on half of this
machine's CPUs (a second one makes a nested host no faster, and other tests run beside); what became of each there is
told here as if it had run here. With CI set, none of them may be skipped.
"""
import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import harness
import pytest

RUN = harness.ROOT / "tests" / "kvmhost" / "run"
INSIDE = "BOTTLED_KVM_HOST"  # set in the nested host: the file that takes the reports
BASE_SECONDS, SECONDS_EACH, SECONDS_MAX = 120, 60, 1440  # the host is killed after that, for so many tests
HOST_FAILED = 125  # tests/kvmhost/run's word for it
HOSTS_AT_ONCE = min(4, max(1, len(os.sched_getaffinity(0)) // 2))
# KVM emulated by TCG fails now and then: a host's kernel hangs, or a guest resets while it boots, for which bottled has
# these words. The tests that are left go on in another host, and so does a test of such a guest, if there are few.
TRIES = 4
RESET = "the VM ended before its command did (exit status 0)"
RESETS_MAX = 2


def identity(node):
    """Of one test in both runs, whatever folder each takes for its root."""
    path, _, rest = node.partition("::")
    return f"{os.path.basename(path)}::{rest}"


def shares(items, count):
    """The tests in so many lists, of about equal length; those that share a module's fixtures stay together."""
    groups = collections.defaultdict(list)
    for item in items:
        groups[item.path, str(item.callspec.params.get("row") if hasattr(item, "callspec") else "")].append(item)
    lists = [[] for _ in range(count)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(lists, key=len).extend(group)
    return [one for one in lists if one]


class Inside:
    """In the nested host: writes down each report."""

    def __init__(self, config):
        self.config = config
        self.file = open(os.environ[INSIDE], "a")

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        print(json.dumps(data), file=self.file, flush=True)

    def pytest_unconfigure(self):
        self.file.close()


class Outside:
    def __init__(self, config):
        self.config = config
        self.reports = None  # {identity: reports} once the nested host has run
        self.why_none = ""

    def say(self, words):
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter:
            reporter.ensure_newline()
            reporter.write_line(f"kvm: {words}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        items = [item for item in session.items if item.get_closest_marker("kvm")]
        if not items or self.config.option.collectonly or session.testsfailed:
            return
        works, words = harness.kvm_works_here()
        self.say(words)
        if not works:
            self.run_in_hosts(items)

    def run_in_hosts(self, items):
        self.reports = {}
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(self.run_share, shares(items, HOSTS_AT_ONCE)))
        self.say(f"{len(self.reports)} tests came back in {time.monotonic() - began:.0f} s")

    def run_share(self, items):
        left, once_more = items, set()
        for _ in range(TRIES):
            status = self.run_in_host(left)
            if status == HOST_FAILED:
                self.say(f"a nested host failed:\n{self.why_none}")
            resets = [item for item in left if item not in once_more and self.guest_was_reset(item)]
            for item in resets if len(resets) <= RESETS_MAX else []:
                self.say(f"{item.nodeid} failed beside a guest that was reset while it booted: once more, in another host")
                del self.reports[identity(item.nodeid)]
                once_more.add(item)
            left = [item for item in left if not self.ended(item)]
            if not left or not (status == HOST_FAILED or once_more.intersection(left)):
                break

    def guest_was_reset(self, item):
        reports = self.reports.get(identity(item.nodeid), [])
        return any(report.failed and RESET in repr((report.longreprtext, report.sections)) for report in reports)

    def ended(self, item):
        return any(report.when == "teardown" for report in self.reports.get(identity(item.nodeid), []))

    def run_in_host(self, items):
        tests = [f"{item.path}::{item.nodeid.split('::', 1)[1]}" for item in items]
        seconds = min(BASE_SECONDS + SECONDS_EACH * len(tests), SECONDS_MAX)
        self.say(f"{len(tests)} tests in a nested host (at most {seconds} s)")
        with tempfile.TemporaryDirectory(prefix="kvm") as folder:
            reports = pathlib.Path(folder) / "reports"
            argv = [RUN, "--cpus", "1", "--timeout", str(seconds), "--out", folder]
            argv += ["env", "-u", "BOTTLED_TESTS_INSIDE", "-u", "OWN_TMP", f"{INSIDE}={reports}"]
            argv += [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *tests]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            lines = reports.read_text().splitlines() if reports.exists() else []
        words = done.stdout.decode(errors="replace")[-4000:]
        self.why_none = f"the nested host gave no result (status {done.returncode}):\n{words}"
        found = {}
        for line in lines:
            report = self.config.hook.pytest_report_from_serializable(config=self.config, data=json.loads(line))
            found.setdefault(identity(report.nodeid), []).append(report)
        self.reports.update(found)  # of a test that a dying host broke off, the next host's are taken
        return done.returncode

    def reports_of(self, item):
        reports = self.reports.get(identity(item.nodeid), [])
        for report in reports:
            if report.skipped and os.environ.get("CI"):
                report.outcome, report.longrepr = "failed", f"skipped, and CI is set: {report.longrepr}"
        if not reports:
            reports = [
                pytest.TestReport(
                    nodeid=item.nodeid, location=item.location, keywords={}, outcome="failed",
                    longrepr=self.why_none, when="call",
                )
            ]  # fmt: skip
        return reports

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        if self.reports is None or not item.get_closest_marker("kvm"):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.reports_of(item):
            report.nodeid = item.nodeid
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def register(config):
    config.addinivalue_line("markers", "kvm: needs a KVM that works; runs in a nested host where there is none")
    config.addinivalue_line("markers", "backends: runs once for each row of harness.ROWS")
    plugin = Inside if os.environ.get(INSIDE) else Outside
    config.pluginmanager.register(plugin(config), "bottled-kvm")
