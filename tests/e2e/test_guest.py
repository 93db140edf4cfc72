"""bottle-init in a real VM: what the command gets, what comes back, and how the machine ends."""
import hashlib
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

import pytest

import guest_vm
from guest_vm import EXIT, FAILED, OUTPUT, POWEROFF, SECRETS, SECRETS_SET, SIGNAL, START, Guest
from harness import BUILD, ROOT


@pytest.fixture
def boot(tmp_path):
    """boot(…): a Guest of this test's own."""
    made = []

    def make(**options):
        made.append(Guest(tmp_path, **options))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


# --- How a command ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, code, signal, words",
    [
        (["true"], 0, 0, ""),
        (["sh", "-c", "exit 7"], 7, 0, ""),
        (["sh", "-c", "kill -9 $$"], 128 + 9, 9, ""),
    ],
    ids=["0", "7", "KILL"],
)
def test_the_real_exit_status_comes_back(boot, argv, code, signal, words):
    guest = boot()
    result = guest.run(argv)
    assert (result.started, result.code, result.signal, result.words) == (True, code, signal, words)
    assert guest.end() == 0


@pytest.mark.parametrize(
    "argv, workdir, code, words",
    [
        (["no\nsuch"], "/", 127, 'the command "no?such" was not found in the directories of PATH'),
        (["/etc/hosts"], "/", 126, 'the command "/etc/hosts" can not be run: Permission denied'),
        (["true", "x" * 131072], "/", 126, 'the command "true" can not be run: Argument list too long'),
        (["true"], "/etc/hosts/x", 126, 'the work directory "/etc/hosts/x" can not be used: Not a directory'),
    ],
    ids=["not in PATH", "not executable", "too long", "workdir"],
)
def test_a_command_that_can_not_start_never_counts_as_started(boot, argv, workdir, code, words):
    guest = boot()
    result = guest.run(argv, workdir=workdir)
    assert (result.started, result.code, result.signal, result.words) == (False, code, 0, words)
    assert guest.end() == 0


# --- What it gets ----------------------------------------------------------------------------


