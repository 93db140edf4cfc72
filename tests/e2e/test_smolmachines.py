"""The smolmachines backend, launched: smolvm's own library and kernel, one card on gvproxy's socket, and what
is said when a part of that is missing. On a host whose KVM works."""
import base64
import gzip
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import conftest
import control
import harness
import processes
import pytest

pytestmark = pytest.mark.kvm

SMOL = pathlib.Path(os.path.realpath(shutil.which("smolvm", path=f"{harness.ROOT}/.tools/bin:{os.environ['PATH']}"))).parent
KVM = {"accelerator": "auto", **harness.SLOW}
PLAN = {"backend": "smolmachines"}
LASTING = {**PLAN, "command": ["sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1000 & wait $!; done"]}

LOOK = """
uname -r
echo interfaces $(ls /sys/class/net)
echo devices $(cat /sys/bus/virtio/devices/*/device)
nslookup proxy.internal | grep -q "$(ip route | sed -n 's/^default via //p' | cut -d' ' -f1)" && echo found
nslookup example.com >/dev/null 2>&1; echo other $?
printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 proxy.internal 8888 | head -n 1
nc -w 3 proxy.internal 22 </dev/null; echo ssh $?
echo hi; exit 7
"""


@pytest.fixture(scope="module")
def row():
    """This row throughout."""
    harness.ROW = harness.ROWS["smolmachines-kvm"]
    yield harness.ROW
    harness.ROW = harness.ROWS["qemu-tcg"]


@pytest.fixture(scope="module")
def root_daemon(row):
    """For the tests that do not mind each other."""
    one = harness.Daemon(config=KVM)
    try:
        yield one.start(timeout=60)
    finally:
        conftest.finish(one)


@pytest.fixture
def kvm_daemon(new_daemon):
    """Makes daemons of their own."""

    def make(uid=None, **config):
        return new_daemon(config={**KVM, **config}, uid=uid).start(timeout=60)

    return make


def firmware_release():
    """The release that smolvm's kernel says it is, read from the file."""
    found = re.search(rb"Linux version ([^ ]+) \(", (SMOL / "libkrunfw.so.5").read_bytes())
    return found.group(1).decode()


@pytest.mark.parametrize("uid", [None, 65534], ids=["as root", "as an ordinary user"])
def test_the_mission(kvm_daemon, uid):
    daemon = kvm_daemon(uid)
    before = daemon.footprint()
    bottle = daemon.run({**PLAN, "slug": "mission", "command": ["sh", "-c", LOOK]}, timeout=90)
    assert (bottle["state"], bottle["exit_code"], bottle["reason"]) == ("exited", 7, None), daemon.log("mission", "vmm")
    assert (bottle["backend"], bottle["accelerator"]) == ("smolmachines", "kvm")
    assert (bottle["boot"], bottle["boot_reason"]) == ("cold", "the backend smolmachines has no templates")
    lines = [line for line in daemon.log("mission").splitlines() if line]
    assert lines[0] == firmware_release()
    assert "interfaces eth0 lo" in lines
    devices = next(line for line in lines if line.startswith("devices")).split()[1:]
    kinds = sorted(int(device, 16) for device in devices)
    # Balloon, entropy, console, virtio-fs, disk, network; 19 would be a vsock device.
    assert kinds == [1, 2, 3, 4, 5, 26]
    assert "found" in lines and "other 1" in lines and "ssh 1" in lines
    assert any(line.startswith("HTTP/1.") for line in lines), lines
    assert "hi" in lines  # what nc says on the other stream may come after it
    daemon.remove("mission")
    assert daemon.footprint() == before


# Connects to hosts and neighbours by vsock, on ports that smolvm and others use, and says what it got. Left out
# is VMADDR_CID_LOCAL: that is the guest itself.
VSOCK = r"""
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
    static const unsigned hosts[] = {VMADDR_CID_HYPERVISOR, VMADDR_CID_HOST, 3, 4, 1000};
    static const unsigned ports[] = {1, 22, 1024, 2375, 5000, 6000, 9999, 27000};
    int tried = 0, reached = 0;

    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++)
        for (unsigned host = 0; host < 5; host++)
            for (unsigned port = 0; port < 8; port++, tried++) {
                struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = hosts[host], .svm_port = ports[port]};
                int fd = socket(AF_VSOCK, type, 0);
                if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 && write(fd, "x", 1) == 1)
                    reached++;
                close(fd);
            }
    printf("tried %d reached %d, the last: %s\n", tried, reached, strerror(errno));
    return 0;
}
"""


