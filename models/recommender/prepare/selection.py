"""Leaves events out of sorted partitions; the files of a partition are replaced as a whole."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.recommender.prepare.event_types import AMOUNTS, TYPES
from models.recommender.schema import NUM_SHARDS

PER_USER = ("offsets.npy", "peaks.npy")
PER_ITEM = ("index.npy",)
NEVER = np.iinfo(np.int64).max

Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kept:
    """What is left of a partition."""

    num_users: int
    num_events: int
    first_s: int
    last_s: int
    of_type: Int64s
    """Events by code of the type within the partition, from 0, the events without one."""
    num_amounts: int


def save_mask(work: Path, name: str, partition: int, mask: Mask) -> None:
    """Keep a mask of the events of a sorted partition under a name."""
    directory = work / "masks" / name
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / f"{partition:05d}.npy", mask)


def load_mask(work: Path, name: str, partition: int) -> Mask:
    """A mask that was kept under a name."""
    mask: Mask = np.load(work / "masks" / name / f"{partition:05d}.npy")
    return mask


def keep_events(work: Path, shards: Path, name: str, partition: int, *, has_times: bool) -> Kept:
    """Write a copy of a sorted partition with the events of a mask only, and without the users who have none left."""
    shard, scratch = shards / f"{partition:05d}", work / "sorted" / f"{partition:05d}"
    mask = load_mask(work, name, partition)
    offsets = np.load(shard / "offsets.npy")
    lengths = _lengths(offsets, mask)
    for part, source in (("shard", shard), ("sorted", scratch)):
        target = work / "kept" / f"{partition:05d}" / part
        target.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.npy"):
            if path.name not in (*PER_USER, *PER_ITEM):
                np.save(target / path.name, np.load(path)[mask])
    target = work / "kept" / f"{partition:05d}"
    np.save(target / "shard" / "offsets.npy", np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64))
    users = pq.read_table(shard / "users.parquet").filter(pa.array(lengths > 0))
    pq.write_table(users, target / "shard" / "users.parquet", compression="zstd")
    used, item = np.unique(np.load(target / "sorted" / "items.npy"), return_inverse=True)
    np.save(target / "sorted" / "items.npy", item.astype(np.int32))
    items = pq.read_table(scratch / "items.parquet").take(pa.array(used))
    pq.write_table(items, target / "sorted" / "items.parquet")
    if not has_times:  # the place of each event in its sequence
        ends = np.cumsum(lengths)
        np.save(target / "shard" / "timestamps.npy", np.arange(len(item)) - np.repeat(ends - lengths, lengths))
    seconds = np.load(target / "shard" / "timestamps.npy")
    first, last = (int(seconds.min()), int(seconds.max())) if len(seconds) else (NEVER, -NEVER)
    of_type = np.bincount(np.load(target / "sorted" / TYPES))
    num_amounts = int(np.isfinite(np.load(target / "sorted" / AMOUNTS)).sum())
    return Kept(users.num_rows, len(item), first, last, of_type, num_amounts)


def adopt(work: Path, shards: Path) -> None:
    """Replace all sorted partitions by their copies. Called once, when all of them are complete."""
    for number in range(NUM_SHARDS):
        for part, target in (("shard", shards / f"{number:05d}"), ("sorted", work / "sorted" / f"{number:05d}")):
            shutil.rmtree(target)
            (work / "kept" / f"{number:05d}" / part).rename(target)


def _lengths(offsets: Int64s, mask: Mask) -> Int64s:
    """Events of each user within the mask."""
    before = np.concatenate([[0], np.cumsum(mask)])
    lengths: Int64s = before[offsets[1:]] - before[offsets[:-1]]
    return lengths