def test_environment_and_arguments_arrive_byte_for_byte(boot):
    every = "".join(chr(number) for number in range(1, 256)).encode()
    env = [
        guest_vm.PATH.encode(),
        b"EVERY=" + every,
        b"QUOTES=\"'`\\\"' \\n",
        b"NEWLINES=\n\na\r\n\n",
        b"DOLLAR=$HOME ${HOME} $(id) %s",
        b"SPACES=  a  ",
        b"EMPTY=",
        b"EQUALS==a=b=",
        b"SIXTY=" + (every * 150).ljust(60_000, b"x"),
        b"LARGE=" + b"0123456789" * 13_100,
        b"lower-case.and dots=1",
        b"EVERY=a second of this name",
    ]
    assert len(env[8]) == 60_006 and len(env[9]) == 131_006
    guest = boot()
    argv = ["cat", "/proc/self/environ", "/proc/self/cmdline", "/proc/self/status"]
    result = guest.run(argv, env=env)
    own = b"HOME=/root\0"  # its user's, as there is none
    want = b"\0".join(env) + b"\0" + own + "".join(word + "\0" for word in argv).encode()
    assert result.out[: len(want)] == want
    status = dict(re.findall(r"^(\w+):\s*(\S+)", result.out[len(want) :].decode(), re.MULTILINE))
    assert [int(status[key], 16) for key in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
    assert guest.end() == 0
    for secret in ("HOME", "0123456789", "EVERY"):
        assert secret not in guest.console()


def test_digests_of_values_in_a_shell(boot):
    value = "".join(chr(number) for number in range(1, 256)) + "\n \n"
    env = [guest_vm.PATH, f"A={value}", "B=" + "y" * 131_000]
    guest = boot()
    result = guest.run(["sh", "-c", 'printf %s "$A" | sha256sum; printf %s "$B" | sha256sum'], env=env)
    want = [hashlib.sha256(v.encode()).hexdigest() for v in (value, "y" * 131_000)]
    assert [line.split()[0] for line in result.out.decode().splitlines()] == want
    guest.end()


LOOK = r"""
pwd; hostname; id -u; umask; cat /proc/self/stat | cut -d' ' -f5,6 | tr ' ' '\n' | sort -u | wc -l
readlink /proc/$$/fd/0; ls /proc/$$/fd | grep -cv '^[012]$'
cat /etc/hosts /etc/hostname /etc/resolv.conf
for d in /proc /sys /dev /dev/pts /dev/shm /run /sys/fs/cgroup; do grep -q " $d " /proc/mounts || echo "no $d"; done
stat -c %a /tmp /dev/shm; echo x >/dev/fd/1; : >/usr/bin/written && echo written
ip -4 -o addr show | awk '{print $2, $4}'; ip route; cat /sys/class/net/lo/operstate
ls / | grep -cE '^(init|modules)$'; head -c 4 /dev/urandom | wc -c; date +%s
"""


def test_the_command_finds_itself_at_home(boot):
    guest = boot()
    result = guest.run(["sh", "-c", LOOK], workdir="/deep/er/work dir", hostname="box-1")
    lines = result.out.decode().splitlines()
    assert lines[:6] == ["/deep/er/work dir", "box-1", "0", "0022", "1", "/dev/null"], result.err
    assert lines[6:12] == [
        "0",
        "127.0.0.1 localhost",
        "192.168.50.2 box-1",
        "box-1",
        "nameserver 192.168.50.1",
        "options timeout:2 attempts:2",
    ]
    assert lines[12:16] == ["1777", "1777", "x", "written"]
    assert lines[16:20] == [
        "lo 127.0.0.1/8",
        "eth0 192.168.50.2/24",
        "default via 192.168.50.1 dev eth0 ",
        "192.168.50.0/24 dev eth0 scope link  src 192.168.50.2 ",
    ]
    assert lines[21:23] == ["0", "4"]
    assert abs(int(lines[23]) - time.time()) < 30
    guest.end()


def test_the_search_path_is_the_one_of_the_environment(boot):
    """/opt has a program that may not be run and /a a folder of that name: both are passed over."""
    guest = boot()
    setup = "mkdir -p /opt /a/prog /b; echo x >/opt/prog; printf '#!/bin/sh\\necho right\\n' >/b/prog; chmod 755 /b/prog; "
    inner = "exec env PATH=/nowhere:/opt:/a:/b:/usr/bin prog"
    result = guest.run(["sh", "-c", setup + inner])
    assert result.out == b"right\n"
    guest.end()
    guest = boot()
    result = guest.run(["true"], env=["PATH=/nowhere:/etc/hosts:", "X=/usr/bin"])
    assert (result.code, result.started) == (127, False)
    guest.end()
    guest = boot()
    result = guest.run(["env"], env=[])  # a default path to find it by, and yet no PATH inside
    assert (result.code, result.out) == (0, b"HOME=/root\n")
    guest.end()


# --- What it prints --------------------------------------------------------------------------


def test_fifty_megabytes_come_through_whole(boot):
    size = 50_000_000
    guest = boot()
    result = guest.run(["sh", "-c", f"echo no >&2; yes 0123456789abcde | head -c {size}; echo end >&2"])
    unit = b"0123456789abcde\n"
    assert len(result.out) == size
    assert hashlib.sha256(result.out).digest() == hashlib.sha256(unit * (size // len(unit))).digest()
    assert result.err == b"no\nend\n"
    guest.end()


def test_a_slow_host_holds_the_command_back_and_loses_nothing(boot):
    guest = boot()
    guest.hello()
    guest.start(["sh", "-c", "yes 0123456789abcde | head -c 8000000; exit 3"])
    assert guest.frame()[0] == guest_vm.STARTED
    time.sleep(1.5)  # nothing is read: the pipe, the port and the socket fill up
    assert guest.process.poll() is None
    result = guest_vm.Result()
    result.started = True
    while result.code is None:
        result.take(*guest.frame())
    assert (result.code, len(result.out)) == (3, 8_000_000)
    guest.end()


def test_what_was_printed_before_the_end_is_kept_for_a_slow_host(boot):
    """The command ends at once; its last 60 kB still lie in the pipe while nobody reads for two seconds."""
    guest = boot()
    guest.hello()
    guest.start(["sh", "-c", "head -c 6000000 /dev/zero; head -c 60000 /dev/zero | tr '\\0' x; (sleep 100 &)"])
    assert guest.frame()[0] == guest_vm.STARTED
    time.sleep(2)
    result = guest_vm.Result()
    result.started = True
    while result.code is None:
        result.take(*guest.frame())
    assert len(result.out) == 6_060_000 and result.out[-60_000:] == b"x" * 60_000
    guest.end()


# --- Processes -------------------------------------------------------------------------------


def test_two_thousand_orphans_are_reaped(boot):
    script = """
    i=0; while [ $i -lt 2000 ]; do (true &); i=$((i+1)); done
    sleep 0.5
    grep -l '^State:.*Z' /proc/[0-9]*/status 2>/dev/null | wc -l; cut -d/ -f2 /proc/loadavg | cut -d' ' -f1
    """
    guest = boot()
    result = guest.run(["sh", "-c", script])
    zombies, processes = result.out.decode().split()
    assert int(zombies) == 0 and int(processes) < 120
    guest.end()


def test_a_daemon_that_holds_stdout_does_not_hold_the_end(boot):
    guest = boot()
    result = guest.run(["sh", "-c", "(trap '' TERM; while :; do echo more; sleep 0.1; done) & echo up; exit 5"])
    assert result.code == 5 and b"up\n" in result.out
    assert 0.5 < result.seconds < 5
    begun = time.monotonic()
    guest.end()
    assert time.monotonic() - begun < 5


def test_a_daemon_that_floods_stdout_does_not_hold_the_end(boot):
    guest = boot()
    result = guest.run(["sh", "-c", "yes & sleep 0.2; exit 6"])
    assert result.code == 6 and result.seconds < 10
    guest.end()


def test_signals_reach_the_whole_group(boot):
    script = "trap 'echo got; exit 9' USR1; sh -c 'trap \"echo inner; exit\" USR1; sleep 100 & echo ready; wait'"
    guest = boot()
    guest.hello()
    guest.start(["sh", "-c", script])
    assert guest.frame()[0] == guest_vm.STARTED
    assert guest.frame() == (OUTPUT, b"\1ready\n")
    guest.send(SIGNAL, struct.pack("<I", 10))
    result = guest_vm.Result()
    result.started = True
    while result.code is None:
        result.take(*guest.frame())
    assert (result.code, sorted(result.out.split())) == (9, [b"got", b"inner"])
    guest.end()


def test_a_killed_command_is_said_to_be_killed(boot):
    guest = boot()
    guest.hello()
    guest.start(["sleep", "1000"])
    assert guest.frame()[0] == guest_vm.STARTED
    guest.send(SIGNAL, struct.pack("<I", 9))
    assert guest.frame() == (EXIT, struct.pack("<II", 137, 9))
    guest.end()


# --- Secrets ---------------------------------------------------------------------------------


def test_secrets_are_the_users_alone(boot):
    script = """trap 'echo "told $(cat /run/secrets/B) $B"; exit 4' USR1
    id -u; echo "$A|$B|$C"; ls -A /run/secrets; stat -c '%u:%g %a' /run/secrets /run/secrets/B; touch /run/secrets/x 2>&1; echo up
    while :; do sleep 0.1; done"""
    guest = boot()
    guest.hello()
    guest.send(SECRETS, guest_vm.secrets_payload(0, 0, "B=two\n\n", "A=x=\n", "C="))
    guest.start(["sh", "-c", script], env=[guest_vm.PATH, "A=plain", "B=plain"], user="1234:567")
    result = guest_vm.Result()
    while not result.out.endswith(b"up\n"):
        result.take(*guest.frame())
    words = "1234|x=|two\n||A|B|C|0:0 755|1234:567 400|touch: /run/secrets/x: Permission denied|up|"
    assert result.out.decode().replace("\n", "|") == words.replace("\n", "|")
    guest.send(SECRETS, guest_vm.secrets_payload(7, 10, "B=new", "A=a", "C=c"))
    while (frame := guest.frame())[0] != EXIT:
        if frame[0] == SECRETS_SET:
            assert frame[1] == struct.pack("<I", 7)
        else:
            result.take(*frame)
    assert result.out.endswith(b"told new two\n\n"), "a program that runs keeps its variables"
    assert struct.unpack("<II", frame[1][:8]) == (4, 0)
    assert guest.end() == 0


# --- The machine's end -----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before START", "while it runs"])
def test_poweroff(boot, when):
    guest = boot()
    guest.hello()
    if when == "while it runs":
        guest.start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"])
        assert [guest.frame()[0], guest.frame()[0]] == [guest_vm.STARTED, OUTPUT]
    guest.send(POWEROFF)
    assert guest.frame() is None
    assert guest.wait() == 0


@pytest.mark.parametrize("when", ["before START", "while it runs"])
def test_a_host_that_leaves_ends_the_machine(boot, when):
    guest = boot()
    guest.hello()
    if when == "while it runs":
        guest.start(["sleep", "1000"])
        assert guest.frame()[0] == guest_vm.STARTED
    guest.host.close()
    assert guest.wait() == 0


def test_a_host_that_does_not_answer_exit_does_not_keep_the_machine(boot):
    guest = boot()
    assert guest.run(["true"]).code == 0
    begun = time.monotonic()
    assert guest.wait(15) == 0
    assert 2 < time.monotonic() - begun < 10


BAD_FIRST = {
    "reserved byte": b"\0\0\0\0\x40\0\0\1",
    "a length over the bound": struct.pack("<IB3x", 2 * 1024 * 1024 + 1, START),
    "unknown type": guest_vm.packed(200),
    "SIGNAL before START": guest_vm.packed(SIGNAL, struct.pack("<I", 9)),
    "lying counts": guest_vm.packed(START, struct.pack("<II", 0xFFFFFFFF, 1) + b"a\0b\0c\0d\0e\0"),
    "no address": guest_vm.packed(START, guest_vm.start_payload(["true"], [], "/", "h", "1.2.3/24", "1.2.3.5")),
    "no prefix": guest_vm.packed(START, guest_vm.start_payload(["true"], [], "/", "h", "10.0.0.2", "10.0.0.1")),
    "a prefix of nothing": guest_vm.packed(START, guest_vm.start_payload(["true"], [], "/", "h", "10.0.0.2/0", "10.0.0.1")),
    "gateway elsewhere": guest_vm.packed(START, guest_vm.start_payload(["true"], [], "/", "h", "10.0.0.2/24", "1.1.1.1")),
    "hostname too long": guest_vm.packed(START, guest_vm.start_payload(["true"], [], "/", "h" * 65, "10.0.0.2/24", "10.0.0.1")),
}


@pytest.mark.parametrize("raw", BAD_FIRST.values(), ids=BAD_FIRST.keys())
def test_a_bad_first_frame_is_told_and_ends_the_machine(boot, raw):
    guest = boot()
    guest.hello()
    guest.host.sendall(raw)
    frame_type, words = guest.frame()
    assert frame_type == FAILED and words
    assert guest.end() == 0
    assert "bottled: " + words.decode() in guest.console()


EXEC, EXEC_INPUT, STDIN = 68, 69, 2


def exec_payload(flags):
    return struct.pack("<IIIHHII", 1, flags, 0, 0, 0, 1, 0) + b"\0true\0"


@pytest.mark.parametrize(
    "raw",
    [
        guest_vm.packed(START, guest_vm.start_payload(["true"], [], "/", "h", "10.0.0.2/24", "10.0.0.1")),
        guest_vm.packed(guest_vm.WAKE),
        guest_vm.packed(SIGNAL, struct.pack("<I", 65)),
        b"\xff" * 64,
        guest_vm.packed(SECRETS, guest_vm.secrets_payload(0, 0, "A=b")),
        guest_vm.packed(EXEC, exec_payload(flags=8)),
        guest_vm.packed(EXEC, exec_payload(flags=STDIN)) + guest_vm.packed(EXEC_INPUT, b"\1\0\0\0" + b"x" * 65537),
    ],
    ids=["a second START", "WAKE once it runs", "signal 65", "noise", "secrets that nobody asks for", "an unknown flag", "more input than the window"],
)
def test_a_bad_later_frame_is_told_and_ends_the_machine(boot, raw):
    guest = boot()
    guest.hello()
    guest.start(["sleep", "1000"])
    assert guest.frame()[0] == guest_vm.STARTED
    guest.host.sendall(raw)
    frame_type, words = guest.frame()
    assert frame_type == FAILED and words.startswith(b"the host sent ")
    assert guest.end() == 0


def test_a_start_message_in_small_pieces(boot):
    guest = boot()
    guest.hello()
    raw = guest_vm.packed(START, guest_vm.start_payload(["echo", "x" * 3000], [guest_vm.PATH], "/", "h", "10.0.0.2/24", "10.0.0.1"))
    for at in range(0, len(raw), 97):
        guest.host.sendall(raw[at : at + 97])
    result = guest.result()
    assert (result.code, len(result.out)) == (0, 3001)
    guest.end()


def test_what_a_restored_machine_is_given(boot):
    """A host that has not heard HELLO asks for it; time and address are what START says."""
    guest = boot()
    release = guest.hello()
    guest.send(guest_vm.WAKE)
    assert guest.hello() == release
    script = "date +%s; cat /sys/class/net/eth0/address"
    guest.start(["sh", "-c", script], mac="5a:94:ef:00:01:02", wall_ms=1_000_000_000_900)
    second, mac = guest.result().out.decode().split()
    assert 1_000_000_000 <= int(second) <= 1_000_000_005 and mac == "5a:94:ef:00:01:02"
    guest.end()


def test_an_image_that_is_none_is_told(boot, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(b"\0" * 65536)
    guest = boot(image=image)
    result = guest.run(["true"])
    assert result.failed.startswith("mounting the bottle's image: ")
    assert guest.end() == 0


def test_links_in_the_image_lead_nowhere_else(boot, tmp_path):
    """An image whose files are links out of it, or whose folders are missing, gets files of its own."""
    root, image = tmp_path / "root", tmp_path / "image.erofs"
    original = BUILD / "guest" / "images" / "busybox.erofs"
    subprocess.run(["fsck.erofs", f"--extract={root}", original], check=True, capture_output=True)
    for name in ("hosts", "resolv.conf", "hostname"):
        (root / "etc" / name).unlink()
    (root / "etc" / "hosts").symlink_to("/var/elsewhere")
    (root / "var" / "elsewhere").write_text("untouched\n")
    (root / "etc" / "resolv.conf").symlink_to("../run/nothing/resolv.conf")
    (root / "etc" / "hostname").mkdir()
    shutil.rmtree(root / "tmp")
    shutil.rmtree(root / "workspace")
    subprocess.run(["mkfs.erofs", "--all-root", image, root], check=True, capture_output=True)
    guest = boot(image=image)
    result = guest.run(["sh", "-c", "cat /etc/hosts /etc/resolv.conf /etc/hostname /var/elsewhere; stat -c %a /tmp; pwd"])
    assert result.out.decode().splitlines() == [
        "127.0.0.1 localhost",
        "192.168.50.2 box",
        "nameserver 192.168.50.1",
        "options timeout:2 attempts:2",
        "box",
        "untouched",
        "1777",
        "/workspace",
    ]
    guest.end()


# --- The network -----------------------------------------------------------------------------

GVPROXY = """
interfaces:
  vfkit: "unixgram://{folder}/net.sock"
stack:
  mtu: 1500
  subnet: "192.168.50.0/24"
  gatewayIP: "192.168.50.1"
  gatewayMacAddress: "5a:94:ef:e4:0c:dd"
  dns:
    - name: ""
      records:
        - regexp: "(?i)^proxy\\\\.internal$"
          ip: "192.168.50.1"
  dnsSearchDomains: []
  forwards: {{}}
  nat: {{"192.168.50.1": "127.0.0.1"}}
  gatewayVirtualIPs: ["192.168.50.1"]
  dhcpStaticLeases: {{"192.168.50.2": "{mac}"}}
  vpnKitUUIDMacAddresses: {{}}
  ec2MetadataAccess: false
"""


def answer_http(listener, seen):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            seen.append(connection.recv(4096).decode().splitlines()[0])
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nyes")


@pytest.fixture
def gateway(tmp_path):
    """A gvproxy in the tests' own network namespace, a port with a proxy behind it, and what that was asked."""
    seen = []
    with tempfile.TemporaryDirectory(prefix="gv", dir="/tmp") as name, \
            socket.create_server(("127.0.0.1", 0)) as listener, open(tmp_path / "gvproxy.log", "wb") as log:
        folder = pathlib.Path(name)
        (folder / "gvproxy.yaml").write_text(GVPROXY.format(folder=folder, mac=guest_vm.MAC))
        threading.Thread(target=answer_http, args=(listener, seen), daemon=True).start()
        program = ROOT / ".tools" / "bin" / "gvproxy"
        process = subprocess.Popen([program, "-config", folder / "gvproxy.yaml"], stdout=log, stderr=log)
        try:
            until = time.monotonic() + 10
            while not (folder / "net.sock").exists() and time.monotonic() < until:
                time.sleep(0.02)
            yield folder, listener.getsockname()[1], seen
        finally:
            process.kill()
            process.wait()
            listener.shutdown(socket.SHUT_RDWR)


def test_names_and_the_proxy_are_reached_over_gvproxy(boot, gateway):
    folder, port, seen = gateway
    net = f"dgram,local.type=unix,local.path={folder}/vm.sock,remote.type=unix,remote.path={folder}/net.sock"
    script = "nslookup proxy.internal; wget -qO- http://example.test/a; echo; nslookup example.test"
    guest = boot(net=net)
    result = guest.run(["sh", "-c", script], env=[guest_vm.PATH, f"http_proxy=http://proxy.internal:{port}"])
    text = (result.out + result.err).decode()
    assert re.search(r"Name:\s+proxy\.internal\s+Address: 192\.168\.50\.1", text), text
    assert "yes" in text and "NXDOMAIN" in text
    assert [line.split()[1] for line in seen] == ["http://example.test/a"]
    guest.end()
