"""Secrets: read at each start and each reload, in the guest, and nowhere else on the host."""
import os
import pathlib
import re
import secrets as randomness
import time

import harness
import pytest
import test_exec

SLUG = "keeper"


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


def memory_of(pid):
    """All that a process can write to."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in open(f"/proc/{pid}/maps"):
            begin, end, flags = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
            if "w" not in flags:
                continue
            memory.seek(int(begin, 16))
            try:
                yield memory.read(int(end, 16) - int(begin, 16))
            except OSError:
                continue


def search_memory(pid, values):
    return sorted({hit for part in memory_of(pid) for hit in found_in(part, values)})


def test_the_guest_has_them_and_the_host_does_not(place, new_daemon):
    key, lines, disk = place.value(), place.value(), place.value(2000)
    daemon = new_daemon(**place.options()).start()
    plan = {
        "slug": SLUG,
        "command": ["sh", "-c", 'trap "echo heard" HUP; while :; do sleep 1000 & wait $!; done'],
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

    def run(command, **fields):
        result = test_exec.run(daemon, command, slug=SLUG, **fields)
        assert result["exit_code"] == 0, result
        return result["stdout"]

    script = 'printf "%s|" "$API_KEY" "$LINES" "$BIG" "$TOKEN" "$PLAIN"'
    expected = [key, f"{lines}\n 'q' \"$x\" \\\n\u00e9\n", disk, place.ci_token, "plain"]
    assert run(script) == "|".join(expected) + "|"
    assert run(script, env={"API_KEY": "mine"}).startswith("mine|")
    assert run("tr '\\0' '\\n' < /proc/$(pidof -s sh)/environ | grep -c '^API_KEY='").strip() != "0"
    assert run("cat /run/secrets/API_KEY /run/secrets/LINES") == f"{key}\n{lines}\n 'q' \"$x\" \\\n\u00e9\n\n"
    assert run("ls -A /run/secrets; stat -c %a:%u:%T /run/secrets/API_KEY; stat -f -c %T /run/secrets").split() == [
        "API_KEY", "BIG", "LINES", "TOKEN", "400:0:0", "tmpfs"]
    run("sync")
    assert search_host(daemon, place.made) == []
    shim = daemon.processes_named("bottle-shim")[0].pid
    if os.getuid() == 0:
        held = [value for value in place.made if value != place.ci_token]
        assert search_memory(daemon.pid, held) == [], "bottled keeps none of a file"
        assert search_memory(shim, place.made) == []
        for process in [daemon.pid, *(p.pid for p in daemon.own_processes())]:
            core = re.search(r"Max core file size\s+(\S+)\s+(\S+)", pathlib.Path(f"/proc/{process}/limits").read_text())
            assert core.groups() in {("1", "1"), ("0", "0")}, process

    new = place.value()
    pathlib.Path(place.root / "key").unlink()
    place.write("key", new)
    reply = daemon.post(f"/bottles/{SLUG}/secrets/reload")
    assert (reply.status, reply.json()) == (200, {"secrets": ["API_KEY", "LINES", "BIG", "TOKEN"], "signal": "HUP"})
    assert run('cat /run/secrets/API_KEY; echo " $API_KEY"') == f"{new} {new}"[: 2 * len(new) + 1] + "\n"
    test_exec.until(lambda: "heard" in daemon.log(SLUG))
    assert search_host(daemon, place.made) == []
    if os.getuid() == 0:
        assert search_memory(daemon.pid, [new]) == search_memory(shim, [new]) == []
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
