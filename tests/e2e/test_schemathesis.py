"""The short form of `make contract`: a few requests an operation, right and wrong ones, with every check of schemathesis."""
import subprocess

import harness
import pytest


@pytest.mark.timeout(600)
def test_no_answer_is_off_the_document():
    done = subprocess.run([harness.ROOT / "tests" / "contract" / "run", "1", "examples,fuzzing"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
