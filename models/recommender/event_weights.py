"""Weights of event types: how much a next event counts in the loss and in the transitions, by its type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.prepared import Prepared
from models.recommender.held_out import ShardLog
from models.recommender.schema import Schema

COUNTED_EVENTS = 2_000_000
"""Events counted per sparse sum."""
MAX_DEFAULT_WEIGHT = 10.0
"""Of a rare target type, where `--weights` does not say."""

Weights = NDArray[np.float32]


def event_weights(text: str, schema: Schema) -> Weights | None:
    """The weight of each event type, by code; None where all types weigh the same.

    `text` is that of `--weights`, such as `view=1,purchase=10`; a type that it does not name has the weight 1.
    Raises ValueError, which names the types of the data, for text that does not fit.
    """
    weights = _parsed(text, schema) if text.strip() else default_weights(schema)
    return None if not schema.has_types or len(set(weights)) == 1 else np.array(weights, np.float32)


def default_weights(schema: Schema) -> list[float]:
    """1 for every type, except for rare targets: the root of how much rarer they are than the others, at most 10."""
    counts, is_target = np.array(schema.event_type_counts, np.float64), schema.is_target
    if is_target is None or not schema.has_types:
        return [1.0] * len(counts)
    ratio = counts[~is_target].sum() / max(counts[is_target].sum(), 1.0)
    weight = round(min(max(math.sqrt(ratio), 1.0), MAX_DEFAULT_WEIGHT), 2)
    return [weight if target else 1.0 for target in is_target]


def shown_weights(weights: list[float], schema: Schema) -> str:
    """The weights as `--weights` takes them; empty if all are 1."""
    if all(weight == 1 for weight in weights):
        return ""
    return ",".join(f"{name}={weight:g}" for name, weight in zip(schema.event_types, weights[1:], strict=True))


def loss_weights(weights: Weights | None, schema: Schema) -> Tensor | None:
    """The weights scaled to a mean of 1 over the training events, so that they leave the learning rate alone.

    A constant scale, unlike one by batch, keeps the loss independent of the number of workers.
    """
    if weights is None:
        return None
    counts = np.array(schema.event_type_counts, np.float64)
    return torch.from_numpy((weights * counts.sum() / (weights * counts).sum()).astype(np.float32))


def transition_weights(weights: Weights | None, schema: Schema) -> list[Weights | None]:
    """The weights to try for the transitions: those of the loss, all alike, and targets only."""
    tried: list[Weights | None] = [None] if weights is None else [weights, None]
    return tried if schema.is_target is None or not schema.has_types else [*tried, schema.is_target.astype(np.float32)]


def item_weights(data: Prepared, schema: Schema, weights: Weights | None) -> NDArray[np.float64] | None:
    """The training events of each item, weighted by their types: [V - 1]; None where all types weigh the same."""
    if weights is None:
        return None
    total = np.zeros(schema.num_items + 1)
    for items, _, types in training_events(data, schema):
        total += np.bincount(items, weights[types], minlength=len(total))
    return total[1:]


def training_events(data: Prepared, schema: Schema) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.uint8]]]:
    """Items, users and types (empty for a log without) of the training split, several shards at a time.

    So a count needs few sparse sums in bounded memory.
    """
    items: list[NDArray[Any]] = []
    users: list[NDArray[Any]] = []
    types: list[NDArray[np.uint8]] = []
    for shard in range(schema.num_shards):
        log = ShardLog.open(data, shard)
        lengths = np.diff(log.offsets)
        position = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], lengths)
        in_train = position < np.repeat(log.splits[:, 0], lengths)
        items.append(np.asarray(log.items)[in_train])
        users.append(np.repeat(np.arange(log.num_users) * schema.num_shards + shard, lengths)[in_train])
        types.append(np.zeros(0, np.uint8) if log.types is None else log.types[in_train])
        if sum(map(len, items)) >= COUNTED_EVENTS or shard == schema.num_shards - 1:
            yield np.concatenate(items), np.concatenate(users), np.concatenate(types)
            items, users, types = [], [], []


def _parsed(text: str, schema: Schema) -> list[float]:
    known = ", ".join(schema.event_types) or "none; map the column: prepare --columns event_type=ACTION"
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.rpartition("="))
        name = name.lower()
        if not equals or not name:
            raise ValueError(f"--weights {text!r}: {part.strip()!r} is not TYPE=WEIGHT, such as purchase=10")
        if name not in schema.type_codes:
            raise ValueError(f"--weights {text!r}: the data have no event type {name!r}; they have: {known}")
        if name in weights:
            raise ValueError(f"--weights {text!r} names {name!r} twice")
        try:
            weights[name] = float(value)
        except ValueError:
            raise ValueError(f"--weights {text!r}: {value!r} is not a number") from None
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise ValueError(f"--weights {text!r}: {value} is not a weight; give a finite number, 0 or more")
    found = [weights.get(name, 1.0) for name in schema.event_types]
    if not any(weight * count for weight, count in zip(found, schema.event_type_counts[1:], strict=True)):
        raise ValueError(f"--weights {text!r} leaves no event to train on; give a type of the data a weight above 0")
    return [1.0, *found]
