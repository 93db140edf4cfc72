"""Templates: the first bottle of a machine boots cold, later ones start from its saved memory and are bottles of their own."""
import datetime
import hashlib
import os
import pathlib
import signal
import stat
import subprocess
import time

import harness
import processes
import pytest

ON = {"template_after": "0s"}
MARK = "kept-out-of-the-template-4711"
SECRET = "kept-out-of-the-template-0815"
SECRETS = {"KEY": {"from_env": "SOME_SECRET"}}
STAY = "while :; do sleep 1000; done"
# What of a machine must not be another's: random numbers of several kinds, ids, clocks, addresses.
TELL = """
cat /proc/sys/kernel/random/uuid; cat /proc/sys/kernel/random/uuid; cat /proc/sys/kernel/random/boot_id
head -c 16 /dev/urandom | md5sum; date +%s; cat /sys/class/net/eth0/address
ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'; hostname; awk '{print int($1)}' /proc/uptime
""".strip().replace("\n", "; ")


def wait_made(daemon, count=1, timeout=60):
    end = time.monotonic() + timeout
    while len(made := daemon.get("/events?type=template.made").json()["events"]) < count:
        failed = daemon.get("/events?type=template.failed").json()["events"]
        assert not failed and time.monotonic() < end, f"{failed}\n{daemon.output.text()[-3000:]}"
        time.sleep(0.05)
    return made


def start(daemon, slug, **plan):
    plan = {"slug": slug, "command": ["sh", "-c", STAY], **plan}
    bottle = daemon.create(plan, "?start=true&wait=running&timeout=100s")
    assert bottle["state"] == "running", bottle
    return bottle


def templates_of(daemon):
    folder = daemon.state_dir / "templates"
    return sorted(path for path in folder.iterdir()) if folder.exists() else []


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(daemon, slug, script):
    reply = daemon.post(f"/bottles/{slug}/exec", {"command": ["sh", "-c", script]})
    assert reply.status == 200 and reply.json()["exit_code"] == 0, reply
    return reply.json()["stdout"]


@pytest.fixture(scope="module")
def warm(row):
    """A daemon whose machine (the built-in image, nothing asked for) has a template."""
    one = harness.Daemon(config={**ON, "secret_env": "SOME_SECRET"}, env={"SOME_SECRET": SECRET})
    try:
        one.start()
        one.first = start(one, "first", env={"MARK": MARK}, secrets=SECRETS)
        one.made = wait_made(one)
        yield one
    finally:
        for bottle in one.get("/bottles").json()["bottles"]:
            one.delete(f"/bottles/{bottle['slug']}")
        fault = one.close()
    assert fault is None, fault


def test_the_first_is_cold_and_says_why(warm):
    assert warm.first["boot"] == "cold"
    assert warm.first["boot_reason"] == "there was no template of this machine; it is made after this start"
    (made,) = warm.made
    assert made["detail"]["bytes"] < 256 << 20 and [made["detail"]["key"]] == [path.name for path in templates_of(warm)]


def test_it_is_made_when_it_is_due(new_daemon):
    daemon = new_daemon(config={"template_after": "3s"}).start()
    bottle = start(daemon, "cold")
    daemon.create({"slug": "next", "command": ["true"]}, "?start=true&wait=exited&timeout=60s")
    assert daemon.bottle("next")["boot_reason"] == "the template of this machine is still to be made"
    (made,) = wait_made(daemon)
    begun = seconds(made["time"]) - made["detail"]["ms"] / 1000
    assert begun >= seconds(bottle["started_at"]) + 2.9


