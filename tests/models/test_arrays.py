"""Arrays of prepared data: read as numpy reads them, and by one thread at a time where CPython needs that."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.arrays import load_array
from tests.conftest import CHECKOUT

ARCHIVES = {"models/arrays.py", "jobs/evaluation/baselines.py", "models/recommender/item_features.py"}
"""Modules that read .npz files, in one thread."""


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("array", [np.arange(7), np.zeros(0, np.int32), np.ones((3, 2), np.float32)])
def test_an_array_comes_back_as_it_was_saved(tmp_path: Path, array: Any, mmap: bool) -> None:
    np.save(tmp_path / "a.npy", array)

    found = load_array(tmp_path / "a.npy", mmap=mmap)

    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.writeable is not mmap


def test_headers_are_read_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    both, have_met = threading.Barrier(2), list[bool]()
    open_memmap = np.lib.format.open_memmap

    def meeting(*arguments: Any, **options: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)
            have_met.append(True)
        return open_memmap(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", meeting)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(load_array, [tmp_path / "a.npy"] * 2))

    assert len(found) == 2
    assert not have_met


def test_no_module_reads_an_array_past_this() -> None:
    reading = {
        str(path.relative_to(CHECKOUT))
        for package in ("jobs", "models", "serve")
        for path in (CHECKOUT / package).rglob("*.py")
        if "np.load(" in path.read_text(encoding="utf-8")
    }
    assert reading <= ARCHIVES
