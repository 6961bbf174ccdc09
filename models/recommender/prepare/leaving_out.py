"""Leaves out what should not be learned from: likely bots, then items and users with too few events."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.arrays import load_array
from models.raw.tables import without_secrets
from models.recommender.prepare.bots import PERIODS_S, REASON, likely_bots, quarantine_events, thresholds
from models.recommender.prepare.partitions import Sorted
from models.recommender.prepare.selection import save_mask, select
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.prepare.support import Support, check_support, prune
from models.recommender.prepare.vocabulary import index_items
from models.recommender.schema import NUM_SHARDS


@dataclass(frozen=True)
class LeftOut:
    """What was left out of the log, for the card."""

    bots: dict[str, Any] = field(default_factory=dict)
    """Users and events of likely bots, and the events per period from which a user is one; empty without times."""
    rare: dict[str, int] = field(default_factory=dict)
    """Events of items and users with too few."""

    @property
    def bad(self) -> dict[str, int]:
        """Rows in quarantine, by reason."""
        return {REASON: self.bots["events"]} if self.bots.get("are_left_out") and self.bots["events"] else {}


def leave_out(
    config: PrepareConfig, parts: list[Sorted], out: Path, executor: Executor
) -> tuple[list[Sorted], LeftOut]:
    """Leave out likely bots, unless they are kept, and the events of rare items and users; returns the new counts."""
    work, shards = out / "work", out / "shards"
    left_out = LeftOut(_bots(config, parts, out, executor))
    mask = REASON if left_out.bad else None
    support = Support(config.min_item_events, config.min_user_events)
    if support != Support(1, 1):
        num_items = len(index_items(work, pa.array([], pa.string())))
        supported, rare = prune(work, shards, executor, num_items=num_items, support=support, mask=mask)
        left_out = LeftOut(left_out.bots, rare)
        mask = supported if any(rare.values()) else mask
    if mask is not None:
        parts = select(work, shards, executor, parts, mask)
    if any(left_out.rare.values()):
        check_support(sum(part.num_users for part in parts), support)
    return parts, left_out


def _bots(config: PrepareConfig, parts: Sequence[Sorted], out: Path, executor: Executor) -> dict[str, Any]:
    """Find likely bots, and quarantine their events unless they are kept; empty for a log without times."""
    if not parts[0].peaks:
        return {}
    limits, num_flagged = thresholds([part.peaks for part in parts])
    named = {f"events_in_{seconds}_s": limit for seconds, limit in zip(PERIODS_S, limits, strict=True)}
    found: list[tuple[int, int]] = []
    if num_flagged:
        source = None if config.keep_bots else without_secrets(config.raw)
        found = list(executor.map(partial(_find_bots, out, limits=limits, source=source), range(NUM_SHARDS)))
    users, events = (sum(counts[place] for counts in found) for place in (0, 1))
    return {"users": users, "events": events, "are_left_out": not config.keep_bots, **named}


def _find_bots(out: Path, partition: int, *, limits: Sequence[int], source: str | None) -> tuple[int, int]:
    """The number of likely bots in a partition, and of their events, which are quarantined and masked for a source."""
    name = f"{partition:05d}"
    shard, scratch = out / "shards" / name, out / "work" / "sorted" / name
    is_bot = likely_bots(scratch, limits)
    mask = np.repeat(~is_bot, np.diff(load_array(shard / "offsets.npy")))
    if source is not None:
        save_mask(out / "work", REASON, partition, mask)
        if is_bot.any():
            quarantine_events(~mask, shard, scratch, out / "quarantine" / f"bots-{name}.parquet", source=source)
    return int(is_bot.sum()), int((~mask).sum())
