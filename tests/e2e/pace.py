"""How long a test waits for what has to come. A program with a sanitizer takes its time, as what it starts does beside it: there
every such bound is stretched, here and nowhere else. In other builds it is what the test says (PACE=5 in the environment: so many
times that, on a machine that has much else to do), and so are at any time the delays that bottled is told to keep and the least
that something takes."""
import re
import time

STRETCH = 5
factor = 1  # set by the harness, which knows the build
SERVER_WAITS_S = 60  # where a call names no timeout (WAIT_DEFAULT_MS)
PATIENCE_S = 20  # what a call waits at least when it means "long enough"; less is what the test is about
UNITS = {"s": 1, "m": 60}


def stretched(seconds):
    return None if seconds is None else seconds * factor


def stretch_wait(path):
    """The same for the timeout of a call that waits."""
    if factor == 1 or not re.search(r"[?&]wait=|/wait[?]", path):
        return path
    named = re.search(r"([?&]timeout=)(\d+)([sm])(?=&|$)", path)
    if not named:
        return path if "timeout=" in path else f"{path}&timeout={stretched(SERVER_WAITS_S)}s"
    seconds = int(named[2]) * UNITS[named[3]]
    return path if seconds < PATIENCE_S else f"{path[:named.start()]}{named[1]}{stretched(seconds)}s{path[named.end():]}"


def until(test, timeout=10):
    end = time.monotonic() + stretched(timeout)
    while not test():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


class Seconds(float):
    """What something took: compared with the most that it may take, that is stretched; with the least, it is not."""

    def __lt__(self, most):
        return float(self) < stretched(most)

    def __le__(self, most):
        return float(self) <= stretched(most)
