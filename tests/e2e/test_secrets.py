"""Secrets: read at each start and each reload, in the guest, and nowhere else on the host."""
import hashlib
import os
import pathlib
import re
import secrets as randomness
import time

import harness
import pace
import pytest
import test_exec

SLUG = "keeper"
# What it prints is in a log: not the value itself.
COMMAND = 'printf %s "$API_KEY" | sha256sum; trap "echo heard" HUP; while :; do sleep 1000 & wait $!; done'


class Place:
    """Files that plans may name, and a bottled that allows it; `value` makes one that nothing else holds."""

    def __init__(self, base, uid=None):
        self.root, self.made = base / "allowed", []
        self.root.mkdir()
        self.uid = uid
        self.ci_token = self.value()

    def value(self, length=24):
        self.made.append(randomness.token_hex(length))
        return self.made[-1]

    def write(self, name, text):
        path = self.root / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o400)
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return str(path)

    def options(self):
        return {"config": {"secret_roots": str(self.root), "secret_env": "CI_TOKEN,ABSENT"},
                "env": {"CI_TOKEN": self.ci_token}, "uid": self.uid}


@pytest.fixture(params=harness.USERS)
def place(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("secrets")
    for folder in (base, *base.parents[:2]):
        folder.chmod(0o755)
    return Place(base, harness.USERS[request.param])


def found_in(data, values):
    return [value for value in values if value.encode() in data]


def search_host(daemon, values):
    """Every place of the host that could hold one of the values, apart from the guest's own memory."""
    found = []
    for path in daemon.base.rglob("*"):
        if path.is_file():
            if hits := found_in(path.read_bytes(), values):
                found.append((str(path), hits))
    for process in pathlib.Path("/proc").iterdir():
        for name in ("cmdline", "environ"):
            try:
                data = (process / name).read_bytes() if process.name.isdigit() and int(process.name) != os.getpid() else b""
            except OSError:
                continue
            if hits := found_in(data, values):
                found.append((f"{process}/{name}", hits))
    if hits := found_in(daemon.output.text().encode(), values):
        found.append(("bottled's log", hits))
    for path in ("/events?limit=1000", f"/bottles/{SLUG}", f"/bottles/{SLUG}/plan", "/bottles"):
        if hits := found_in(daemon.get(path).body, values):
            found.append((path, hits))
    return found


SHADOW = 1 << 30  # what is larger is a sanitizer's own, which holds nothing of the program's


def memory_of(pid):
    """All that a process can write to."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in open(f"/proc/{pid}/maps"):
            begin, end, flags = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
            size = int(end, 16) - int(begin, 16)
            if "w" not in flags or harness.SANITIZED and size > SHADOW:
                continue
            memory.seek(int(begin, 16))
            try:
                yield memory.read(size)
            except OSError:
                continue


def search_memory(pid, values):
    return sorted({hit for part in memory_of(pid) for hit in found_in(part, values)})


def test_the_guest_has_them_and_the_host_does_not(place, new_daemon):
    key, lines, disk = place.value(), place.value(), place.value(2000)
    daemon = new_daemon(**place.options()).start()
    plan = {
        "slug": SLUG,
        "command": ["sh", "-c", COMMAND],
        "env": {"PLAIN": "plain"},
        "secrets": {
            "API_KEY": {"from_file": place.write("key", key + "\n")},
            "LINES": {"from_file": place.write("lines", f"{lines}\n 'q' \"$x\" \\\n\u00e9\n\n")},
            "BIG": {"from_file": place.write("big", disk)},
            "TOKEN": {"from_env": "CI_TOKEN"},
        },
        "reload_signal": "HUP",
        "resources": {"disk_mib": 64},
    }
    started = daemon.create(plan, "?start=true&wait=running")
    assert started["state"] == "running"

    shim = daemon.processes_named("bottle-shim")[0].pid
    if os.getuid() == 0:  # before what programs print comes this way
        assert search_memory(shim, place.made) == []
        assert search_memory(daemon.pid, place.made) == [place.ci_token], "of a file bottled keeps nothing"

    def run(command, **fields):
        result = test_exec.run(daemon, command, slug=SLUG, **fields)
        assert result["exit_code"] == 0, result
        return result["stdout"]

    script = 'printf "%s|" "$API_KEY" "$LINES" "$BIG" "$TOKEN" "$PLAIN"'
    expected = [key, f"{lines}\n 'q' \"$x\" \\\n\u00e9\n", disk, place.ci_token, "plain"]
    assert run(script) == "|".join(expected) + "|"
    assert run(script, env={"API_KEY": "mine"}).startswith("mine|")
    assert run("cat /run/secrets/API_KEY /run/secrets/LINES") == f"{key}\n{lines}\n 'q' \"$x\" \\\n\u00e9\n\n"
    assert run("ls -A /run/secrets; stat -c %a:%u:%T /run/secrets/API_KEY; stat -f -c %T /run/secrets").split() == [
        "API_KEY", "BIG", "LINES", "TOKEN", "400:0:0", "tmpfs"]
    run("sync")
    assert daemon.log(SLUG).split()[0] == hashlib.sha256(key.encode()).hexdigest(), "the command has it too"
    assert search_host(daemon, place.made) == []
    if os.getuid() == 0:
        for process in [daemon.pid, *(p.pid for p in daemon.own_processes())]:
            core = re.search(r"Max core file size\s+(\S+)\s+(\S+)", pathlib.Path(f"/proc/{process}/limits").read_text())
            assert core.groups() in {("1", "1"), ("0", "0"), *([("0", "1")] if harness.SANITIZED else [])}, process

    new = place.value()
    pathlib.Path(place.root / "key").unlink()
    place.write("key", new)
    reply = daemon.post(f"/bottles/{SLUG}/secrets/reload")
    assert (reply.status, reply.json()) == (200, {"secrets": ["API_KEY", "LINES", "BIG", "TOKEN"], "signal": "HUP"})
    if os.getuid() == 0:
        assert search_memory(daemon.pid, [new]) == search_memory(shim, [new]) == []
    assert run('cat /run/secrets/API_KEY; echo " $API_KEY"') == f"{new} {new}\n"
    pace.until(lambda: "heard" in daemon.log(SLUG))
    assert search_host(daemon, place.made) == []
    events = daemon.get(f"/events?slug={SLUG}&type=secrets.reloaded").json()["events"]
    assert [event["detail"] for event in events] == [reply.json()]

    (place.root / "key").unlink()
    reply = daemon.post(f"/bottles/{SLUG}/secrets/reload")
    assert (reply.status, reply.problem, reply.pointers) == (422, "secrets-unavailable", ["/secrets/API_KEY/from_file"])
    assert run('echo "$API_KEY"') == new + "\n", "a reload that can not be done changes nothing"

    daemon.post(f"/bottles/{SLUG}/stop?wait=stopped&timeout=30s")
    assert daemon.post(f"/bottles/{SLUG}/secrets/reload").problem == "wrong-state"
    reply = daemon.post(f"/bottles/{SLUG}/start")
    assert (reply.status, reply.problem, reply.pointers) == (422, "secrets-unavailable", ["/secrets/API_KEY/from_file"])
    assert daemon.bottle(SLUG)["state"] == "stopped"
    place.write("key", new)
    daemon.kill()
    daemon.start()
    assert daemon.post(f"/bottles/{SLUG}/start?wait=running&timeout=60s").status == 200
    assert run('echo "$API_KEY $TOKEN"') == f"{new} {place.ci_token}\n"
    assert search_host(daemon, place.made) == []


# --- What is refused, without a boot ----------------------------------------------------------


@pytest.fixture(scope="module")
def keeper(tmp_path_factory, row):
    """A bottled and its place, shared by the tests that boot nothing."""
    place = Place(tmp_path_factory.mktemp("secrets"))
    daemon = harness.Daemon(**place.options())
    try:
        daemon.start()
        yield daemon, place
    finally:
        fault = daemon.close()
        assert fault is None, fault


def plan_of(secrets, **fields):
    return {"command": ["true"], "secrets": secrets, **fields}


def test_what_a_plan_may_not_ask_for(keeper):
    daemon, place = keeper
    inside, outside = place.write("plain", "x"), str(place.root.parent / "outside")
    cases = [
        ({"A": {"from_file": outside}}, {"/secrets/A/from_file": "not-allowed"}),
        ({"A": {"from_file": f"{place.root}-beside/x"}}, {"/secrets/A/from_file": "not-allowed"}),
        ({"A": {"from_file": str(place.root)}}, {"/secrets/A/from_file": "not-allowed"}),
        ({"A": {"from_file": f"{place.root}/../outside"}}, {"/secrets/A/from_file": "pattern"}),
        ({"A": {"from_file": "plain"}}, {"/secrets/A/from_file": "pattern"}),
        ({"A": {"from_env": "HOME"}, "B": {"from_env": "PATH"}},
         {"/secrets/A/from_env": "not-allowed", "/secrets/B/from_env": "not-allowed"}),
        ({"A": {"from_env": "CI_TOKEN,ABSENT"}}, {"/secrets/A/from_env": "pattern"}),
        ({"A": {}}, {"/secrets/A": "too-short"}),
        ({"A": {"from_file": inside, "from_env": "CI_TOKEN"}}, {"/secrets/A": "too-long"}),
        ({"A": {"value": "x"}}, {"/secrets/A/value": "unknown-field"}),
        ({"A": "x"}, {"/secrets/A": "wrong-type"}),
        ({"1A": {"from_env": "CI_TOKEN"}}, {"/secrets/1A": "pattern"}),
        ({"https_proxy": {"from_env": "CI_TOKEN"}}, {"/secrets/https_proxy": "reserved"}),
        ({f"A{n}": {"from_env": "CI_TOKEN"} for n in range(65)}, {"/secrets": "too-long"}),
    ]
    for path in ("/plans", "/bottles"):
        for secrets, faults in cases:
            reply = daemon.post(path, plan_of(secrets))
            assert (reply.status, reply.problem) == (422, "invalid-plan"), (secrets, reply)
            assert {fault["pointer"]: fault["code"] for fault in reply.json()["errors"]} == faults
    reply = daemon.post("/plans", plan_of({"A": {"from_env": "CI_TOKEN"}}, env={"A": "x"}))
    assert {fault["pointer"]: fault["code"] for fault in reply.json()["errors"]} == {"/secrets/A": "duplicate"}
    assert daemon.post("/plans", plan_of({}, reload_signal="KILL")).pointers == ["/reload_signal"]
    assert daemon.get("/bottles").json()["bottles"] == []


def test_what_a_start_can_not_read(keeper):
    daemon, place = keeper
    outside = place.root.parent / "outside"
    outside.write_text(place.value())
    (place.root / "folder").mkdir(exist_ok=True)
    os.mkfifo(place.root / "pipe")
    for name, target in {"out": str(outside), "up": "../outside", "loop": "loop", "magic": "/proc/self/root/etc/hostname"}.items():
        (place.root / name).symlink_to(target)
    place.write("nul", f"{place.value()}\0{place.value()}")
    place.write("large", place.value(32769))
    place.write("most", place.value(32768))
    faults = {"missing": "unreadable", "folder": "unreadable", "pipe": "unreadable", "out": "not-allowed", "up": "not-allowed",
              "loop": "unreadable", "magic": "not-allowed", "nul": "pattern", "large": "too-long"}
    secrets = {name: {"from_file": str(place.root / name)} for name in faults} | {"env": {"from_env": "ABSENT"}}
    daemon.create(plan_of(secrets, slug=SLUG))
    with harness.Clock() as clock:
        reply = daemon.post(f"/bottles/{SLUG}/start")
    assert clock.seconds < 5, "a pipe holds nobody up"
    assert (reply.status, reply.problem) == (422, "secrets-unavailable"), reply
    expected = {f"/secrets/{name}/from_file": code for name, code in faults.items()} | {"/secrets/env/from_env": "unreadable"}
    assert {fault["pointer"]: fault["code"] for fault in reply.json()["errors"]} == expected
    assert found_in(reply.body, place.made) == []
    assert (daemon.bottle(SLUG)["state"], daemon.own_processes()) == ("prepared", [])
    assert search_host(daemon, place.made) == []
    daemon.remove(SLUG)

    daemon.create(plan_of({f"A{n}": {"from_file": str(place.root / "most")} for n in range(4)}, slug=SLUG))
    assert daemon.get("/limits").json()["secrets"] == {"value_bytes": 65536, "total_bytes": 262144}
    reply = daemon.post(f"/bottles/{SLUG}/start")
    assert (reply.problem, reply.pointers) == ("secrets-unavailable", ["/secrets/A3/from_file"]), "four are too many bytes"
    daemon.remove(SLUG)


def test_one_call_that_can_not_have_them_leaves_nothing(keeper):
    daemon, place = keeper
    before = daemon.footprint()
    reply = daemon.post("/bottles?start=true&wait=running", plan_of({"A": {"from_file": str(place.root / "missing")}}))
    assert (reply.status, reply.problem, reply.pointers) == (422, "secrets-unavailable", ["/secrets/A/from_file"])
    assert daemon.footprint() == before


def test_without_a_word_of_the_operator_there_are_none(new_daemon):
    daemon = new_daemon().start()
    reply = daemon.post("/plans", plan_of({"A": {"from_file": "/etc/hostname"}, "B": {"from_env": "PATH"}}))
    assert (reply.status, reply.pointers) == (422, ["/secrets/A/from_file", "/secrets/B/from_env"])


def test_a_plan_shows_where_they_come_from(keeper):
    daemon, place = keeper
    path = place.write("shown", place.value())
    daemon.create(plan_of({"A": {"from_file": path}, "B": {"from_env": "CI_TOKEN"}}, slug=SLUG))
    page = daemon.get(f"/bottles/{SLUG}/plan", headers={"Accept": "text/plain"}).text
    assert f'A                    from the file "{path}"' in page and 'bottled\'s variable "CI_TOKEN"' in page
    plan = daemon.get(f"/bottles/{SLUG}/plan").json()
    assert plan["spec"]["secrets"]["A"] == {"from_file": path} and "A" not in plan["guest"]["env"]
    assert daemon.request("PATCH", f"/bottles/{SLUG}", {"secrets": {}}).pointers == ["/secrets"]
    daemon.remove(SLUG)