def test_vsock_leads_nowhere(root_daemon, tmp_path):
    """The kernel knows vsock, and there is no device: whatever /dev/vsock is, nothing can be reached by it."""
    source, program = tmp_path / "vsock.c", tmp_path / "vsock"
    source.write_text(VSOCK)
    subprocess.run(["cc", "-static", "-Os", "-s", "-o", program, source], check=True)
    packed = base64.b64encode(gzip.compress(program.read_bytes())).decode()
    parts = [packed[at : at + 100_000] for at in range(0, len(packed), 100_000)]
    echo = "; ".join(f'printf %s "$PART{n}"' for n in range(len(parts)))
    plan = {
        **PLAN, "slug": "vsock", "env": {f"PART{n}": part for n, part in enumerate(parts)},
        "command": ["sh", "-c", f"({echo}) | base64 -d | gunzip >/tmp/vsock; chmod 755 /tmp/vsock; exec /tmp/vsock"],
    }  # fmt: skip
    assert root_daemon.run(plan, timeout=90)["exit_code"] == 0, root_daemon.log("vsock")
    assert root_daemon.log("vsock").startswith("tried 80 reached 0, "), root_daemon.log("vsock")


# smolvm's own agent makes an interface of no device, dummy0.
CARDS = """
for card in /sys/class/net/*; do [ ! -e $card/device ] || echo $card; done
ip route
for to in 192.0.2.1 10.0.0.1 100.96.0.1 169.254.169.254; do nc -w 2 $to 80 </dev/null && echo reached $to; done
echo end
"""


def test_a_machine_made_by_hand_has_no_network(kvm_daemon, tmp_path):
    """The file of the smolvm dialect, given to the command by hand: it boots, with no card and no way out."""
    daemon = kvm_daemon(smolfile_dialect="smolvm")
    daemon.create({**PLAN, "slug": "hand", "command": ["true"]})
    smolfile = tmp_path / "smolfile.toml"
    smolfile.write_text(daemon.get("/bottles/hand/plan/files/smolfile.toml").text)
    home = tempfile.mkdtemp(prefix="sm", dir="/tmp")  # short: smolvm's sockets lie below it
    environment = harness.smolvm_environment(home)

    def smolvm(verb, *arguments):
        # Not into pipes: the machine inherits them, and then they end with it.
        with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
            argv = [SMOL / "smol-vmm", "machine", verb, "--name", "hand", *arguments]
            done = subprocess.run(argv, env=environment, stdout=out, stderr=err, timeout=120)
        words = (tmp_path / "out").read_text()
        assert done.returncode == 0, (verb, words, (tmp_path / "err").read_text())
        return words

    smolvm("create", "--smolfile", smolfile)
    try:
        smolvm("start")
        assert smolvm("exec", "--", "sh", "-c", CARDS).split() == ["end"]
    finally:
        smolvm("stop")
        smolvm("delete", "-f")
        shutil.rmtree(home)


def test_auto_takes_it(root_daemon):
    assert root_daemon.get("/backends").json()["auto"] == "smolmachines"
    bottle = root_daemon.run({"command": ["true"]}, timeout=90)
    assert (bottle["backend"], bottle["exit_code"]) == ("smolmachines", 0)
    assert bottle["backend_reason"].startswith("auto: smolmachines is taken; KVM works")


def test_environment_and_output_keep_their_bytes(root_daemon):
    odd = " tab\tnewline\n\"quoted\" $HOME ü \\ "
    command = 'printf %s "$ODD" | od -An -tx1 | tr -d " \\n"; echo; dd if=/dev/zero bs=1000 count=2000 2>/dev/null | tr "\\0" x'
    plan = {**PLAN, "slug": "bytes", "env": {"ODD": odd}, "command": ["sh", "-c", command]}
    assert root_daemon.run(plan, timeout=90)["exit_code"] == 0
    first, _, rest = root_daemon.log("bytes").partition("\n")
    assert bytes.fromhex(first).decode() == odd
    assert rest == "x" * 2_000_000


def test_stop_is_told_to_the_command(root_daemon):
    root_daemon.create({**LASTING, "slug": "told"}, "?start=true&wait=running&timeout=90s")
    control.follow(root_daemon, "told", b"up\n")
    root_daemon.post("/bottles/told/stop")
    assert root_daemon.wait("told", "stopped", 60)["state"] == "stopped"
    log = root_daemon.log("told")
    assert log.startswith("up\n") and log.endswith("bye\n"), log  # the shell may say between what it saw die
    assert root_daemon.own_processes() == []


@pytest.mark.parametrize("which", [0, 1], ids=["the runner", "the machine"])
def test_killed_from_outside(root_daemon, which):
    """Seen at once, everything of the bottle gone, and it starts again."""
    slug = f"shot-{which}"
    root_daemon.create({**LASTING, "slug": slug}, "?start=true&wait=running&timeout=90s")
    runners = sorted(root_daemon.processes_named("bottle-krun"), key=lambda process: process.pid)
    assert len(runners) == 2, runners
    os.kill(runners[which].pid, signal.SIGKILL)
    bottle = root_daemon.wait(slug, "failed", 10)
    assert bottle["state"] == "failed" and "the VM ended before its command did" in bottle["reason"]
    if which == 1:
        assert "killed by signal 9" in bottle["reason"]
    for process in runners:
        assert processes.wait_gone(process.pid, 5)
    assert root_daemon.own_processes() == []
    reply = root_daemon.post(f"/bottles/{slug}/start?wait=running&timeout=90s")
    assert reply.json()["state"] == "running", reply
    root_daemon.remove(slug)


