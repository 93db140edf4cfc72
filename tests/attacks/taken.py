"""Programs that stand in a bottle's VM's place (in its jail, as its user), speak the agent's protocol as a guest that
came up, and then attack. They say on the console, by a word, when the attack begins."""
import time

import control
import harness
import vm_program

PRELUDE = vm_program.AGENT + '''wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
wire.bind("/run/bottle/vm.sock")
wire.connect("/run/bottle/net.sock")
send(1, struct.pack("<I", PROTOCOL_VERSION))
take()
# As a guest that came up: an ARP question, so that gvproxy knows its peer.
wire.send(bytes.fromhex("ffffffffffff5a94ef000001" "0806" "0001080006040001" "5a94ef000001") + bytes(20))
send(2)
time.sleep(1)
print("attack", flush=True)
'''

SEND_FRAMES = """
for frame in FRAMES:
    wire.send(bytes.fromhex(frame))
time.sleep(600)
"""


class Daemon(harness.Daemon):
    """Its VMs are run by tools/qemu-system-x86_64, a link that can lead elsewhere."""

    def __init__(self, **options):
        super().__init__(**options)
        self.tools = self.base / "tools"
        self.tools.mkdir()
        self.tools.chmod(0o755)
        self.config["tools_path"] = str(self.tools)
        self.n_attacks = 0

    @property
    def vm(self):
        return self.tools / "qemu-system-x86_64"


def create(daemon, slug):
    """A bottle whose VM will be a program: the plan says where that is."""
    daemon.vm.touch(mode=0o755)
    daemon.create({"backend": "qemu", "slug": slug, "command": ["true"]})


def start(daemon, slug, program):
    """Starts a bottle that is there, with this program for its VM, and waits until that was taken."""
    daemon.vm.write_text(PRELUDE + program)
    daemon.vm.chmod(0o755)
    try:
        assert daemon.post(f"/bottles/{slug}/start").status < 300
        control.follow(daemon, slug, b"attack\n", stream="console")
    finally:
        daemon.vm.unlink()


def attack(daemon, program, keep=False, until="failed"):
    """Starts a bottle whose VM is this program; the bottle at its end, and the seconds from the attack to it."""
    daemon.n_attacks += 1
    slug = f"attack-{daemon.n_attacks}"
    create(daemon, slug)
    start(daemon, slug, program)
    begun = time.monotonic()
    bottle = daemon.wait(slug, until, timeout=20)
    seconds = time.monotonic() - begun
    if not keep:
        daemon.remove(slug)
    return bottle, seconds


def finish(daemon):
    for slug in [bottle["slug"] for bottle in daemon.get("/bottles?limit=1000").json()["bottles"]]:
        daemon.remove(slug)
    fault = daemon.close()
    assert fault is None, fault
