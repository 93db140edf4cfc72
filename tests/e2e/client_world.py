"""A server for real clients on the closed network: pages, a git repository, a Python index and an npm registry,
over plain HTTP and over TLS with an authority of its own."""
import base64
import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import ssl
import subprocess
import tarfile
import threading
import zipfile

ADDRESS = "203.0.113.20"
HOST, OTHER = "clients.example", "refused.example"  # both lead there; the second is no bottle's to reach
HTTP, HTTPS = 8081, 8443
PAGE = b"a page for clients\n"


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def guess_type(self, path):
        return "application/json" if "/npm/" in str(path) and not str(path).endswith("tgz") else super().guess_type(path)

    def log_message(self, *_):
        headers = getattr(self, "headers", None)  # there is none when the request could not be read
        self.server.visits.append((headers and headers.get("Host"), getattr(self, "path", None)))


def certificate(folder):
    """An authority, and a certificate of it for both names; the paths of the authority, the certificate and its key."""
    names = f"subjectAltName=DNS:{HOST},DNS:{OTHER}"
    run = functools.partial(subprocess.run, cwd=folder, check=True, capture_output=True)
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
         "-subj", "/CN=clients of a test", "-addext", "keyUsage=keyCertSign"])  # fmt: skip
    run(["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "request.pem", "-subj", f"/CN={HOST}"])
    (folder / "names").write_text(names)
    run(["openssl", "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "cert.pem"])  # fmt: skip
    return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"


def make_repository(tree):
    work = tree / "work"
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.net", "-C"]
    environment = {**os.environ, "HOME": str(tree), "GIT_CONFIG_NOSYSTEM": "1"}
    run = functools.partial(subprocess.run, check=True, capture_output=True, env=environment)
    run(["git", "init", "-q", work])
    (work / "file").write_text("what was committed\n")
    run([*git, work, "add", "file"])
    run([*git, work, "commit", "-q", "-m", "one"])
    run(["git", "clone", "-q", "--bare", work, tree / "repo.git"])
    run([*git, tree / "repo.git", "update-server-info"])


def make_wheel(tree):
    folder = tree / "simple" / "bottle-greeting"
    folder.mkdir(parents=True)
    name = "bottle_greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        info = "bottle_greeting-1.0.dist-info"
        wheel.writestr("bottle_greeting.py", "print('installed by pip')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bottle-greeting\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')


def make_package(tree, url):
    folder = tree / "npm"
    folder.mkdir()
    packed = io.BytesIO()
    manifest = {"name": "bottle-greeting", "version": "1.0.0", "main": "index.js"}
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in (("package.json", json.dumps(manifest)), ("index.js", "console.log('installed by npm')\n")):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    data = packed.getvalue()
    (folder / "bottle-greeting-1.0.0.tgz").write_bytes(data)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    dist = {"tarball": f"{url}/npm/bottle-greeting-1.0.0.tgz", "integrity": integrity}
    about = {"name": "bottle-greeting", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**manifest, "dist": dist}}}
    (folder / "bottle-greeting").write_text(json.dumps(about))


class World:
    """`with World(folder) as world:` … `world.authority`, the text of its certificate; `world.visits`."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.visits, self.servers = [], []
        authority, cert, key = certificate(folder)
        self.authority = authority.read_text()
        tree = folder / "tree"
        tree.mkdir()
        (tree / "page").write_bytes(PAGE)
        make_repository(tree)
        make_wheel(tree)
        make_package(tree, f"https://{HOST}:{HTTPS}")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, key)
        for port, context in ((HTTP, None), (HTTPS, tls)):
            server = http.server.ThreadingHTTPServer((ADDRESS, port), functools.partial(Handler, directory=tree))
            server.visits = self.visits
            server.daemon_threads = True
            if context:
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            self.servers.append(server)

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()
