"""How the daemon is operated: metrics, readiness, logs, its configuration, and a service manager around it."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import doors
import harness
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

UNIT = harness.ROOT / "docs" / "bottled.service"


# --- Metrics --------------------------------------------------------------------------------------


def metrics(daemon):
    """The families by name, as Prometheus's own client reads them; what every family has to be."""
    reply = daemon.get("/metrics")
    assert reply.status == 200 and reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {}
    for family in text_string_to_metric_families(reply.text):
        assert family.name not in families and family.documentation and family.type != "unknown", family
        families[family.name] = family
        seen = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(seen) == len(set(seen)), f"{family.name}: a series is there twice"
    return families


def value(families, name, family=None, **labels):
    found = [s.value for s in families[family or name].samples if s.name in (name, f"{name}_total") and s.labels == labels]
    return found[0] if found else 0


def test_metrics(daemon):
    route = {"method": "GET", "route": "/bottles/{slug}"}
    for slug in ("a", "b", "c"):
        daemon.create({"command": ["true"], "slug": slug})
        assert daemon.get(f"/bottles/{slug}").status == 200
    daemon.remove("c")
    assert daemon.get("/bottles/c").status == 404
    assert daemon.request("PATCH", "/bottles/a", {"labels": 1}).status == 422
    found = metrics(daemon)
    assert value(found, "bottled_http_requests", **route, status="200") == 3
    assert value(found, "bottled_http_requests", **route, status="404") == 1
    assert value(found, "bottled_http_requests", method="PATCH", route="/bottles/{slug}", status="422") == 1
    assert value(found, "bottled_bottles", state="prepared") == 2
    assert sum(sample.value for sample in found["bottled_bottles"].samples) == 2
    assert value(found, "bottled_events", type="bottle.prepared") == 3
    assert value(found, "bottled_events", type="cleanup.finished") == 1
    assert value(found, "bottled_egress", verdict="denied") == 0
    assert value(found, "bottled_starts", boot="template") == 0
    pid = daemon.pid
    assert value(found, "process_open_fds") == pytest.approx(len(os.listdir(f"/proc/{pid}/fd")), abs=5)
    resident = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    assert value(found, "process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)
    assert value(found, "process_cpu_seconds") > 0 and value(found, "process_start_time_seconds") > 1.7e9


def test_histograms_are_whole(daemon):
    for _ in range(5):
        daemon.get("/version")
    found = metrics(daemon)
    samples = found["bottled_http_request_duration_seconds"].samples
    counts = {}
    for sample in samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        counts.setdefault(tuple(sorted(labels.items())), []).append((sample.name.rsplit("_", 1)[1], bound, sample.value))
    key = (("method", "GET"), ("route", "/version"), ("status", "200"))
    assert key in counts
    for labels, rows in counts.items():
        buckets = [(float(bound), count) for kind, bound, count in rows if kind == "bucket"]
        assert buckets == sorted(buckets) and buckets[-1][0] == float("inf"), "each holds those before it"
        total = next(count for kind, _, count in rows if kind == "count")
        assert buckets[-1][1] == total == value(found, "bottled_http_requests", **dict(labels))
        assert next(count for kind, _, count in rows if kind == "sum") >= 0


def test_no_word_of_a_client_becomes_a_label(daemon):
    daemon.get("/version")
    metrics(daemon)
    before = {name: len(family.samples) for name, family in metrics(daemon).items()}
    for number in range(50):
        daemon.get(f"/nowhere/{number}")
        daemon.get(f"/bottles/slug-{number}")
        daemon.request(f"BREW{number}", "/bottles")
    after = metrics(daemon)
    known = {route["path"] for route in doors.routes()} | {""}
    assert {sample.labels["route"] for sample in after["bottled_http_requests"].samples} <= known
    grown = {name: len(family.samples) - before[name] for name, family in after.items()}
    new = grown.pop("bottled_http_requests")
    histogram = grown.pop("bottled_http_request_duration_seconds")
    assert new <= 4 and histogram == new * 17 and set(grown.values()) == {0}


# --- Ready, or not --------------------------------------------------------------------------------


def test_ready(daemon):
    checks = daemon.get("/readyz").json()["checks"]
    assert [check["name"] for check in checks] == ["store", "state_dir", "space", "gvproxy"]
    assert daemon.get("/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    "what, config, words",
    [("space", {"ready_min_mib": 1 << 24}, "MiB are free in"), ("gvproxy", {"tools_path": "/nonexistent"}, "gvproxy is not on")],
)
def test_not_ready_names_what(new_daemon, what, config, words):
    daemon = new_daemon(config=config)
    daemon.env["PATH"] = "/usr/bin:/bin"
    daemon.start()
    reply = daemon.get("/readyz")
    assert (reply.status, reply.problem) == (503, "not-ready")
    problem = reply.json()
    assert problem["detail"].startswith(f"{what}: ") and words in problem["detail"]
    failed = [check["name"] for check in problem["checks"] if not check["ok"]]
    assert what in failed
    assert daemon.get("/healthz").status == 200, "it is alive all the same"


# --- Logs -----------------------------------------------------------------------------------------


def log_lines(daemon, env=None):
    """Starts and ends one whose stderr is a file; its lines."""
    path = daemon.base / "stderr"
    with open(path, "wb") as log:
        status = os.fstat(log.fileno())
        environment = {**daemon.environment(), **(env(status) if env else {})}
        child = subprocess.Popen(daemon.argv(), env=environment, stdout=subprocess.PIPE, stderr=log, cwd="/")
    with child.stdout:
        assert child.stdout.readline().startswith(b"ready on ")
        daemon.get("/version")
        daemon.post("/plans", {"command": []})
        child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    return path.read_text().splitlines()


def test_logs_as_json(new_daemon):
    lines = [json.loads(line) for line in log_lines(new_daemon(config={"log_format": "json"}))]
    assert all({"time", "level", "msg"} <= set(line) for line in lines)
    (change,) = [line for line in lines if line["msg"] == "change"]
    assert (change["method"], change["path"], change["status"], change["outcome"]) == ("POST", "/plans", 422, "rejected")


def test_logs_for_the_journal(new_daemon):
    lines = log_lines(new_daemon(), lambda status: {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    numbers = {"error": "3", "warning": "4", "info": "[56]", "debug": "7"}
    for line in lines:
        level = re.search(r"level=(\w+)", line).group(1)
        assert re.match(rf"<{numbers[level]}>level=", line), line
    assert any(line.startswith("<7>") for line in lines)


def test_logs_elsewhere_have_a_time_and_no_priority(new_daemon):
    """A variable that was inherited, of a journal that is not our stderr."""
    lines = log_lines(new_daemon(), lambda status: {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert all(re.match(r"time=20\d\d-\S+Z level=\w+ msg=", line) for line in lines)


def test_every_change_has_a_line(new_daemon):
    """Who, what, outcome and request id, whatever the level; and none for who only looks."""
    daemon = new_daemon(config={"log_level": "error"})
    door = doors.Door(doors.open_to_tcp(daemon))
    token = doors.make_token(daemon, "ci", "read")
    daemon.request("POST", "/plans", {"command": ["true"]}, headers={"X-Request-Id": "one"})
    door.request("POST", "/plans", token, {"X-Request-Id": "two"}, b"{}")
    door.request("DELETE", "/bottles/x", None, {"X-Request-Id": "three"})
    door.get("/bottles", token, **{"X-Request-Id": "four"})
    found = {}
    for name in ("one", "two", "three"):
        line = daemon.output.wait_line(f"id={name} ", 5)
        found[name] = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
    uid = str(os.getuid())
    rows = {"one": ("unix", uid, "POST", "/plans", "200", "done"), "two": ("token", "ci", "POST", "/plans", "403", "refused"),
            "three": ("nobody", '""', "DELETE", "/bottles/x", "401", "refused")}
    for name, row in rows.items():
        assert tuple(found[name][key] for key in ("via", "who", "method", "path", "status", "outcome")) == row
    assert found["two"]["from"].startswith("127.0.0.1:")
    assert "id=four" not in daemon.output.text() and token not in daemon.output.text()


# --- The configuration ----------------------------------------------------------------------------


def run(*arguments, env=None):
    return subprocess.run([harness.BUILD / "bottled", *arguments], capture_output=True, text=True, timeout=30, env=env)


def test_print_config_explains_every_key_and_loads_back(tmp_path):
    directories = ["--state-dir", str(tmp_path / "s"), "--run-dir", str(tmp_path / "r")]
    printed = run("--print-config", *directories).stdout
    keys = yaml.safe_load(printed)
    help_text = run("--help").stdout
    for key in keys:
        flag = "--" + key.replace("_", "-")
        comment = re.search(rf"((?:^#.*\n)+){key}:", printed, re.MULTILINE).group(1)
        assert re.search(rf"^# {flag}[ ;\n]", comment, re.MULTILINE), key
        assert re.search(rf"^  {flag}( |$)", help_text, re.MULTILINE), key
    flags = set(re.findall(r"^  --([a-z-]+)", help_text, re.MULTILINE)) - {"config", "check-config", "print-config", "version", "help"}
    assert flags == {key.replace("_", "-") for key in keys}
    assert {"log_level", "tls_cert", "cors_origins"} <= set(re.findall(r"SIGHUP\n(\w+):", printed))
    path = tmp_path / "config.yaml"
    path.write_text(printed)
    assert run("--config", str(path), "--print-config").stdout == printed
    assert (run("--config", str(path), "--check-config").returncode, run("--check-config", "--log-level", "loud").returncode) == (0, 2)


def test_sighup(new_daemon):
    """What is live takes effect; what is not is named; a fault changes nothing."""
    daemon = new_daemon(config={"log_level": "info"})
    door = doors.Door(doors.open_to_tcp(daemon, wrong_tokens=50))
    token = doors.make_token(daemon, "one", "operate")
    assert door.request("POST", "/plans", token, {"Origin": "https://page.example"}, b"{}").status == 403

    def reread(line, **config):
        daemon.config.update(config)
        daemon.write_config()
        start = len(daemon.output.lines)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.output.wait_line(line, 10, start), daemon.output.text()
        return "\n".join(daemon.output.lines[start:])

    said = reread("configuration read again", cors_origins="https://page.example", max_bottles=3, log_level="debug")
    assert 'msg="a key changed" key=cors_origins' in said and 'msg="a key changed" key=log_level' in said
    assert 'msg="a changed key needs a restart" key=max_bottles' in said
    assert said.count(" key=") == 3
    assert door.request("POST", "/plans", token, {"Origin": "https://page.example"}, b"{}").status == 422
    assert daemon.get("/version").status == 200 and daemon.output.wait_line("level=debug msg=request", 5)
    said = reread("the configuration stays as it was", cors_origins="page.example")
    assert "cors_origins: " in said
    assert door.request("POST", "/plans", token, {"Origin": "https://page.example"}, b"{}").status == 422
    reread("configuration read again", cors_origins="", wrong_tokens=1)
    assert [door.get("/version", "wrong-token-0123456789").status for _ in range(2)] == [401, 429]


def test_sighup_brings_a_new_certificate(new_daemon, tmp_path):
    cert, key = doors.make_certificate(tmp_path)
    daemon = new_daemon()
    port = doors.open_to_tcp(daemon, tls_cert=str(cert), tls_key=str(key))
    token = doors.make_token(daemon, "one", "read")
    old = doors.trusting(cert)
    kept = doors.Door(port, tls=old).connect()
    kept.request("GET", "/version", headers={"Authorization": f"Bearer {token}"})
    kept.getresponse().read()
    fresh, fresh_key = doors.make_certificate(tmp_path, "two")
    fresh.replace(cert), fresh_key.replace(key)
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.output.wait_line("configuration read again", 10)
    assert doors.Door(port, tls=doors.trusting(cert)).get("/version", token).status == 200
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        doors.Door(port, tls=old).get("/version", token)
    kept.request("GET", "/version", headers={"Authorization": f"Bearer {token}"})
    assert kept.getresponse().status == 200, "a connection that stands stays"
    kept.close()
    key.write_text("nonsense")
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.output.wait_line("the configuration stays as it was", 10)
    assert doors.Door(port, tls=doors.trusting(cert)).get("/version", token).status == 200


# --- A service manager ----------------------------------------------------------------------------


@contextlib.contextmanager
def manager(folder):
    """Who hears what a service says of itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(folder / "notify"))
        hears.settimeout(20)
        os.chmod(folder / "notify", 0o666)
        yield hears


def told(hears, word):
    """What is said up to a datagram that has the word."""
    said = []
    while not said or word not in said[-1]:
        said.append(hears.recv(4096).decode().split("\n"))
    return said


def test_sd_notify(new_daemon, tmp_path):
    with manager(tmp_path) as hears:
        daemon = new_daemon(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}).start()
        said = told(hears, "READY=1")
        assert any(word.startswith("STATUS=ready on unix:") for word in said[-1])
        for _ in range(3):
            told(hears, "WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        reloading = told(hears, "RELOADING=1")[-1]
        assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", word) for word in reloading)
        told(hears, "READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        told(hears, "STOPPING=1")
        assert daemon.process.wait(20) == 0


def start_with(daemon, sockets):
    """Starts it as a manager would that has opened sockets for it: they are descriptors from 3 on."""
    script = 'export LISTEN_PID=$$ LISTEN_FDS="$1"; shift; exec "$@"'
    argv = ["sh", "-c", script, "sh", str(len(sockets)), *daemon.argv()]
    numbers = [sock.fileno() for sock in sockets]

    def pass_on():
        high = [os.dup(number) for number in numbers]
        for place, number in enumerate(high):
            os.dup2(number, 3 + place)

    daemon.process = subprocess.Popen(
        argv, env=daemon.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd="/", preexec_fn=pass_on, pass_fds=range(3, 3 + len(sockets)),
    )
    daemon.output = harness.Output(daemon.process.stdout)
    return daemon


def test_socket_activation(new_daemon, tmp_path):
    """A client that came before the daemon is answered; the sockets are still the manager's when it has ended."""
    daemon = new_daemon()
    daemon.config["listen"] = ["127.0.0.1:1"]  # where nothing could be opened by us: those that are passed stand instead
    path = tmp_path / "passed.sock"
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(path))
        unix.listen()
        early = harness.UnixConnection(str(path), 20)
        early.request("GET", "/version")
        start_with(daemon, [unix, tcp])
        assert early.getresponse().status == 200
        port = tcp.getsockname()[1]
        line = daemon.output.wait_line("^ready on ", 20)
        assert line == f"ready on unix:{path}, http://127.0.0.1:{port}"
        assert not daemon.socket.exists()
        token = doors.make_token(daemon, "one", "read")
        assert doors.Door(port).get("/version", token).status == 200
        assert doors.Door(port).get("/version").status == 401
        early.close()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 0
        assert path.exists()
        start_with(daemon, [unix, tcp])
        assert daemon.output.wait_line("^ready on ", 20)
        assert doors.Door(port).get("/version", token).status == 200
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 0


@pytest.mark.parametrize("kind, words", [("datagrams", "is no socket that listens"), ("beyond", "is not loopback")])
def test_sockets_that_are_refused(new_daemon, kind, words):
    daemon = new_daemon()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if kind == "datagrams" else socket.create_server(("0.0.0.0", 0))
    with sock:
        start_with(daemon, [sock])
        assert daemon.process.wait(20) == 1
    assert words in daemon.output.text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_unit_files_are_valid(tmp_path):
    for name in ("bottled.service", "bottled.socket"):
        text = (UNIT.parent / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/bottled/", f"{harness.BUILD}/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "bottled.service"), str(tmp_path / "bottled.socket")],
        capture_output=True, text=True, timeout=60, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "bottled" in line]
    assert done.returncode == 0 and ours == [], done
