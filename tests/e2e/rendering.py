"""The renderers without a daemon: build/test-tools/render prints what a case (tests/golden/*/input.json) gives."""
import json
import subprocess

import harness

RENDER = harness.BUILD / "test-tools" / "render"

NETWORK = {
    "subnet": "192.168.50.0/24",
    "gateway": "192.168.50.1",
    "guest_ip": "192.168.50.2",
    "guest_mac": "5a:94:ef:00:00:32",
    "forwards": [{"sidecar": "pipelock", "gateway_port": 8888, "host_port": 51001}],
}


def render_all(file, cases):
    """One answer for each case, in order: {"text": …} or {"kind": …, "error": …}."""
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run([RENDER, file, "--lines"], input=lines, capture_output=True, text=True, check=True, timeout=60)
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert len(answers) == len(cases)
    return answers


def render(file, case):
    answer = render_all(file, [case])[0]
    assert "text" in answer, answer
    return answer["text"]
