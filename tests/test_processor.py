"""Settings of a process that computes."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

MAKE_TENSORS = """
import resource, sys, torch
from models.processor import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
for _ in range(3):
    torch.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="there is no glibc")
def test_memory_of_a_freed_tensor_is_used_again() -> None:
    pages = 4_000_000 * 4 // resource.getpagesize()

    def faults(*arguments: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", MAKE_TENSORS, *arguments], text=True))

    assert faults("keep") < pages <= faults("leave")
