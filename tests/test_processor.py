"""Settings of a process that computes."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys

import pytest

MAKE_TENSORS = """
import resource, sys, torch
from models.processor import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.ones(4_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="there is no glibc")
def test_memory_of_a_freed_tensor_is_used_again() -> None:
    def faults(argument: str) -> int:
        # Left alone, glibc gives memory back now and then; told so, always.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, "-c", MAKE_TENSORS, argument]
        return int(subprocess.check_output(command, env=environment, text=True))

    pages = 4_000_000 * 4 // resource.getpagesize()
    assert faults("keep") < 10 * pages < faults("leave")
