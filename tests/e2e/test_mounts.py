"""The host's directories in a guest."""
import os
import pytest
import harness
pytestmark = pytest.mark.backends


@pytest.fixture
def roots():
    import tempfile, pathlib
    return pathlib.Path(tempfile.mkdtemp(prefix="bm", dir="/tmp"))


@pytest.mark.parametrize("uid", [None, 65534])
def test_first(new_daemon, roots, uid):
    mounts=[]
    for i in range(8):
        tree = roots / f"repo{i}"
        tree.mkdir()
        os.chown(tree, uid or 1234, uid or 1234)
        (tree / "hello").write_text("hi\n")
        os.chown(tree / "hello", uid or 1234, uid or 1234)
        mounts.append({"source": str(tree), "target": f"/work{i}", "read_only": i==2})
    os.chmod(roots, 0o755)
    daemon = new_daemon(config={"mount_roots": str(roots)}, uid=uid).start()
    bottle = daemon.run({"slug": "a", "command": ["sh", "-c", "id; ls -ln /work0; cat /work7/hello; echo new > /work0/new; mkdir /work0/d; chown 5:5 /work0/new; ls -ln /work0; mount | grep virtiofs; ls -ln /work2; echo no > /work2/x; chmod u+s /work0/new; touch /work2/hello; mount -o remount,rw /work2; mount|grep work2; echo no > /work2/x"], "mounts": mounts})
    print(bottle)
    print(daemon.log("a"))
    print(daemon.log("a", "console"), daemon.log("a", "vmm"))
    os.system(f"ls -ln {tree}")
    assert bottle["state"] == "exited" and 0, daemon.output.text()
    assert 0
