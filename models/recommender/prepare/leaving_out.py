"""Leaves out what should not be learned from: likely bots, then items and users with too few events."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.recommender.prepare.bots import PERIODS_S, REASON, quarantine_bots, thresholds
from models.recommender.prepare.partitions import Sorted
from models.recommender.prepare.selection import Kept, adopt, keep_events, save_mask
from models.recommender.prepare.support import Support, prune
from models.recommender.prepare.vocabulary import index_items
from models.recommender.schema import NUM_SHARDS


@dataclass(frozen=True)
class LeftOut:
    """What was left out of the log, for the card."""

    bad: dict[str, int] = field(default_factory=dict)
    """Rows in quarantine, by reason."""
    rare: dict[str, int] = field(default_factory=dict)
    """Events of items and users with too few."""
    bots: dict[str, Any] = field(default_factory=dict)
    """Users and events left out as likely bots, and the events per period from which a user is one."""


@dataclass(frozen=True)
class Partitions:
    """The sorted partitions of a log."""

    work: Path
    shards: Path
    has_times: bool

    def select(self, executor: Executor, parts: Sequence[Sorted], mask: str) -> list[Sorted]:
        """Keep the events of a mask; returns the new counts."""
        keep = partial(keep_events, self.work, self.shards, mask, has_times=self.has_times)
        kept: list[Kept] = list(executor.map(keep, range(NUM_SHARDS)))
        adopt(self.work, self.shards)
        return [replace(part, **vars(one)) for part, one in zip(parts, kept, strict=True)]


def leave_out(
    partitions: Partitions,
    parts: list[Sorted],
    executor: Executor,
    *,
    keep_bots: bool,
    support: Support,
    quarantine: Path,
    source: str,
) -> tuple[list[Sorted], LeftOut]:
    """Leave out likely bots, unless they are kept, and the events of rare items and users; returns the new counts."""
    left_out = LeftOut()
    if partitions.has_times:
        limits, num_flagged = thresholds([part.peaks for part in parts])
        named = {f"events_in_{seconds}_s": limit for seconds, limit in zip(PERIODS_S, limits, strict=True)}
        left_out = replace(left_out, bots={"users": 0, "events": 0, **named})
        if num_flagged and not keep_bots:
            parts, left_out = _without_bots(partitions, parts, executor, left_out, limits, quarantine, source)
    if support != Support(1, 1):
        num_items = len(index_items(partitions.work, pa.array([], pa.string())))
        mask, rare = prune(partitions.work, partitions.shards, executor, num_items=num_items, support=support)
        if any(rare.values()):
            parts = partitions.select(executor, parts, mask)
        left_out = replace(left_out, rare=rare)
    return parts, left_out


def _without_bots(
    partitions: Partitions,
    parts: list[Sorted],
    executor: Executor,
    left_out: LeftOut,
    limits: Sequence[int],
    quarantine: Path,
    source: str,
) -> tuple[list[Sorted], LeftOut]:
    before_users, before = (sum(getattr(part, name) for part in parts) for name in ("num_users", "num_events"))
    one = partial(_find_bots, partitions.work, partitions.shards, quarantine, limits=limits, source=source)
    list(executor.map(one, range(NUM_SHARDS)))
    parts = partitions.select(executor, parts, REASON)
    num_events = before - sum(part.num_events for part in parts)
    num_users = before_users - sum(part.num_users for part in parts)
    return parts, replace(
        left_out, bad={REASON: num_events}, bots={**left_out.bots, "users": num_users, "events": num_events}
    )


def _find_bots(
    work: Path, shards: Path, quarantine: Path, partition: int, *, limits: Sequence[int], source: str
) -> None:
    name = f"{partition:05d}"
    path = quarantine / f"bots-{name}.parquet"
    mask = quarantine_bots(shards / name, work / "sorted" / name, path, limits=limits, source=source)
    save_mask(work, REASON, partition, np.asarray(mask))
