"""Reads arrays of prepared data, safely from several threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADERS = threading.Lock()


def load_array(path: Path, *, mmap: bool = False) -> npt.NDArray[Any]:
    """The array of a .npy file, in memory or as a read-only map of the file; raises OSError, ValueError.

    numpy parses the header with `ast.literal_eval`. In CPython 3.11 that has failed with "SystemError: AST constructor
    recursion depth mismatch" where several threads did it at once: the depth is counted for all threads together.
    """
    with _HEADERS:
        mapped: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return mapped if mmap else np.array(mapped)
