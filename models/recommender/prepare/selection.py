"""Leaves events out of sorted partitions; the files of a partition are replaced as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.arrays import load_array
from models.recommender.prepare.event_types import AMOUNTS, TYPES
from models.recommender.prepare.partitions import NEVER, Sorted
from models.recommender.schema import NUM_SHARDS

PER_USER = ("offsets.npy", "peaks.npy")
PER_ITEM = ("index.npy",)

Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def save_mask(work: Path, name: str, partition: int, mask: Mask) -> None:
    """Keep a mask of the events of a sorted partition under a name."""
    directory = work / "masks" / name
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / f"{partition:05d}.npy", mask)


def load_mask(work: Path, name: str, partition: int) -> Mask:
    """A mask that was kept under a name."""
    mask: Mask = load_array(work / "masks" / name / f"{partition:05d}.npy")
    return mask


def select(work: Path, shards: Path, executor: Executor, parts: Sequence[Sorted], mask: str) -> list[Sorted]:
    """Keep the events of a mask in all sorted partitions; returns the new counts."""
    kept = list(executor.map(partial(keep_events, work, shards, mask), enumerate(parts)))
    _adopt(work, shards)
    return kept


def keep_events(work: Path, shards: Path, name: str, part: tuple[int, Sorted]) -> Sorted:
    """Write a copy of a sorted partition with the events of a mask only, and without the users who have none left."""
    partition, before = part
    shard, scratch = shards / f"{partition:05d}", work / "sorted" / f"{partition:05d}"
    mask = load_mask(work, name, partition)
    offsets = load_array(shard / "offsets.npy")
    lengths = _lengths(offsets, mask)
    for kind, source in (("shard", shard), ("sorted", scratch)):
        target = work / "kept" / f"{partition:05d}" / kind
        target.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.npy"):
            if path.name not in (*PER_USER, *PER_ITEM):
                np.save(target / path.name, load_array(path)[mask])
    target = work / "kept" / f"{partition:05d}"
    np.save(target / "shard" / "offsets.npy", np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64))
    users = pq.read_table(shard / "users.parquet").filter(pa.array(lengths > 0))
    pq.write_table(users, target / "shard" / "users.parquet", compression="zstd")
    used, item = np.unique(load_array(target / "sorted" / "items.npy"), return_inverse=True)
    np.save(target / "sorted" / "items.npy", item.astype(np.int32))
    items = pq.read_table(scratch / "items.parquet").take(pa.array(used))
    pq.write_table(items, target / "sorted" / "items.parquet")
    if not (shard / "sessions.npy").exists():  # without times: the place of each event in its sequence
        ends = np.cumsum(lengths)
        np.save(target / "shard" / "timestamps.npy", np.arange(len(item)) - np.repeat(ends - lengths, lengths))
    seconds = load_array(target / "shard" / "timestamps.npy")
    first, last = (int(seconds.min()), int(seconds.max())) if len(seconds) else (NEVER, -NEVER)
    # A type without events keeps its place, which is its code in the partition.
    of_type = np.bincount(load_array(target / "sorted" / TYPES), minlength=1 + len(before.types)).tolist()
    return replace(
        before,
        num_users=users.num_rows,
        num_events=len(item),
        first_s=first,
        last_s=last,
        num_of_type=dict(zip(("", *before.types), of_type, strict=True)),
        num_amounts=int(np.isfinite(load_array(target / "sorted" / AMOUNTS)).sum()),
    )


def _adopt(work: Path, shards: Path) -> None:
    """Replace all sorted partitions by their copies, when all of these are complete."""
    for number in range(NUM_SHARDS):
        for part, target in (("shard", shards / f"{number:05d}"), ("sorted", work / "sorted" / f"{number:05d}")):
            shutil.rmtree(target)
            (work / "kept" / f"{number:05d}" / part).rename(target)


def _lengths(offsets: Int64s, mask: Mask) -> Int64s:
    """Events of each user within the mask."""
    before = np.concatenate([[0], np.cumsum(mask)])
    lengths: Int64s = before[offsets[1:]] - before[offsets[:-1]]
    return lengths
