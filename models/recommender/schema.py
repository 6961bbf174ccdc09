"""What networks and endpoints need to know about a log: the item vocabulary, the item counts, the split."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import models.family

NUM_SHARDS = 32
"""Prepared data is always hash-partitioned by user into this many shards, whatever its size or the worker count."""

Split = Literal["time", "leave-one-out", "held-out-users"]

PADDING = 0
"""Item index that stands for no item; the items of the vocabulary are 1 .. num_items."""


class Schema(models.family.Schema):
    """The vocabulary and statistics of a prepared behaviour log."""

    split: Split
    """What is evaluated on. time: one event per user, drawn from those after a global time; leave-one-out: each user's
    last events; held-out-users: the last fifth of the events of users who are not trained on, given their other events
    (strong generalisation)."""
    items: list[str]
    """Item ids; items[i] has the index i + 1."""
    item_counts: list[int]
    """Events of each item in the training split."""
    item_first_seen: list[int]
    """Epoch seconds of each item's first training event; its position in the sequence when the log has no times."""
    num_features: int = 0
    """Distinct features of the item table; see item_features."""
    train_until: int
    """Epoch seconds of the last training event; the length of the longest sequence when the log has no times."""
    val_from: str | None = None
    """RFC 3339 time of the first validation event of a time split."""
    test_from: str | None = None
    """RFC 3339 time of the first test event of a time split."""

    p90_events_per_user: int | None = None
    """Nine users in ten have at most this many events; None in data of releases before 0.3.0."""

    @property
    def num_items(self) -> int:
        """Items in the vocabulary; indices run from 1 to this."""
        return len(self.items)

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id -> index."""
        return {item: place + 1 for place, item in enumerate(self.items)}
