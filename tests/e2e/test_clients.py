"""Unmodified clients in a guest: what real agents use works through the proxy by the environment alone where its
host is allowed, and fails at once and in clear words where it is not.

The image is made of this machine's own programs by tests/clients/mkimage. All clients run in one bottle, first
against the host that is allowed, then against one that is not."""
import re
import shutil

import client_world
import harness
import pytest
from client_world import HOST, HTTP, HTTPS, OTHER

AUTHORITY = "/tmp/ca.pem"
TRUST = "SSL_CERT_FILE NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT npm_config_cafile".split()
REFUSED_MS = 2000  # within that a refusal is there, apart from the time that the client takes for itself here

NODE = "fetch(process.argv[1]).then(r => r.text().then(t => {if (!r.ok) throw Error(`${r.status} ${t}`); process.stdout.write(t)}))"
NODE += ".catch(e => {for (let c = e; c; c = c.cause) console.error(c.message); process.exit(1)})"
PYTHON = "import sys, requests; r = requests.get(sys.argv[1]); r.raise_for_status(); sys.stdout.write(r.text)"
# client: (the command, with %s and %h for https:// and http://host:port; what it shows when it worked; what its start takes)
CLIENTS = {
    "curl http": ("curl -sS --fail-with-body %h/page", "a page for clients", "curl --version"),
    "curl https": ("curl -sS --fail-with-body %s/page", "a page for clients", "curl --version"),
    "git clone": ("git clone -q %s/repo.git /tmp/%n && cat /tmp/%n/file", "what was committed", "git --version"),
    "requests": (f"python3 -c '{PYTHON}' %s/page", "a page for clients", "python3 -c 'import requests'"),
    "requests http": (f"python3 -c '{PYTHON}' %h/page", "a page for clients", "python3 -c 'import requests'"),
    "node fetch": ('node -e "$NODE" %s/page', "a page for clients", "node -e 1"),
    "node fetch http": ('node -e "$NODE" %h/page', "a page for clients", "node -e 1"),
    "pip install": (
        "python3 -m pip install --retries 1 --no-cache-dir --disable-pip-version-check --root-user-action ignore"
        " --target /tmp/p%n --index-url %s/simple/ bottle-greeting && PYTHONPATH=/tmp/p%n python3 -m bottle_greeting",
        "installed by pip",
        "python3 -m pip --version",
    ),
    "npm install": (
        "npm install --loglevel=error --no-audit --no-fund --prefix /tmp/m%n --registry %s/npm/ bottle-greeting"
        " && node /tmp/m%n/node_modules/bottle-greeting",
        "installed by npm",
        "npm --version",
    ),
}
SCRIPT = """
now() { date +%s%3N; }
try() { # NAME COMMAND
    begun=$(now)
    sh -c "$2" >/tmp/out 2>&1
    status=$?
    echo "== $1 $status $(( $(now) - begun ))"
    cat /tmp/out
    echo
}
printf %s "$AUTHORITY" >/tmp/ca.pem
export HOME=/tmp
"""


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def script():
    lines = [SCRIPT]
    for name, (command, _, start) in CLIENTS.items():
        lines.append(f"try {quoted(f'start/{name}')} {quoted(start)}")
        for kind, host in (("allowed", HOST), ("refused", OTHER)):
            filled = command.replace("%h", f"http://{host}:{HTTP}").replace("%s", f"https://{host}:{HTTPS}").replace("%n", kind)
            lines.append(f"try {quoted(f'{kind}/{name}')} {quoted(filled)}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def guest_dir(tmp_path_factory):
    """The guest's files with another image under the built-in name."""
    folder = tmp_path_factory.mktemp("guest")
    for name in ("vmlinuz", "initramfs.img", "root"):
        (folder / name).symlink_to(harness.BUILD / "guest" / name)
    (folder / "images").mkdir()
    shutil.copy(harness.BUILD / "clients" / "clients.erofs", folder / "images" / "busybox.erofs")
    for path in (folder, folder / "images"):
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def told(guest_dir, tmp_path_factory):
    """{kind/client: (status, ms, output)} and the server's visits."""
    daemon = harness.Daemon(config={"guest_dir": str(guest_dir), "boot_timeout": "60s"})
    with client_world.World(tmp_path_factory.mktemp("world")) as world:
        try:
            daemon.start()
            plan = {
                "slug": "clients",
                "command": ["sh", "-c", script()],
                "env": {"AUTHORITY": world.authority, "NODE": NODE, **dict.fromkeys(TRUST, AUTHORITY)},
                "resources": {"memory_mib": 1024},
                "egress": {"allow": [f"{HOST}:{HTTP}", f"{HOST}:{HTTPS}"]},
            }
            reply = daemon.post("/bottles?start=true&wait=exited&timeout=5m", plan, timeout=320)
            assert reply.status == 201, reply
            assert reply.json()["exit_code"] == 0, daemon.log("clients")
            parts = re.split(r"^== (.+) (\d+) (\d+)\n", daemon.log("clients"), flags=re.M)[1:]
            found = {parts[n]: (int(parts[n + 1]), int(parts[n + 2]), parts[n + 3]) for n in range(0, len(parts), 4)}
            daemon.remove("clients")
        finally:
            fault = daemon.close()
    assert fault is None, fault
    return found, world.visits


@pytest.mark.timeout(420)
@pytest.mark.parametrize("client", CLIENTS)
def test_allowed(told, client):
    status, _, output = told[0][f"allowed/{client}"]
    assert status == 0 and CLIENTS[client][1] in output, output


@pytest.mark.parametrize("client", CLIENTS)
def test_refused(told, client):
    """By the proxy's 403, at once."""
    own = max(told[0][f"{kind}/{client}"][1] for kind in ("start", "allowed"))
    status, ms, output = told[0][f"refused/{client}"]
    assert status != 0 and CLIENTS[client][1] not in output
    assert "403" in output, output
    assert ms - own <= REFUSED_MS, f"{ms} ms, of which it takes {own} for itself: {output}"


def test_the_other_host_was_not_visited(told):
    _, visits = told
    assert visits and not [visit for visit in visits if OTHER in str(visit)]
