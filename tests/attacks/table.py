"""What a row of the attacks is, and the kinds of control that a row can have.

A row is an attack: what is sent, what must come back to the guest, within what time. In the cell nothing of it may
be heard on the host's network. And since silence alone proves nothing, each row has a control in the same run:

    Open      the same in a bottle whose cell is switched off: the ear must hear it
    Answer    the same there, where the guest must get another answer, or a bait must be taken
    OnHost    gvproxy itself drops it, with or without a cell: the same packets, put on the host's network, are heard
    Dialled   the proxy must refuse it: the same target, dialled from the host, is heard
    Permitted the proxy must refuse it: with a rule that permits it, it arrives
    Instead   something next to it, which is let through: it shows that the row's own fault is what is refused
"""
import re
import shlex
import socket

import frames
import harness


class World:
    """Where the attacks take place: addresses of the bottle, baits of the host."""

    def __init__(self, plan, baits, run_dir, ear):
        self.me, self.gw = plan["guest_ip"], plan["gateway"]
        self.net = self.gw.rsplit(".", 1)[0]
        network = next(file["content"] for file in plan["files"] if file["name"] == "gvproxy.yaml")
        self.mac = frames.mac(re.search(rf'"{self.me}": "([0-9a-f:]+)"', network)[1])
        self.gw_mac = frames.mac(re.search(r'gatewayMacAddress: "([0-9a-f:]+)"', network)[1])
        self.next = f"192.168.{(int(self.net.rsplit('.', 1)[1]) + 1) % 256}"
        self.baits, self.run_dir, self.ear = baits, run_dir, ear
        self.heard = self.console = None


class Row:
    """`command(world)`: arguments of the attacker. `back`: what must be found in what comes back.
    `within`: milliseconds. `heard(packet, said, world)`: is this packet the row's? `slow`: so many packets that an
    emulated KVM, where each is some exits of the VM, takes minutes: tried by TCG only. `backends`: those that it is
    about (harness.ROWS), when not all."""

    def __init__(self, name, sends, command, back, within=2500, heard=None, control=None, unharmed=None, slow=False,
                 backends=None):  # fmt: skip
        self.name, self.sends, self._command, self.within = name, sends, command, within
        self.back = re.compile(back, re.IGNORECASE | re.DOTALL)
        self._heard = heard
        self._token = re.compile(rb"(?<![a-z0-9-])" + name.encode() + rb"(?![a-z0-9-])")
        self.control = control or Open()
        self.slow, self.backends = slow, backends
        self.unharmed = unharmed  # unharmed(world): what became of a bait, or None

    def command(self, world):
        return shlex.join(["attacker", self.name, *map(str, self._command(world))])

    def is_tried_on(self, backend):
        fast = harness.ROWS[backend]["accelerator"] != "kvm"
        return (fast or not self.slow) and (not self.backends or backend in self.backends)

    def is_mine(self, packet, said, world):
        if self._heard:
            return self._heard(packet, said, world)
        return bool(self._token.search(said.lower()))

    def count(self, heard, world):
        return heard.count(lambda packet, said: self.is_mine(packet, said, world))

    def judge(self, told, heard, world):
        """In the cell: (is all as it must be, in a few words)."""
        if told is None:
            return False, "the guest did not report"
        count, words = self.count(heard, world), shortened(told["back"])
        if count:
            return False, f"HEARD {count} packets; the guest: {words}"
        if not self.back.search(told["back"]):
            return False, f"came back: {words}"
        if told["ms"] > self.within:
            return False, f"{words}, but after {told['ms']} ms"
        harm = self.unharmed(world) if self.unharmed else None
        return (False, harm) if harm else (True, f"{words}, {told['ms']} ms")


def shortened(words, length=58):
    words = " ".join(words.split())
    return words if len(words) <= length else words[: length - 1] + "…"


class Control:
    kind = "without a cell"

    def command(self, row, world):
        """What the guest without a cell runs, or None."""
        return row.command(world)

    def prepare(self, row, world):
        """On the host, while the guest without a cell runs."""

    def judge(self, row, told, heard, world):
        """(did it get through, in a few words)"""
        count = row.count(heard, world)
        return count > 0, f"{self.kind}: heard {count} packets" if count else f"{self.kind}: SILENT"


class Open(Control):
    pass


class Answer(Control):
    """`back`: what the guest gets without a cell. `taken(world)`: what became of the bait, or None."""

    def __init__(self, back="", taken=None, command=None):
        self.back, self.taken, self._command = re.compile(back, re.IGNORECASE | re.DOTALL), taken, command

    def command(self, row, world):
        made = Row(row.name, "", self._command or row._command, "").command(world)
        return made

    def judge(self, row, told, heard, world):
        if told is None or not self.back.search(told["back"]):
            return False, f"{self.kind}: {shortened(told['back']) if told else 'no report'}"
        harm = self.taken(world) if self.taken else None
        if self.taken and not harm:
            return False, f"{self.kind}: no harm done"
        return True, f"{self.kind}: {harm or shortened(told['back'])}"


class OnHost(Control):
    """`packets(world)`: frames."""

    kind = "put on the host's network"

    def __init__(self, packets):
        self.packets = packets

    def command(self, row, world):
        return None

    def prepare(self, row, world):
        for frame in self.packets(world):
            world.ear.send(frame)


class Dialled(OnHost):
    """`target(world)`: (protocol, host, port, data)."""

    kind = "dialled from the host"

    def __init__(self, protocol, host, port, data=b""):
        self.protocol, self.target, self.data = protocol, (host, port), data

    def prepare(self, row, world):
        host, port = self.target
        kind = socket.SOCK_STREAM if self.protocol == "tcp" else socket.SOCK_DGRAM
        for family, _, _, _, address in socket.getaddrinfo(host, port, 0, kind)[:1]:
            with socket.socket(family, kind) as sock:
                sock.settimeout(5)
                try:
                    sock.connect(address)
                    sock.sendall(self.data)
                except OSError:
                    pass  # refused is heard as well


class Permitted(Control):
    """The bottle of the controls has rules that permit it."""

    kind = "with a rule that permits it"


class Instead(Control):
    def __init__(self, words, command, heard=None):
        self.kind, self._command, self._heard = words, command, heard

    def command(self, row, world):
        return Row(row.name, "", self._command, "").command(world)

    def judge(self, row, told, heard, world):
        count = self._heard(heard, world) if self._heard else row.count(heard, world)
        return bool(count), f"{self.kind}: heard {count}" if count else f"{self.kind}: SILENT"
