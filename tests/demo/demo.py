"""The demo: one POST, one confined guest, one table, one cleanup. Started by tests/demo/demo."""
import json
import os
import pathlib
import shlex
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE.parent / "netns")]

import canary  # noqa: E402
import harness  # noqa: E402
import probes  # noqa: E402
import processes  # noqa: E402

SLUG = "demo"
WAIT_SECONDS = 50
WIDTH = 100
SHOWN_LINES = 11  # of gvproxy.yaml: the policy in bottled's own keys
# What "as before" means, for each part of harness.Daemon.footprint().
CLEAN = {
    "processes": "none but bottled",
    "sockets": "none but bottled's",
    "ports": "no listener but the canaries",
    "state files": "no stage directory",
    "run files": "no run directory",
    "mounts": "none",
    "rows": "none in the database",
    "cgroups": "none",
}
COLOURS = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in os.environ


class Failed(Exception):
    """The demo can not go on; the text says why."""


def colour(text, code):
    return f"\033[{code}m{text}\033[0m" if COLOURS else text


def heading(text):
    print(f"\n{colour('== ' + text, '1')}", flush=True)


def say(text):
    print(textwrap.fill(text, WIDTH), flush=True)


class Verdicts:
    """Counts what was not as it must be."""

    def __init__(self):
        self.wrong = []

    def check(self, good, what):
        mark = colour("ok", "32") if good else colour("WRONG", "31")
        print(f"  {mark:>{5 + len(mark) - len('ok' if good else 'WRONG')}}  {what}", flush=True)
        if not good:
            self.wrong.append(what)


def curl(daemon, *arguments, note=None):
    """Shows a curl call as one would type it, makes it, and gives the status and the body."""
    shown = [*arguments[:-1], f"http://x{arguments[-1]}"]
    words = [note if note and word.startswith("{") else shlex.quote(word) for word in shown]
    print(colour(f"$ curl --unix-socket $S {' '.join(words)}", "36"), flush=True)
    status, body = daemon.curl(*shown)
    return status, body


def call(daemon, expected, *arguments, note=None):
    status, body = curl(daemon, *arguments, note=note)
    if status != expected:
        raise Failed(f"expected {expected}, got {status}:\n{indented(body)}")
    return json.loads(body)


def indented(body):
    try:
        body = json.dumps(json.loads(body), indent=2)
    except ValueError:
        pass
    return textwrap.indent(body, "  ")


def table(rows, head):
    """Columns as wide as their widest cell; colours do not count."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    print("  " + colour("  ".join(cell.ljust(width) for cell, width in zip(head, widths)).rstrip(), "1"))
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.stdout.flush()


# --- The acts ----------------------------------------------------------------------------------


def show_canaries(birds, verdicts):
    heading("The network around it")
    say(
        "A network of its own, where canaries play the internet, the LAN, the metadata service, the host's "
        "resolver and the host's own services. First they are called from the host's side, so that their "
        "silence means something later."
    )
    deaf = canary.self_test(birds)
    verdicts.check(not deaf, f"{len(canary.SELF_TEST) - len(deaf)} of {len(canary.SELF_TEST)} canaries heard and answered")


def show_boot(daemon, backend):
    heading("One POST")
    print(f"S={daemon.socket}")
    plan = {"backend": backend, **probes.plan(slug=SLUG)}
    # It stays when it has tried all, so that there is something running to clean up.
    plan["command"][2] += "exec sleep 100000\n"
    note = f"""'{{"slug": "{SLUG}", "egress": {{"allow": {json.dumps(probes.ALLOW)}}}, "command": ["sh", "-c", "…"]}}'"""
    begun = time.monotonic()
    query = f"/bottles?start=true&wait=running&timeout={WAIT_SECONDS}s"
    bottle = call(daemon, 201, "-d", json.dumps(plan), query, note=note)
    seconds = time.monotonic() - begun
    if bottle["state"] != "running":
        raise Failed(f"the bottle is {bottle['state']}: {bottle['reason']}\n{daemon.log(SLUG, 'console')[-2000:]}")
    print(f"201 in {seconds:.1f} s: running, backend {bottle['backend']} ({bottle['accelerator']}), guest {bottle['guest_ip']}")
    resolved = call(daemon, 200, f"/bottles/{SLUG}/plan")
    _, policy = curl(daemon, f"/bottles/{SLUG}/plan/files/gvproxy.yaml")
    print(textwrap.indent("\n".join(policy.splitlines()[:SHOWN_LINES]), "  "))
    print(f"  … and {len(policy.splitlines()) - SHOWN_LINES} more lines that say the same in gvproxy's own keys")
    print(f"The egress proxy of this bottle is {resolved['engine']}.")


def follow_log(daemon):
    """curl reads the command's log as it grows, until the guest says "done"."""
    argv = ["curl", "--silent", "--no-buffer", "--max-time", str(WAIT_SECONDS), "--unix-socket", str(daemon.socket)]
    path = f"/bottles/{SLUG}/logs?stream=command&follow=true"
    print(colour(f"$ curl --no-buffer --unix-socket $S 'http://x{path}'", "36"), flush=True)
    lines = []
    with subprocess.Popen([*argv, f"http://x{path}"], stdout=subprocess.PIPE) as reader:
        for line in reader.stdout:
            lines.append(line.decode(errors="replace"))
            if line == b"done\n":
                break
        reader.terminate()
    if not lines or lines[-1] != "done\n":
        raise Failed(f"the guest has not tried all within {WAIT_SECONDS} s:\n{''.join(lines)}")
    return "".join(lines)


