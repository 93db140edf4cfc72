"""A daemon with TCP doors, and clients that come through them: tokens, sessions, TLS, other users."""
import http.client
import json
import os
import re
import ssl
import subprocess

import harness

PLACES = {"{slug}": "nobody", "{name}": "gvproxy.yaml", "{exec}": "0123456789abcdef", "{id}": "0123456789abcdef"}


def routes():
    """The rows of the program's own table."""
    tables = subprocess.run([harness.BUILD / "test-tools" / "fields"], check=True, capture_output=True).stdout
    return json.loads(tables)["routes"]


def path_of(route):
    return re.sub(r"{\w+}", lambda found: PLACES[found.group()], route["path"])


def open_to_tcp(daemon, *extra, **config):
    """Starts it with a TCP listener; the port that it got."""
    daemon.config.update(listen=["127.0.0.1:0"], **config)
    return port_of(daemon.start(*extra))


def port_of(daemon):
    line = daemon.output.wait_line(r"^ready on ", harness.READY_TIMEOUT)
    return int(re.search(r"https?://[^,]*:(\d+)", line).group(1))


def token_command(daemon, *arguments, check=True):
    argv = [harness.BUILD / "bottled", "token", *arguments, "--state-dir", str(daemon.state_dir)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=check, env=daemon.environment())


def make_token(daemon, name, role, *extra):
    return token_command(daemon, "create", "--name", name, "--role", role, *extra).stdout.strip()


class Door:
    """One TCP port of a daemon. `source`: the loopback address to come from."""

    def __init__(self, port, tls=None, source=None, host="127.0.0.1"):
        self.port, self.tls, self.source, self.host = port, tls, source, host

    def connect(self):
        source = (self.source, 0) if self.source else None
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=20, source_address=source, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=20, source_address=source)

    def request(self, method, path, token=None, headers=None, body=None):
        headers = dict(headers or {})
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = self.connect()
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            return harness.Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, token=None, **headers):
        return self.request("GET", path, token, headers)


def as_user(uid, work, groups=()):
    """What `work` gives (JSON) when a child of that user and those groups does it. Takes root."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(there, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(data)


def make_certificate(folder, name="one", days=2):
    """A key and a certificate of its own for localhost and 127.0.0.1; their paths."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days),
         "-keyout", key, "-out", cert, "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )
    key.chmod(0o600)
    return cert, key


def trusting(cert, version=None):
    context = ssl.create_default_context(cafile=cert)
    if version:
        context.minimum_version = context.maximum_version = version
    return context