def seconds(timestamp):
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def test_two_of_one_template_are_two(warm):
    told = {}
    for slug in ("one", "two"):
        before = time.time()
        bottle = start(warm, slug)
        assert (bottle["boot"], bottle["boot_reason"]) == ("template", None)
        lines = run(warm, slug, TELL).split("\n")
        u1, u2, boot_id, noise, date, mac, address, host, uptime = lines[:9]
        assert before - 1 <= int(date) <= time.time() + 1
        plan = warm.get(f"/bottles/{slug}/plan").json()
        assert (mac, address, host) == (plan["mac"], plan["guest_ip"], slug)
        assert int(uptime) < 60
        told[slug] = {u1, u2, boot_id, noise, mac, address, host}
        assert len(told[slug]) == 7
    assert not told["one"] & told["two"]


def test_it_goes_by_the_processors_clock(warm):
    """Not by ticks, which a busy host makes come late: the guest's time, and each that comes from it, would lose."""
    bottle = start(warm, "ticks")
    words = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg | grep -c unstable; true"
    assert bottle["boot"] == "template" and run(warm, "ticks", words).split() == ["tsc", "0"]


def test_the_confinement_holds_from_a_template(warm):
    """Also shows that the card works by its own address."""
    assert start(warm, "confined")["boot"] == "template"
    report = warm.post("/bottles/confined/egress-report").json()
    assert report["passed"], report
    warm.remove("confined")


def test_nothing_of_a_bottle_gets_into_it_or_into_another(warm):
    (folder,) = templates_of(warm)
    ram = folder / "ram"
    for path in folder.iterdir():
        assert MARK.encode() not in path.read_bytes() and SECRET.encode() not in path.read_bytes()
    assert stat.S_IMODE(ram.stat().st_mode) == 0o444 and ram.stat().st_uid == os.getuid()
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    before = digest(ram)
    for slug in ("left", "right"):
        assert start(warm, slug, secrets=SECRETS)["boot"] == "template"
        assert run(warm, slug, "cat /run/secrets/KEY") == SECRET
    run(warm, "left", "head -c 8000000 /dev/zero | tr '\\0' x > /tmp/x; echo 3 > /proc/sys/vm/drop_caches")
    assert digest(ram) == before
    mappings = [line for p in warm.processes_named("qemu-system-x86_64") for line in maps(p.pid, "/ram")]
    assert len(mappings) >= 2 and {line.split()[1] for line in mappings} == {"rw-p"}, mappings
    if os.getuid() == 0:
        owners = {user_of(p.pid) for p in warm.processes_named("qemu-system-x86_64")}
        assert ram.stat().st_uid not in owners
    for slug in ("left", "right"):
        warm.remove(slug)


def user_of(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])


def maps(pid, end):
    try:
        return [line for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines() if line.endswith(end)]
    except OSError:
        return []


def test_it_is_there_after_a_restart(warm):
    warm.restart()
    assert start(warm, "later")["boot"] == "template"
    warm.remove("later")


def test_one_that_qemu_refuses(warm):
    """The start goes on cold, says so, and the template is made anew."""
    (folder,) = templates_of(warm)
    count = len(wait_made(warm))
    state = folder / "state"
    state.chmod(0o600)
    state.write_bytes(state.read_bytes()[:4000])
    bottle = start(warm, "refused")
    assert bottle["boot"] == "cold" and bottle["boot_reason"].startswith("the template could not be restored: "), bottle
    assert run(warm, "refused", "echo works") == "works\n"
    wait_made(warm, count + 1)
    warm.remove("refused")
    assert start(warm, "anew")["boot"] == "template"
    warm.remove("anew")


DEAF = """#!/bin/sh
case " $* " in
    *" -incoming "*) unset LD_PRELOAD; exec sleep 1000 ;;
esac
exec /usr/bin/qemu-system-x86_64 "$@"
"""