def show_table(daemon, birds, heard_before, verdicts):
    heading("What the guest tried, and what came back")
    told = probes.results(follow_log(daemon))
    rows, wrong = [], []
    for probe in probes.PROBES:
        good, words = probe.judge(told.get(probe.id))
        rows.append((probe.tried, words[:44], probe.verdict if good else "WRONG"))
        if not good:
            wrong.append(probe.tried)
    table(rows, ("tried in the guest", "what came back", "verdict"))
    print()
    reached = sum(probe.verdict == probes.REACHED for probe in probes.PROBES)
    count = len(probes.PROBES)
    summary = f"{reached} ways through proxy.internal:8888 reached, {count - reached} ways around it refused"
    verdicts.check(not wrong, summary if not wrong else f"not as it must be: {'; '.join(wrong)}")
    hits = birds.hits[heard_before:]
    verdicts.check(not hits, f"canaries heard: {len(hits)}" + "".join(f"\n         {hit}" for hit in hits[:5]))
    say(
        "gateway:80 is gvproxy's own API, which it always offers to its guest. In the cell it can neither replace "
        "a file nor leave its network of one loopback: its answer is an error, and nothing changed. "
        "Ping is not in the table: the gateway itself answers it for every address."
    )


def show_cleanup(daemon, before, verdicts):
    heading("What deleting would remove")
    plan = call(daemon, 200, f"/bottles/{SLUG}/cleanup-plan")
    table([(i["kind"], short(daemon, i["name"]), i["action"]) for i in plan["items"]], ("kind", "name", "action"))
    heading("Deleting")
    done = call(daemon, 200, "-X", "DELETE", f"/bottles/{SLUG}")
    table([(i["kind"], short(daemon, i["name"]), i["outcome"]) for i in done["items"]], ("kind", "name", "outcome"))
    print()
    failed = [i["name"] for i in done["items"] if i["outcome"].startswith("failed")]
    verdicts.check(not failed, "every item of the plan has its outcome")
    after = daemon.footprint()
    for what in before:
        good = after[what] == before[what]
        left = f"{what} left: {after[what]}, before: {before[what]}"
        verdicts.check(good, f"{what}: {CLEAN[what]}" if good else left)


def short(daemon, name):
    return name.replace(str(daemon.base), "…")


def show_end(daemon, verdicts):
    heading("The end")
    socket = str(daemon.socket)
    status = daemon.stop()
    verdicts.check(status == 0, f"bottled ended with {status}")
    left = processes.descendants()
    verdicts.check(not left, f"processes left: {left or 'none'}")
    sockets = processes.unix_sockets(daemon.base)
    verdicts.check(not sockets and not os.path.exists(socket), f"sockets left: {sorted(sockets) or 'none'}")


def perform(daemon, backend):
    verdicts = Verdicts()
    with canary.Canaries() as birds:
        show_canaries(birds, verdicts)
        heading("bottled")
        daemon.start()
        print(f"$ build/bottled --state-dir {daemon.state_dir} --run-dir {daemon.run_dir}")
        print(next(line for line in daemon.output.lines if line.startswith("ready on")))
        before, heard = daemon.footprint(), len(birds.hits)
        show_boot(daemon, backend)
        show_table(daemon, birds, heard, verdicts)
        show_cleanup(daemon, before, verdicts)
        show_end(daemon, verdicts)
    return verdicts


def interrupted(number, _frame):
    raise Failed(f"ended by {signal.Signals(number).name}")


def main():
    begun = time.monotonic()
    processes.become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    backend = os.environ.get("BACKEND") or "auto"
    slow = harness.SLOW if backend == "smolmachines" else {}
    daemon = harness.Daemon(config={"host_ports": probes.HOST_PORTS, "accelerator": "auto", **slow})
    verdicts, fault = None, None
    try:
        verdicts = perform(daemon, backend)
    except (Failed, AssertionError, OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        fault = str(error)
    finally:
        # Whatever happened, nothing of it stays: bottled, bottles, folders.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if fault and daemon.output:
            print(textwrap.indent("\n".join(daemon.output.lines[-15:]), "  bottled: "))
        daemon.close()
    seconds = time.monotonic() - begun
    if fault or verdicts.wrong:
        print(colour(f"\ndemo: FAILED after {seconds:.0f} s", "31"))
        for line in ([fault] if fault else []) + (verdicts.wrong if verdicts else []):
            print(f"demo: {line}")
        return 1
    print(colour(f"\ndemo: all as it must be, in {seconds:.0f} s", "32"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
