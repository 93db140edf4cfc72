"""Whether a guest boots on this machine's own KVM: says it in words, and ends with 0 when one does."""
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "e2e")]

import harness  # noqa: E402

works, words = harness.kvm_works_here()
print(f"kvm: {words}")
sys.exit(not works)
