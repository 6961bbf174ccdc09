"""Settings that are left at auto: chosen by the log, as what was best on logs of its kind."""

from __future__ import annotations

import dataclasses
from typing import Any

from models.recommender.config import AUTO, Config
from models.recommender.schema import Schema

MAX_LENGTHS = (50, 100, 200)
"""Rows are as short as nine in ten histories allow: 50 for Amazon Beauty and Toys (14), 200 for ML-1M (400)."""
EVENTS_PER_STEP = 6_400
"""128 rows of 50 on Beauty and Toys, 32 of 200 on ML-1M."""
MIN_STEPS = 20
"""Steps per epoch that a small log has at least, by smaller batches; Beauty has 24."""
MIN_BATCH = 16
SPARSE, MEDIUM = 50, 200
"""Training events per item below which a log is sparse (Beauty 13, Toys 11) or medium (Online Retail); ML-1M: 289."""
DROPOUTS = {"sparse": 0.4, "medium": 0.3, "dense": 0.2}
LEARNING_RATES = {"sparse": 3e-3, "medium": 2e-3, "dense": 2e-3}
BEFORE: dict[str, Any] = {"max_length": 200, "batch_size": 32, "dropout": 0.2, "learning_rate": 2e-3}
"""The defaults until release 0.2.0, which data of these releases keeps."""


def resolve(config: Config, schema: Schema) -> Config:
    """The config with a value for every setting that is left at auto; others are unchanged."""
    left = [name for name in BEFORE if getattr(config, name) == AUTO]
    if not left:
        return config
    if schema.p90_events_per_user is None:
        return dataclasses.replace(config, **{name: BEFORE[name] for name in left})
    density = density_of(schema)
    chosen: dict[str, Any] = {
        "max_length": max_length_of(schema.p90_events_per_user),
        "dropout": DROPOUTS[density],
        "learning_rate": LEARNING_RATES[density],
    }
    length = chosen["max_length"] if config.max_length == AUTO else config.max_length
    chosen["batch_size"] = batch_size_of(schema.num_examples["train"], length)
    return dataclasses.replace(config, **{name: chosen[name] for name in left})


def density_of(schema: Schema) -> str:
    """sparse, medium or dense, by the training events per item that has any."""
    with_events = sum(count > 0 for count in schema.item_counts)
    per_item = sum(schema.item_counts) / max(1, with_events)
    return "sparse" if per_item < SPARSE else "medium" if per_item < MEDIUM else "dense"


def max_length_of(p90_events: int) -> int:
    """The shortest rows that hold the histories of nine users in ten, else the longest."""
    return next((length for length in MAX_LENGTHS if p90_events <= length), MAX_LENGTHS[-1])


def batch_size_of(num_events: int, length: int) -> int:
    """Rows per step."""
    return max(MIN_BATCH, min(EVENTS_PER_STEP, num_events // MIN_STEPS) // length)