def test_one_that_never_comes_up(new_daemon):
    daemon = new_daemon(config={**ON, "boot_timeout": "18s"})
    tools = daemon.base / "tools"
    tools.mkdir(mode=0o755)
    (tools / "qemu-system-x86_64").write_text(DEAF)
    (tools / "qemu-system-x86_64").chmod(0o755)
    daemon.config["tools_path"] = str(tools)
    daemon.start()
    start(daemon, "first")
    wait_made(daemon)
    bottle = start(daemon, "second")
    assert bottle["boot"] == "cold", bottle
    assert bottle["boot_reason"] == "the template could not be restored: its guest said nothing for 6000 ms"


def test_a_bottle_with_a_disk(new_daemon):
    """It has a template of its own, with another disk in the place of the bottle's."""
    daemon = new_daemon(config=ON, uid=harness.USERS["ordinary user"] if os.getuid() == 0 else None).start()
    plan = {"resources": {"disk_mib": 32}}
    assert start(daemon, "cold", **plan)["boot"] == "cold"
    wait_made(daemon)
    assert start(daemon, "warm", **plan)["boot"] == "template"
    run(daemon, "warm", "echo kept > /root-file")
    daemon.post("/bottles/warm/stop?wait=stopped")
    daemon.post("/bottles/warm/start?wait=running")
    assert daemon.wait("warm", "running")["boot"] == "template"
    assert run(daemon, "warm", "cat /root-file") == "kept\n"


def test_a_daemon_that_dies_while_one_is_made(new_daemon):
    daemon = new_daemon(config=ON).start()
    start(daemon, "first")
    end = time.monotonic() + 30
    while not (makers := [p for p in daemon.processes_named("qemu-system-x86_64") if maps(p.pid, "/ram")]):
        assert time.monotonic() < end
        time.sleep(0.02)
    if os.getuid() == 0:
        owner = user_of(makers[0].pid)
        assert owner > 65536 and owner not in {
            user_of(p.pid) for p in daemon.processes_named("qemu-system-x86_64") if p.pid != makers[0].pid
        }
    daemon.kill()
    for maker in makers:
        assert processes.wait_gone(maker.pid, 10)
    daemon.start()
    assert templates_of(daemon) == []
    assert daemon.bottle("first")["state"] == "running"


@pytest.mark.kvm
def test_on_kvm():
    harness.ROW = harness.ROWS["qemu-kvm"]
    daemon = harness.Daemon(config=ON)
    try:
        daemon.start()
        assert start(daemon, "first")["boot"] == "cold"
        wait_made(daemon, timeout=120)
        assert start(daemon, "second")["boot"] == "template", daemon.bottle("second")
        told = [set(run(daemon, slug, TELL).split("\n")[:4]) for slug in ("first", "second")]
        assert not told[0] & told[1]
    finally:
        harness.ROW = harness.ROWS["qemu-tcg"]
        for bottle in daemon.get("/bottles").json()["bottles"]:
            daemon.delete(f"/bottles/{bottle['slug']}")
        fault = daemon.close()
    assert fault is None, fault


def test_one_that_is_given_up_leaves_no_process(row):
    """Its supervisor is killed wherever it is: also what is too young to die with that goes."""
    daemon = harness.Daemon(config=ON)
    try:
        daemon.start()
        start(daemon, "first")
        run_dir = daemon.state_dir / "templates" / ".making" / "run"
        end = time.monotonic() + 60
        while not run_dir.exists():
            assert time.monotonic() < end, daemon.output.text()[-3000:]
            time.sleep(0.01)
        uid = run_dir.stat().st_uid
        argv = ["setpriv", f"--reuid={uid}", "sleep", "1000"] if os.getuid() == 0 else ["sleep", "1000"]
        left = subprocess.Popen(argv, cwd="/", env={"BOTTLE_RUN_DIR": str(run_dir)})
        processes.waited_for.add(left.pid)
        try:
            daemon.remove("first")
            assert daemon.stop() == 0
            assert left.wait(10) == -signal.SIGKILL
        finally:
            left.kill()
            left.wait()
            processes.waited_for.discard(left.pid)
    finally:
        fault = daemon.close()
    assert fault is None, fault