# --- What is missing --------------------------------------------------------------------------------


def library(folder, body="", less=()):
    """A libkrun of our own: every function of the table answers 0, but for those."""
    table = (harness.ROOT / "backends" / "krun_api.c").read_text()
    names = [f"krun_{name}" for name in re.findall(r"ROW\((\w+), (?:BOTH|SECOND)\)", table)]
    code = "".join(f"int {name}(void) {{ return 0; }}\n" for name in names if name not in less and name not in body)
    (folder / "libkrun.c").write_text(code + body)
    (folder / "firmware.c").write_text("int krunfw_none;\n")
    made = folder / "libkrun.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, folder / "libkrun.c", "-Wl,-soname,libkrun.so.2"], check=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libkrunfw.so.5", folder / "firmware.c"], check=True)
    return made


def refused(daemon):
    """The one thing that a 503 names, and what it says of it."""
    before = daemon.footprint()
    reply = daemon.post("/bottles?start=true", {**PLAN, "command": ["true"]})
    assert (reply.status, reply.problem) == (503, "preflight-failed"), reply
    tools = reply.json()["tools"]
    assert len(tools) == 1 and tools[0]["hint"], tools
    assert daemon.footprint() == before
    return tools[0]["name"], tools[0]["detail"]


def test_no_libkrun(kvm_daemon, tmp_path):
    """Without a library the kernel beside it is missing too."""
    daemon = kvm_daemon(libkrun=str(tmp_path / "libkrun.so"))
    reply = daemon.post("/bottles?start=true", {**PLAN, "command": ["true"]})
    assert (reply.status, reply.problem) == (503, "preflight-failed"), reply
    tools = reply.json()["tools"]
    assert [tool["name"] for tool in tools] == ["libkrun", "libkrunfw"]
    assert "is not there" in tools[0]["detail"]


def test_no_libkrunfw(kvm_daemon, tmp_path):
    shutil.copy(SMOL / "libkrun.so", tmp_path)
    name, detail = refused(kvm_daemon(libkrun=str(tmp_path / "libkrun.so")))
    assert name == "libkrunfw" and "is not beside" in detail


def test_libkrun_without_a_function(kvm_daemon, tmp_path):
    made = library(tmp_path, less=("krun_add_net_unixgram", "krun_add_disk"))
    name, detail = refused(kvm_daemon(libkrun=str(made)))
    assert name == "libkrun"
    assert detail == "libkrun of the second generation (libkrun.so.2) lacks krun_add_disk krun_add_net_unixgram"


def test_words_of_libkrun_reach_the_reason(kvm_daemon, tmp_path):
    made = library(
        tmp_path,
        "int krun_start_enter(unsigned ctx) { return -22; }\n"
        'const char *krun_get_last_error(void) { return "the vCPU had hiccups"; }\n',
    )
    tmp_path.chmod(0o755)
    daemon = kvm_daemon(libkrun=str(made))
    before = daemon.footprint()
    words = "libkrun refused to start the machine: the vCPU had hiccups: Invalid argument"
    reply = daemon.post("/bottles?start=true&wait=exited&timeout=60s", {**PLAN, "command": ["true"]})
    assert (reply.status, reply.problem) == (504, "boot-failed") and words in reply.json()["detail"], reply
    assert daemon.footprint() == before
    daemon.create({**PLAN, "slug": "ill", "command": ["true"]})
    assert daemon.post("/bottles/ill/start").status == 202
    bottle = daemon.wait("ill", "failed", 60)
    assert bottle["state"] == "failed" and words in bottle["reason"], bottle
    assert daemon.own_processes() == []


def test_a_device_that_others_can_not_open(new_daemon):
    mode = os.stat("/dev/kvm").st_mode & 0o777
    os.chmod("/dev/kvm", 0o600)
    try:
        daemon = new_daemon(config=KVM, uid=65534).start(timeout=60)
        name, detail = refused(daemon)
        assert name == "KVM" and "mode 0600" in detail, detail
        assert daemon.get("/backends").json()["auto"] == "qemu"
        bottle = daemon.create({"command": ["true"]})
        assert (bottle["backend"], bottle["accelerator"]) == ("qemu", "tcg")
        assert bottle["backend_reason"].startswith("auto: smolmachines can't run here (KVM: /dev/kvm has mode 0600")
    finally:
        os.chmod("/dev/kvm", mode)
