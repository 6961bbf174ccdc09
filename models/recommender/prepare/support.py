"""Minimum support: leaves out the events of items and users that have too few."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.arrays import load_array
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
    work: Path, shards: Path, executor: Executor, *, num_items: int, support: Support, mask: str | None
) -> tuple[str, dict[str, int]]:
    """Find the k-core: every item and every user that is left has enough events among those left.

    Users, then items with too few events lose all of them, again and again until none is left with too few. Only the
    events of `mask` count, if it is given. Returns the name of a mask for `selection.select`, and the events left out
    by reason.
    """
    left_out = {"rare_item": 0, "rare_user": 0}
    is_kept = np.ones(num_items + 1, bool)
    number = 0
    while True:
        name = f"support-{number}"
        one = partial(prune_partition, work, shards, masks=(mask, name), is_kept=is_kept, min_user_events=support.user)
        counts = np.zeros(num_items + 1, np.int64)
        for part in executor.map(one, range(NUM_SHARDS)):
            counts += part.counts
            left_out["rare_item"] += part.rare_items
            left_out["rare_user"] += part.rare_users
        is_kept = counts >= support.item
        if not counts[~is_kept].any():
            return name, left_out
        mask, number = name, number + 1


def check_support(num_users: int, support: Support) -> None:
    """Raise DataRejected if fewer than two users are left."""
    if num_users < 2:
        raise DataRejected(
            f"--min-item-events {support.item} and --min-user-events {support.user} leave {num_users} users, and a "
            "recommender needs at least 2; lower them"
        )


def prune_partition(
    work: Path,
    shards: Path,
    partition: int,
    *,
    masks: tuple[str | None, str],
    is_kept: npt.NDArray[np.bool_],
    min_user_events: int,
) -> Pruned:
    """One round on one partition: leave out the events of rare items, then those of users with too few.

    `masks` are the names of the one to begin with, if any, and of the one to write.
    """
    scratch = work / "sorted" / f"{partition:05d}"
    items = load_array(scratch / "index.npy")[load_array(scratch / "items.npy")]
    offsets = load_array(shards / f"{partition:05d}" / "offsets.npy")
    before = load_mask(work, masks[0], partition) if masks[0] else np.ones(len(items), bool)
    mask = before & is_kept[items]
    rare_items = int(before.sum() - mask.sum())
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    lengths = np.bincount(user[mask], minlength=len(offsets) - 1)
    kept = mask & (lengths >= min_user_events)[user]
    save_mask(work, masks[1], partition, kept)
    return Pruned(np.bincount(items[kept], minlength=len(is_kept)), rare_items, int(mask.sum() - kept.sum()))
