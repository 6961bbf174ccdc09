"""Public data sets: IDX files and the Python batches of CIFAR-10, valid, corrupt and hostile."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import DataRejected
from tests.kit.pictures import all_ids, prepared


def test_idx_files_are_read_with_their_official_split(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    draw = np.random.default_rng(0)
    for name, count in (("train", 50), ("t10k", 10)):
        pixels = draw.integers(0, 256, (count, 12, 12), dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        write_idx(raw / f"{name}-images-idx3-ubyte.gz", pixels)
        write_idx(raw / f"{name}-labels-idx1-ubyte.gz", labels)
    data, schema = prepared(tmp_path, raw, class_names=("shirt", "bag", "coat"))

    assert schema.num_examples["test"] == 10
    assert (schema.size, schema.channels) == (12, 1)
    assert schema.heads == {"category": ["bag", "coat", "shirt"]}
    assert schema.mean == pytest.approx([0.5], abs=0.02) and schema.std == pytest.approx([0.29], abs=0.02)
    first = hashlib.sha256(np.random.default_rng(0).integers(0, 256, (50, 12, 12), dtype=np.uint8)[0].tobytes())
    assert first.hexdigest() in set(all_ids(data)["picture_id"])


@pytest.mark.parametrize("fault", ["cut short", "damaged", "too few labels", "no labels", "a label without a name"])
def test_damaged_idx_files_are_rejected(tmp_path: Path, fault: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_idx(raw / "train-images-idx3-ubyte.gz", np.zeros((9, 8, 8), np.uint8), cut=fault == "cut short")
    if fault == "damaged":
        images = raw / "train-images-idx3-ubyte.gz"
        images.write_bytes(images.read_bytes()[:-9])
    if fault != "no labels":
        labels = np.arange(8 if fault == "too few labels" else 9).astype(np.uint8)
        write_idx(raw / "train-labels-idx1-ubyte.gz", labels)

    with pytest.raises(DataRejected, match="idx"):
        prepared(tmp_path, raw, class_names=("a", "b"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_are_read_without_executing_them(tmp_path: Path, protocol: int) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_cifar(raw, protocol=protocol)
    _, schema = prepared(tmp_path, raw)

    assert schema.heads == {"category": ["cat", "dog"]}
    assert (schema.num_examples["test"], schema.size, schema.channels) == (8, 32, 3)


def test_a_cifar_batch_that_would_execute_code_is_rejected(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_cifar(raw, protocol=2)
    mark = tmp_path / "ran"
    write_foreign(
        raw / "data_batch_1", f"type('E', (), {{'__reduce__': lambda s: (__import__('os').mkdir, ({str(mark)!r},))}})()"
    )

    with pytest.raises(DataRejected, match=r"posix\.mkdir"):
        prepared(tmp_path, raw)
    assert not mark.exists()


def write_idx(path: Path, values: Any, *, cut: bool = False) -> None:
    """An IDX file of bytes, gzipped."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(side.to_bytes(4, "big") for side in values.shape)
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content[:-5] if cut else content, 1))


def write_cifar(raw: Path, *, protocol: int) -> None:
    """Two small batches and the class names."""
    for name, seed, count in (("data_batch_1", 0, 40), ("test_batch", 1, 8)):
        data = f"numpy.random.default_rng({seed}).integers(0, 256, ({count}, 3072), dtype='uint8')"
        write_foreign(raw / name, f"{{b'data': {data}, b'labels': [n % 2 for n in range({count})]}}", protocol=protocol)
    write_foreign(raw / "batches.meta", "{b'label_names': [b'cat', b'dog']}", protocol=protocol)


def write_foreign(path: Path, expression: str, *, protocol: int = 2) -> None:
    """A pickle, result in another process: this project neither reads nor writes any."""
    program = f"import numpy, pickle, sys; sys.stdout.buffer.write(pickle.dumps({expression}, {protocol}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    path.write_bytes(result.stdout)
