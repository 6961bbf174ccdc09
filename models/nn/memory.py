"""Memory allocation: lets the process reuse freed memory instead of returning it to the kernel."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""The constants of glibc's malloc.h."""
_NEVER_TRIM, _LARGEST_FROM_HEAP = 2**31 - 1, 2**30


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors for the next ones; has no effect without glibc.

    By default glibc returns every large tensor to the kernel and gets it back page by page and zeroed, which makes a
    step of a small network a third slower. Threads use arenas of their own: those that have not allocated anything yet
    will share the main one, for others MALLOC_ARENA_MAX must be set when the process starts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
        mallopt(_M_ARENA_MAX, 1)
