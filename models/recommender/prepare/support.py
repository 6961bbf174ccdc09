"""Minimum support: leaves out the events of items and users that have too few."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import DataRejected
from models.recommender.prepare.selection import load_mask, save_mask
from models.recommender.schema import NUM_SHARDS

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Support:
    """The fewest events of an item and of a user."""

    item: int
    user: int


@dataclass(frozen=True)
class Pruned:
    """What a round has left of a partition, as events per item of the vocabulary, and what it has left out."""

    counts: Int64s
    rare_items: int
    rare_users: int


def prune(
    work: Path, shards: Path, executor: Executor, *, num_items: int, support: Support
) -> tuple[str, dict[str, int]]:
    """Find the k-core: every item and every user that is left has enough events among those left.

    Items, then users with too few events lose all of them, again and again until none is left with too few. Returns
    the name of the masks for `selection.keep_events`, and the events left out by reason.
    """
    left_out = {"rare_item": 0, "rare_user": 0}
    is_kept = np.ones(num_items + 1, bool)
    number = 0
    while True:
        one = partial(prune_partition, work, shards, number=number, is_kept=is_kept, min_user_events=support.user)
        counts = np.zeros(num_items + 1, np.int64)
        for part in executor.map(one, range(NUM_SHARDS)):
            counts += part.counts
            left_out["rare_item"] += part.rare_items
            left_out["rare_user"] += part.rare_users
        is_kept = counts >= support.item
        if not counts[~is_kept].any():
            return f"support-{number}", left_out
        number += 1


def check_support(num_users: int, support: Support) -> None:
    """Raise DataRejected if fewer than two users are left."""
    if num_users < 2:
        raise DataRejected(
            f"--min-item-events {support.item} and --min-user-events {support.user} leave {num_users} users, and a "
            "recommender needs at least 2; lower them"
        )


def prune_partition(
    work: Path, shards: Path, partition: int, *, number: int, is_kept: npt.NDArray[np.bool_], min_user_events: int
) -> Pruned:
    """One round on one partition: leave out the events of rare items, then those of users with too few."""
    scratch = work / "sorted" / f"{partition:05d}"
    items = np.load(scratch / "index.npy")[np.load(scratch / "items.npy")]
    offsets = np.load(shards / f"{partition:05d}" / "offsets.npy")
    before = load_mask(work, f"support-{number - 1}", partition) if number else np.ones(len(items), bool)
    mask = before & is_kept[items]
    rare_items = int(before.sum() - mask.sum())
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    lengths = np.bincount(user[mask], minlength=len(offsets) - 1)
    kept = mask & (lengths >= min_user_events)[user]
    save_mask(work, f"support-{number}", partition, kept)
    return Pruned(np.bincount(items[kept], minlength=len(is_kept)), rare_items, int(mask.sum() - kept.sum()))
