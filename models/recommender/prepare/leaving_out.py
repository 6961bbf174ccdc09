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

from models.recommender.prepare.bots import PERIODS_S, REASON, likely_bots, quarantine_events, thresholds
from models.recommender.prepare.notes import notes
from models.recommender.prepare.partitions import Sorted
from models.recommender.prepare.selection import Kept, adopt, keep_events, save_mask
from models.recommender.prepare.support import Support, check_support, prune
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

    def added_to(
        self, card: dict[str, Any], parts: Sequence[Sorted], diagnosis: dict[str, Any], bad_items: dict[str, int]
    ) -> dict[str, Any]:
        """A card with what was left out, bad rows of the item table, the diagnosis, and notes for people."""
        collapsed = {"collapsed": sum(part.num_collapsed for part in parts)}
        found = {"left_out_events": self.rare | collapsed, "bots": self.bots, "diagnosis": diagnosis}
        card = {**card, "bad": card["bad"] | self.bad | bad_items, **found}
        return {**card, "notes": [*card.get("notes", ()), *notes(card)]}


@dataclass(frozen=True)
class Partitions:
    """The sorted partitions of a log."""

    out: Path
    """The directory that prepare fills."""
    has_times: bool

    @property
    def work(self) -> Path:
        """Directory of what is deleted at the end."""
        return self.out / "work"

    @property
    def shards(self) -> Path:
        """Directory of the shards."""
        return self.out / "shards"

    def select(self, executor: Executor, parts: Sequence[Sorted], mask: str) -> list[Sorted]:
        """Keep the events of a mask; returns the new counts."""
        keep = partial(keep_events, self.work, self.shards, mask, has_times=self.has_times)
        kept: list[Kept] = list(executor.map(keep, range(NUM_SHARDS)))
        adopt(self.work, self.shards)
        return [_counted(part, one) for part, one in zip(parts, kept, strict=True)]


def _counted(part: Sorted, kept: Kept) -> Sorted:
    """The counts of what is left; a type without events keeps its place, which is its code in the partition."""
    counts = [*kept.of_type.tolist(), *[0] * (1 + len(part.types))]
    of_type = dict(zip(("", *part.types), counts, strict=False))
    return replace(
        part,
        num_users=kept.num_users,
        num_events=kept.num_events,
        first_s=kept.first_s,
        last_s=kept.last_s,
        num_of_type=of_type,
        num_amounts=kept.num_amounts,
    )


def leave_out(
    partitions: Partitions,
    parts: list[Sorted],
    executor: Executor,
    *,
    keep_bots: bool,
    support: Support,
    source: str,
) -> tuple[list[Sorted], LeftOut]:
    """Leave out likely bots, unless they are kept, and the events of rare items and users; returns the new counts."""
    left_out = LeftOut()
    if partitions.has_times:
        limits, num_flagged = thresholds([part.peaks for part in parts])
        named = {f"events_in_{seconds}_s": limit for seconds, limit in zip(PERIODS_S, limits, strict=True)}
        left_out = replace(left_out, bots={"users": 0, "events": 0, "are_left_out": not keep_bots, **named})
        if num_flagged:
            path = None if keep_bots else partitions.out / "quarantine"
            find = partial(_find_bots, partitions.work, partitions.shards, path, limits=limits, source=source)
            bots = list(executor.map(find, range(NUM_SHARDS)))
            left_out.bots.update(users=sum(users for users, _ in bots), events=sum(events for _, events in bots))
        if num_flagged and not keep_bots:
            parts = partitions.select(executor, parts, REASON)
            left_out.bad[REASON] = left_out.bots["events"]
    if support != Support(1, 1):
        num_items = len(index_items(partitions.work, pa.array([], pa.string())))
        mask, rare = prune(partitions.work, partitions.shards, executor, num_items=num_items, support=support)
        if any(rare.values()):
            parts = partitions.select(executor, parts, mask)
            check_support(sum(part.num_users for part in parts), support)
        left_out = replace(left_out, rare=rare)
    return parts, left_out


def _find_bots(
    work: Path, shards: Path, quarantine: Path | None, partition: int, *, limits: Sequence[int], source: str
) -> tuple[int, int]:
    """Mark the events of a partition that are not of likely bots; returns the number of these users and events."""
    name = f"{partition:05d}"
    shard, scratch = shards / name, work / "sorted" / name
    is_bot = likely_bots(scratch, limits)
    mask = np.repeat(~is_bot, np.diff(np.load(shard / "offsets.npy")))
    save_mask(work, REASON, partition, mask)
    if quarantine is not None and is_bot.any():
        quarantine_events(~mask, shard, scratch, quarantine / f"bots-{name}.parquet", source=source)
    return int(is_bot.sum()), int((~mask).sum())
