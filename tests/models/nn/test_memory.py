"""Memory allocation: the memory of freed tensors is reused."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys

import pytest

MAKE_TENSORS = """
import resource, sys, threading, torch
from models.nn.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    torch.ones(24_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(24_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="there is no glibc")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_memory_of_a_freed_tensor_is_reused(where: str) -> None:
    def faults(argument: str) -> int:
        # By default glibc returns memory now and then; with this setting, always.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        del environment["MALLOC_ARENA_MAX"]
        command = [sys.executable, "-c", MAKE_TENSORS, argument, where]
        return int(subprocess.check_output(command, env=environment, text=True))

    pages = 24_000_000 * 4 // resource.getpagesize()
    assert faults("keep") < 10 * pages < faults("leave")
