"""What a program that stands for QEMU, in QEMU's jail, begins with: the agent's channel, spoken by hand."""

import guest_vm

AGENT = '''#!/usr/bin/python3
import http.client, os, socket, struct, sys, time
os.set_blocking(5, True)
agent = socket.socket(fileno=5)

def send(kind, payload=b""):
    agent.sendall(struct.pack("<IB3x", len(payload), kind) + payload)

def take():
    head = agent.recv(8, socket.MSG_WAITALL)
    if len(head) < 8:
        sys.exit("the supervisor closed the channel")
    length, kind = struct.unpack("<IB3x", head)
    return kind, agent.recv(length, socket.MSG_WAITALL)

''' + f"PROTOCOL_VERSION = {guest_vm.PROTOCOL_VERSION}\n"
