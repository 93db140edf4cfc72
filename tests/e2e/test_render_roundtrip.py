"""What the renderers write, read back by other parsers, for networks and rules generated from a fixed seed."""
import json
import random

import yaml

import rendering

CASES = 300
SEED = 7


def network(rng):
    if rng.random() < 0.7:
        base = f"192.168.{rng.randrange(256)}"
    else:
        base = f"10.{rng.randrange(128, 256)}.{rng.randrange(256)}"
    names = ["pipelock", "git-gate", "supervise"]
    return {
        "subnet": f"{base}.0/24",
        "gateway": f"{base}.1",
        "guest_ip": f"{base}.2",
        "guest_mac": "5a:94:ef:" + ":".join(f"{rng.randrange(256):02x}" for _ in range(3)),
        "forwards": [
            {"sidecar": one, "gateway_port": 8888 + at, "host_port": rng.randrange(1, 65536)}
            for at, one in enumerate(names[: rng.randrange(4)])
        ],
    }


def test_gvproxy_yaml_is_the_network_and_nothing_else():
    rng = random.Random(SEED)
    networks = [network(rng) for _ in range(CASES)]
    for sent, answer in zip(networks, rendering.render_all("gvproxy.yaml", [{"network": one} for one in networks])):
        gateway = sent["gateway"]
        assert yaml.safe_load(answer["text"]) == {
            "subnet": sent["subnet"],
            "gateway": gateway,
            "dns": [{"zone": ".", "records": [{"name": "proxy.internal", "ip": gateway}]}],
            "port_forwards": [
                {"gateway_port": one["gateway_port"], "host": "127.0.0.1", "host_port": one["host_port"]}
                for one in sent["forwards"]
            ],
            "log-level": "info",
            "interfaces": {"vfkit": "unixgram:///run/bottle/net.sock"},
            "services": "unix:///run/bottle/api.sock",
            "stack": {
                "mtu": 1500,
                "subnet": sent["subnet"],
                "gatewayIP": gateway,
                "gatewayMacAddress": "5a:94:ef:e4:0c:dd",
                "dns": [{"name": "", "records": [{"regexp": "(?i)^proxy\\.internal$", "ip": gateway}]}],
                "dnsSearchDomains": [],
                "forwards": {},
                "nat": {gateway: "127.0.0.1"},
                "gatewayVirtualIPs": [gateway],
                "dhcpStaticLeases": {sent["guest_ip"]: sent["guest_mac"]},
                "vpnKitUUIDMacAddresses": {},
                "ec2MetadataAccess": False,
            },
        }


def test_pipelock_yaml_is_the_rules():
    rng = random.Random(SEED)
    labels = ["no", "yes", "null", "1e3", "012", "on", "x", "a-b", "xn--bcher-kva"]
    cases = [
        [{"host": f"{rng.choice(labels)}.{rng.choice(labels[5:])}", "suffix": rng.random() < 0.5} for _ in range(rng.randrange(9))]
        for _ in range(CASES)
    ]
    answers = rendering.render_all("pipelock.yaml", [{"proxy": {"port": 20001, "rules": rules}} for rules in cases])
    for rules, answer in zip(cases, answers):
        read = yaml.safe_load(answer["text"])
        assert read["mode"] == "strict"
        assert read["api_allowlist"] == [("*." if one["suffix"] else "") + one["host"] for one in rules]


def test_qemu_json_is_one_argument_vector():
    qemu = {
        "binary": "/usr/bin/qemu-system-x86_64",
        "kernel": "/vm/kernel",
        "initrd": "/vm/initrd",
        "image": "/vm/image",
        "guest_mac": "5a:94:ef:00:00:32",
        "agent_fd": 3,
        "qmp_fd": 6,
    }
    read = json.loads(rendering.render("qemu.json", {"qemu": qemu}))
    assert list(read) == ["argv"]
    assert all(isinstance(one, str) for one in read["argv"])
    assert read["argv"][0] == qemu["binary"]
