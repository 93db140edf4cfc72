"""A guest that wedges, crashes or hijacks its own gvproxy: its bottle ends with a reason within two seconds, and
nothing else is hurt.

Linux sends no frame shorter than its Ethernet header, so a guest needs a driver of its own for most of these. Here
a program stands in the VM's place, in the VM's jail, and puts on the wire what such a driver would.
"""
import os
import pathlib
import signal
import subprocess
import sys

import control
import harness
import pytest
import taken

END = 2.0  # seconds from the attack to the end of its bottle

GATEWAY = "5a94efe40cdd"
BROADCAST = "ffffffffffff"

# name: (what is sent, what the reason must say)
WEDGES = {f"{length} bytes": (["00" * length], "gvproxy gives no answer any more") for length in range(6)}
CRASHES = {
    "6 bytes to the gateway": ([GATEWAY], "gvproxy ended unexpectedly"),
    "13 bytes to the gateway": ([GATEWAY + "00" * 7], "gvproxy ended unexpectedly"),
    "13 bytes to everybody": ([BROADCAST + "00" * 7], "gvproxy ended unexpectedly"),
    "VFKT after the first frame": (["ff" * 60, b"VFKT".hex()], "gvproxy"),
}
FRAMES = {**WEDGES, **CRASHES}


def unhurt(daemon, neighbour):
    """The daemon and the other bottle's processes are as they were."""
    assert daemon.process.poll() is None
    assert daemon.bottle("neighbour")["state"] == "running"
    assert [p.pid for p in daemon.own_processes() if p.pid in neighbour["pids"]] == neighbour["pids"]


@pytest.fixture(scope="module")
def daemon(row):
    one = taken.Daemon()
    try:
        one.start()
        yield one
    finally:
        taken.finish(one)


@pytest.fixture(scope="module")
def neighbour(daemon):
    """A bottle that asks its proxy for a page once a second and tells when it gets none."""
    ask = "wget -q -O /dev/null http://allowed.example/ && echo got || echo LOST; sleep 1"
    plan = {"slug": "neighbour", "command": ["sh", "-c", f"while true; do {ask}; done"]}
    daemon.create({**plan, "egress": {"allow": ["allowed.example"]}}, "?start=true&wait=running")
    return {"pids": [process.pid for process in daemon.own_processes()]}


HIJACK = """
def expose(protocol, local):
    body = '{"local":"%s","remote":"tcp://192.0.2.1:7","protocol":"%s"}' % (local, protocol)
    api = socket.socket(socket.AF_UNIX)
    api.connect("/run/bottle/api.sock")
    head = "POST /services/forwarder/expose HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
    api.sendall((head + body).encode())
    return api.recv(1000).split(b" ")[1].decode()

print("answer", expose("unix", "/run/bottle/LOCAL"), flush=True)
print("attack", flush=True)
time.sleep(SECONDS)
send(4, struct.pack("<II", 0, 0))
take()
"""


@pytest.mark.parametrize("name", ["api.sock", "net.sock"])
def test_a_hijack_comes_to_nothing(daemon, neighbour, name):
    """gvproxy's API, over which a guest would put a socket of its own in the place of gvproxy's."""
    program = HIJACK.replace("LOCAL", name).replace("SECONDS", "2.5")
    bottle, _ = taken.attack(daemon, program, until="exited", keep=True)
    log = daemon.log(bottle["slug"], "console")
    daemon.remove(bottle["slug"])
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 0), bottle
    assert "answer 500" in log
    unhurt(daemon, neighbour)


@pytest.mark.parametrize("name", ["api.sock", "net.sock"])
def test_a_hijack_would_be_seen(row, name):
    """The same without the cell's filter: the socket is another one, and the bottle ends."""
    one = taken.Daemon(config={"libexec_dir": str(harness.BUILD / "open-cell")})
    try:
        one.start()
        bottle, seconds = taken.attack(one, HIJACK.replace("LOCAL", name).replace("SECONDS", "600"))
        assert bottle["state"] == "failed", bottle
        assert f"gvproxy's socket {name} was replaced" in bottle["reason"], bottle["reason"]
        assert seconds <= END
    finally:
        taken.finish(one)


@pytest.mark.parametrize("name", FRAMES)
def test_frames(daemon, neighbour, name):
    frames, words = FRAMES[name]
    bottle, seconds = taken.attack(daemon, taken.SEND_FRAMES.replace("FRAMES", repr(frames)))
    assert bottle["state"] == "failed", bottle
    assert words in bottle["reason"], bottle["reason"]
    assert seconds <= END
    unhurt(daemon, neighbour)


FLOWS = """
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

me = socket.inet_aton(NET + ".2")
for n in range(40000):
    to = struct.pack("!I", 0x01000001 + n)
    udp = struct.pack("!HHHH", 1024 + n % 60000, 9999, 12, 0) + b"flow"
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), n & 0xffff, 0, 64, 17, 0, me, to)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    wire.send(bytes.fromhex("5a94efe40cdd" "5a94ef000001" "0800") + head + udp)
print("all sent", flush=True)
time.sleep(600)
"""


def peak_mib(pid):
    """None when it has just ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM")), None)


def test_flows_to_nowhere_are_bounded(daemon, neighbour):
    """40,000 UDP flows took gvproxy to 693 MB. Each holds a socket, and those are counted."""
    taken.create(daemon, "flows")
    net = daemon.bottle("flows")["guest_ip"].rsplit(".", 1)[0]
    taken.start(daemon, "flows", FLOWS.replace("NET", repr(net)))
    pid = next(p.pid for p in reversed(daemon.processes_named("gvproxy")) if p.pid not in neighbour["pids"])
    peak = 0
    while os.path.exists(f"/proc/{pid}") and b"all sent" not in daemon.get("/bottles/flows/logs?stream=console").body:
        peak = max(peak, peak_mib(pid) or 0)
    bottle = daemon.bottle("flows")
    print(f"gvproxy's peak: {peak:.0f} MiB; the bottle: {bottle['state']} {bottle['reason']}")
    assert 0 < peak < 320  # its bottle may end by it
    daemon.remove("flows")
    unhurt(daemon, neighbour)


def test_a_stopped_gvproxy_is_noticed(daemon, neighbour):
    """Alive, its sockets open, and it answers nothing: whatever the reason, its bottle ends, and no other."""
    daemon.create({"slug": "frozen", "command": ["sleep", "1000"]}, "?start=true&wait=running")
    pid = next(p.pid for p in reversed(daemon.processes_named("gvproxy")) if p.pid not in neighbour["pids"])
    os.kill(pid, signal.SIGSTOP)
    with harness.Clock() as clock:
        bottle = daemon.wait("frozen", "failed")
    assert "gvproxy gives no answer any more" in bottle["reason"] and clock.seconds <= END, (bottle, clock.seconds)
    daemon.remove("frozen")
    unhurt(daemon, neighbour)


def test_a_slow_machine_is_no_wedge(daemon, neighbour):
    """Thirty programs that do nothing but run, for ten seconds."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(30)]
    try:
        assert daemon.get("/bottles/neighbour/wait?state=failed&timeout=10s").status == 504  # it lives on
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_the_neighbour_lost_nothing(daemon, neighbour):
    assert "LOST" not in control.follow(daemon, "neighbour", b"got\n" * 3)
