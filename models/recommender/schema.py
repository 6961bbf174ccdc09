"""What networks and endpoints need to know about a log: the item vocabulary, the item counts, the split."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

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
    event_types: list[str] = Field(default_factory=list)
    """Types of the log's events; event_types[i] has the code i + 1, and 0 is an event without a type."""
    event_type_counts: list[int] = Field(default_factory=list)
    """Training events by the code of their type; empty if the log has no types."""
    target_types: list[str] = Field(default_factory=list)
    """Types that are evaluated on and recommended for; empty for all."""
    seen_types: list[str] | None = None
    """Types that make an item seen, so that it is not recommended: None for all; empty for none, repeats count."""

    events_until: dict[str, int] = Field(default_factory=dict)
    """Event store -> the largest number of its events that the data hold, bad rows included; see `events export`."""

    @property
    def num_items(self) -> int:
        """Items in the vocabulary; indices run from 1 to this."""
        return len(self.items)

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id -> index."""
        return {item: place + 1 for place, item in enumerate(self.items)}

    @cached_property
    def type_codes(self) -> dict[str, int]:
        """Event type -> code."""
        return {name: place + 1 for place, name in enumerate(self.event_types)}

    @property
    def has_types(self) -> bool:
        """Whether the training events have different types; if not, networks do without them."""
        return sum(count > 0 for count in self.event_type_counts) > 1

    @cached_property
    def is_target(self) -> NDArray[np.bool_] | None:
        """Whether events of each type, by code, are targets; None if all are."""
        return self._flags(self.target_types) if self.target_types else None

    @cached_property
    def is_seen(self) -> NDArray[np.bool_] | None:
        """Whether events of each type, by code, make an item seen; None if all do.

        An event without a type does, since it may be of any, unless no type does.
        """
        if self.seen_types is None:
            return None
        flags = self._flags(self.seen_types)
        flags[0] = bool(self.seen_types)
        return flags

    def _flags(self, names: list[str]) -> NDArray[np.bool_]:
        return np.array([False, *(name in names for name in self.event_types)])


def tail_of(schema: Schema) -> Tensor:
    """Whether each item [V], the padding included, is in the tail: the rarest, with the last tenth of all events.

    An item without training events is in no part of the popularity curve.
    """
    counts = torch.tensor([0, *schema.item_counts], dtype=torch.float64)
    order = counts.argsort(descending=True, stable=True)
    is_tail = torch.zeros(len(counts), dtype=torch.bool)
    is_tail[order] = counts[order].cumsum(0) / counts.sum().clamp_min(1) > 0.9
    return is_tail & (counts > 0)
