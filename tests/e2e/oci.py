"""OCI layouts written by hand, so that a test can put anything at all into them."""
import gzip
import hashlib
import http.server
import io
import json
import pathlib
import tarfile
import threading

from harness import ROOT

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
APPLETS = ["sh", "id", "env", "cat", "ls", "pwd", "touch", "stat", "mkdir", "sync", "grep", "sleep", "find", "wc"]


def folder(name, **more):
    return {"name": name, "type": tarfile.DIRTYPE, "mode": 0o755, **more}


def file(name, data=b"", **more):
    return {"name": name, "data": data, **more}


def link(name, target, **more):
    return {"name": name, "type": tarfile.SYMTYPE, "linkname": target, **more}


def hard_link(name, target, **more):
    return {"name": name, "type": tarfile.LNKTYPE, "linkname": target, **more}


def device(name, major, minor, kind=tarfile.CHRTYPE):
    return {"name": name, "type": kind, "devmajor": major, "devminor": minor}


def layer(entries):
    """A tar of the entries, in their order; their members are those of TarInfo, and data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry["name"])
            info.mtime = 1_000_000_000
            for name, value in entry.items():
                if name not in ("name", "data"):
                    setattr(info, name, value)
            data = entry.get("data", b"") if info.type == tarfile.REGTYPE else None
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def busybox():
    """A layer of Debian's busybox with its libraries, in which a command can run."""
    home = ROOT / ".tools" / "busybox"
    entries = [folder(name) for name in ("bin", "lib", "lib64", "etc", "tmp")]
    entries.append(file("bin/busybox", (home / "busybox").read_bytes(), mode=0o755))
    for path in sorted((home / "lib").iterdir()):
        place = "lib64" if path.name.startswith("ld-") else "lib"
        entries.append(file(f"{place}/{path.name}", path.read_bytes(), mode=0o755))
    return layer(entries + [link(f"bin/{name}", "busybox") for name in APPLETS])


class Layout:
    """A layout with one image in it."""

    def __init__(self, path, layers, config=None, tag="latest", platform=("linux", "amd64"), size_lie=0):
        self.path = pathlib.Path(path)
        (self.path / "blobs" / "sha256").mkdir(parents=True)
        described = []
        for content in layers:
            packed = content if content[:2] == b"\x1f\x8b" else gzip.compress(content, 6, mtime=0)
            described.append({"mediaType": LAYER, "digest": self.blob(packed), "size": len(packed) + size_lie})
        plain = [gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content for content in layers]
        body = {
            "os": platform[0],
            "architecture": platform[1],
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(content) for content in plain]},
        }
        self.config = self.described(CONFIG, body)
        manifest = self.described(MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.config, "layers": described})
        manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifest = manifest["digest"]
        self.write("index.json", {"schemaVersion": 2, "manifests": [manifest]})
        self.write("oci-layout", {"imageLayoutVersion": "1.0.0"})
        for path in [self.path, *self.path.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def blob(self, content):
        (self.path / "blobs" / "sha256" / digest(content)[7:]).write_bytes(content)
        return digest(content)

    def described(self, kind, body):
        content = json.dumps(body).encode()
        return {"mediaType": kind, "digest": self.blob(content), "size": len(content)}

    def write(self, name, body):
        (self.path / name).write_text(json.dumps(body))

    @property
    def source(self):
        return f"oci:{self.path}"


class Registry:
    """A registry on loopback, over plain HTTP, of layouts by name."""

    def __init__(self):
        layouts = self.layouts = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                parts = self.path.split("/")
                body, kind = b"{}", "application/json"
                if len(parts) == 5 and parts[2] in layouts:
                    layout = layouts[parts[2]]
                    wanted = parts[4] if parts[4].startswith("sha256:") else layout.manifest
                    body = (layout.path / "blobs" / "sha256" / wanted[7:]).read_bytes()
                    kind = MANIFEST if parts[3] == "manifests" else "application/octet-stream"
                self.send_response(200 if len(parts) < 5 or parts[2] in layouts else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
