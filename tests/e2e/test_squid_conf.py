"""squid.conf, by the real squid: what each rule lets through, in a jail like the one that bottles' proxies get.

The network is the closed one of tests/netns/enter: allowed.example is 203.0.113.10, names that are in no hosts
file are 203.0.113.99 by the canaries' name server, and some names point at private addresses.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

import harness
import processes
import rendering

SQUID = shutil.which("squid", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
OTHER_USER = harness.OTHER_USER
CONFIG = "/etc/bottle/squid.conf"
JAIL = [
    "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session",
    "--clearenv", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
    "--symlink", "usr/sbin", "/sbin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
    "--ro-bind", "/etc/hosts", "/etc/hosts", "--ro-bind", "/etc/resolv.conf", "/etc/resolv.conf",
    "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--dir", "/run/proxy", "--chdir", "/run/proxy",
]  # fmt: skip

RULES = [
    {"host": "allowed.example"},
    {"host": "suffix.example", "suffix": True},
    {"host": "port.example", "port": 8080},
    {"host": "203.0.113.20"},
    {"host": "lan.example"},
    {"host": "metadata.example"},
    {"host": "loopback.example"},
    {"host": "10.0.0.7"},
    {"host": "127.0.0.1"},
]

# Request line's method and target → whether a rule lets it through.
VERDICTS = [
    ("GET http://allowed.example/", True),
    ("GET http://ALLOWED.example./", True),
    ("CONNECT allowed.example:443", True),
    ("CONNECT allowed.example:80", True),
    ("CONNECT a.suffix.example:443", True),
    ("CONNECT b.a.suffix.example:443", True),
    ("CONNECT port.example:8080", True),
    ("CONNECT 203.0.113.20:443", True),
    ("GET http://denied.example/", False),
    ("GET http://other.example:8080/", False),
    ("GET http://allowed.example:8080/", False),
    ("GET http://suffix.example/", False),
    ("GET http://Suffix.Example./", False),
    ("GET http://notsuffix.example/", False),
    ("GET http://allowed.example.evil.example/", False),
    ("GET http://allowed.example@203.0.113.21/", False),
    ("GET http://allowed.example%00.evil.example/", False),
    ("GET http://203.0.113.10/", False),
    ("GET http://[::1]/", False),
    ("GET http://[::ffff:127.0.0.1]/", False),
    ("GET http://localhost/", False),
    ("GET http://127.0.0.1:PORT/squid-internal-mgr/info", False),
    ("GET http://proxy.internal:PORT/squid-internal-mgr/menu", False),
    ("GET cache_object://127.0.0.1/info", False),
    ("GET cache_object://allowed.example/info", False),
    ("GET ftp://allowed.example:443/", False),
    ("GET https://allowed.example/", False),
    ("CONNECT denied.example:443", False),
    ("CONNECT allowed.example:22", False),
    ("CONNECT suffix.example:443", False),
    ("CONNECT port.example:443", False),
    ("CONNECT 203.0.113.10:443", False),
    ("CONNECT 203.0.113.21:443", False),
    ("CONNECT 203.0.113.20:22", False),
    ("CONNECT [2001:db8::1]:443", False),
    # A rule allows these by name or literal, but not the private address behind it.
    ("CONNECT lan.example:443", False),
    ("CONNECT metadata.example:80", False),
    ("GET http://metadata.example/", False),
    ("CONNECT loopback.example:443", False),
    ("CONNECT 10.0.0.7:443", False),
    ("CONNECT 127.0.0.1:443", False),
]


class Squid:
    """The real program, running as an ordinary user. `words`: its stderr; `requests()`: its log so far.

    `edit` may change the rendered text before squid gets it."""

    def __init__(self, rules, edit=lambda text: text):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.text = edit(rendering.render("squid.conf", {"proxy": {"port": self.port, "rules": rules}}))
        began = time.monotonic()
        self.spawn()
        # It says so just before it listens: only a connection tells that it does.
        assert self.words.wait_line("Accepting HTTP Socket connections", 20), self.words.text()
        while not self.accepts() and time.monotonic() < began + 20:
            pass
        self.starting = time.monotonic() - began

    def spawn(self):
        config, writer = os.pipe()
        out, err = os.pipe(), os.pipe()
        user = []
        if os.getuid() == 0:
            user = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups", "--no-new-privs"]
            for _, end in (out, err):  # it opens /dev/stdout and /dev/stderr by name: they have to be its own
                os.fchown(end, OTHER_USER, OTHER_USER)
        argv = [*user, *JAIL, "--ro-bind-data", str(config), CONFIG, "--", os.path.realpath(SQUID), "-N", "-f", CONFIG]
        self.process = subprocess.Popen(argv, pass_fds=[config], stdin=subprocess.DEVNULL, stdout=out[1], stderr=err[1])
        for end in (config, out[1], err[1]):
            os.close(end)
        with os.fdopen(writer, "w") as stream:
            stream.write(self.text)
        self.log = harness.Output(os.fdopen(out[0], "rb"))
        self.words = harness.Output(os.fdopen(err[0], "rb"))

    def accepts(self):
        with socket.socket() as wire:
            return wire.connect_ex(("127.0.0.1", self.port)) == 0

    def send(self, line):
        """The status of the answer to one request."""
        target = line.replace("PORT", str(self.port))
        with socket.create_connection(("127.0.0.1", self.port), 20) as wire:
            wire.sendall(f"{target} HTTP/1.1\r\nHost: host.example\r\nConnection: close\r\n\r\n".encode())
            with wire.makefile("rb") as answer:
                return int(answer.readline().split()[1])

    def requests(self):
        return [json.loads(line) for line in self.log.lines]

    def close(self):
        with harness.Clock() as ending:
            self.process.terminate()
            status = self.process.wait(20)
        assert status in (0, -signal.SIGTERM), self.words.text()
        assert ending.seconds < 5


@pytest.fixture
def squid():
    assert SQUID, "squid is not installed: run tools/setup"
    made = []

    def start(rules, **options):
        made.append(Squid(rules, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_rules_let_through_what_they_say_and_nothing_else(squid):
    proxy = squid(RULES)
    assert proxy.starting < 5
    wrong = []
    for line, allowed in VERDICTS:
        status = proxy.send(line)
        if (status != 403) != allowed or (allowed and status != 200):
            wrong.append(f"{line}: {status}")
    assert not wrong, "\n".join(wrong) + "\n" + proxy.text
    # Squid 6 would rather have Via in what it sends; the guest's requests need not say that they came through it.
    assert not proxy.words.wait_line("WARNING(?!: HTTP requires the use of Via)|ERROR|FATAL", 0), proxy.words.text()


def test_a_name_that_no_rule_lists_is_not_looked_up(squid, canaries):
    proxy = squid(RULES)
    before = len(canaries.hits)
    assert proxy.send("CONNECT never-listed.example:443") == 403
    assert proxy.send("CONNECT looked-up.suffix.example:443") == 200
    heard = json.dumps(canaries.hits[before:])
    assert "looked-up" in heard
    assert "never-listed" not in heard


def test_without_rules_everything_is_denied(squid):
    proxy = squid([])
    assert {proxy.send(line) for line, _ in VERDICTS} == {403}


def test_the_log_is_json_whatever_the_guest_sends(squid):
    proxy = squid(RULES)
    hostile = ['GET http://a"b\\c/"', 'CONNECT x"y:443', 'G"T http://x/', "GET http://x/" + "a" * 30000, "GET http://\xe9\x01/"]
    for line in hostile:
        assert proxy.send(line) in (400, 403)
    assert proxy.send("CONNECT allowed.example:443") == 200
    assert proxy.log.wait_line("allowed.example:443", 10), proxy.log.text()
    read = proxy.requests()
    assert len(read) >= len(hostile)
    assert max(map(len, proxy.log.lines)) < 4096
    last = next(one for one in read if one["target"] == "allowed.example:443")
    assert (last["method"], last["status"], last["peer"]) == ("CONNECT", 200, "203.0.113.10")


def test_memory_with_a_thousand_rules(squid):
    rules = [{"host": f"h{number}.example", "suffix": number % 2 == 0} for number in range(1000)]
    proxy = squid([*rules, {"host": "allowed.example"}])
    assert proxy.send("GET http://allowed.example/") == 200
    inside = [one for one in processes.descendants(proxy.process.pid) if one.name.startswith("squid")]
    assert inside
    with open(f"/proc/{inside[0].pid}/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert resident < 64 * 1024, f"{resident} kB"
