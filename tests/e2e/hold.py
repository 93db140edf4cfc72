"""Calls of a daemon that a test holds until it lets go of them (tests/hold/hold.c)."""
import harness
from pace import until


class Hold:
    """For a daemon that is made with `env`."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {"LD_PRELOAD": str(harness.BUILD / "test-tools" / "hold.so"), "HOLD": str(folder)}

    def begin(self, call, of=""):
        """From now on: of access() those whose path ends in `of`, or kill()."""
        (self.folder / call).write_text(of)

    def until_held(self, call):
        until((self.folder / f"{call}.held").exists)

    def release(self, call):
        (self.folder / call).unlink(missing_ok=True)
