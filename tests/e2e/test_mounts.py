"""The host's directories in a guest."""
import os
import pytest
import harness


@pytest.fixture
def roots(tmp_path_factory):
    return tmp_path_factory.mktemp("roots")


def test_first(new_daemon, roots):
    tree = roots / "repo"
    tree.mkdir()
    os.chown(tree, 1234, 1234)
    (tree / "hello").write_text("hi\n")
    os.chown(tree / "hello", 1234, 1234)
    os.chmod(roots, 0o755)
    daemon = new_daemon(config={"mount_roots": str(roots)}).start()
    bottle = daemon.run({"slug": "a", "command": ["sh", "-c", "id; ls -ln /work; cat /work/hello; echo new > /work/new; mkdir /work/d; chown 5:5 /work/new; ls -ln /work; mount | grep virtiofs"], "mounts": [{"source": str(tree), "target": "/work"}]})
    print(bottle)
    print(daemon.log("a"))
    print(daemon.log("a", "console"), daemon.log("a", "vmm"))
    os.system(f"ls -ln {tree}")
    assert bottle["state"] == "exited", daemon.output.text()
    assert 0
