"""What becomes of memory that is freed: the process keeps it for the next tensors."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""The numbers of these settings in glibc's malloc.h."""


_NEVER_TRIM, _LARGEST_FROM_HEAP = 2**31 - 1, 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory of tensors that are freed, for the next ones; without glibc, nothing changes.

    Left alone, glibc hands every large tensor back to the kernel and gets it anew, page by page and filled with zeros.
    A step of a small network takes a third longer so. Threads would do the same in arenas of their own; those that have
    not yet allocated anything will share the main one; for others MALLOC_ARENA_MAX must be set when the process starts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
        mallopt(_M_ARENA_MAX, 1)
