"""Baselines that a candidate is compared with, computed from counts: popularity and a tuned item-kNN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.prepared import Prepared
from models.recommender.data import Histories
from models.recommender.held_out import ShardLog
from models.recommender.networks.transitions import (
    Shape,
    Transitions,
    Tuned,
    best_of,
    ndcg,
    popularity_of,
    strongest,
    tuning_examples,
)
from models.recommender.schema import Schema

MAX_USER_EVENTS = 1000
"""Latest training events of a user that are counted: the pairs of a user, such as a bot, grow with their square."""


@dataclass(frozen=True)
class Neighbourhood:
    """How the similarity of two items is computed and summed over a history.

    score(history, i) is the sum over its last events j, at distance k from the end, of decay^k * similarity(j, i),
    where similarity(j, i) = both / (n(j)^asymmetry * n(i)^(1 - asymmetry) + shrink) for the n users of each item and
    `both` users of the two. Only the nearest neighbours of each j are kept.
    """

    decay: float = 0.65
    asymmetry: float = 0.5
    """0.5 is the cosine, 1 the conditional probability, which favours popular items."""
    shrink: float = 10.0
    neighbours: int = 200


STEPS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("decay", (0.35, 0.5, 0.8, 1.0)),
    ("asymmetry", (0.2, 0.35, 0.65, 0.8)),
    ("shrink", (0.0, 50.0, 200.0)),
    ("neighbours", (50, 800)),
)
"""Tried on validation in this order, each with the best of the others so far."""


class Popularity(nn.Module):
    """The same scores for everyone: each item's share of training events [V]."""

    popularity: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("popularity", torch.zeros(num_items + 1))

    def count(self, popularity: NDArray[Any]) -> None:
        """Set each item's share of the training events [V]."""
        self.popularity = torch.from_numpy(popularity.astype(np.float32))

    def forward(self, batch: Histories) -> Tensor:
        """Scores [B, V]."""
        return self.popularity.expand(len(batch.lengths), -1).clone()


def count_neighbours(data: Prepared, schema: Schema, network: Transitions) -> Neighbourhood:
    """Set the weights of an item-kNN, whose neighbourhood is tuned for NDCG@10 on validation and returned.

    Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001; asymmetric cosine of
    Aiolli, RecSys 2013; tuned as a baseline has to be, Ferrari Dacrema et al., RecSys 2019.
    """
    co_counts, num_users = _co_counts(data, schema)
    popularity = popularity_of(schema)
    examples = tuning_examples(data, schema)

    def score(tried: tuple[Neighbourhood, sp.csr_array]) -> float:
        shape, weights = tried
        return ndcg(Tuned(weights, popularity, Shape(decay=shape.decay)), examples)

    start = Neighbourhood()
    best = best_of([(start, _similarities(co_counts, num_users, start))], score)
    for name, values in STEPS if examples else ():
        _, (shape, weights) = best
        shapes = [replace(shape, **{name: value}) for value in values]
        same = weights if name == "decay" else None  # the decay leaves the similarities alone
        tried = ((each, _similarities(co_counts, num_users, each) if same is None else same) for each in shapes)
        best = best_of(tried, score, so_far=best)
    _, (shape, weights) = best
    network.set(weights, popularity, decay=shape.decay)
    return shape


def _co_counts(data: Prepared, schema: Schema) -> tuple[sp.csr_array, NDArray[Any]]:
    """Training users of both items [V, V], and of each item [V].

    The diagonal is kept only where an item of the history may be recommended again, such as one that was just viewed.
    """
    size = schema.num_items + 1
    co_counts = sp.csr_array((size, size), dtype=np.float32)
    for shard in range(schema.num_shards):
        log = ShardLog.open(data, shard)
        lengths = np.diff(log.offsets)
        user = np.repeat(np.arange(log.num_users), lengths)
        position = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], lengths)
        end = np.repeat(log.splits[:, 0], lengths)
        counted = (position < end) & (position >= end - MAX_USER_EVENTS)
        ones = np.ones(int(counted.sum()), np.float32)
        interactions = sp.csr_array((ones, (user[counted], log.items[counted])), shape=(log.num_users, size))
        interactions.data[:] = 1
        co_counts = co_counts + interactions.T @ interactions
    num_users = np.maximum(co_counts.diagonal(), 1)
    if schema.seen_types is None:
        co_counts.setdiag(0)
        co_counts.eliminate_zeros()
    return co_counts, num_users  # type: ignore[return-value]


def _similarities(co_counts: sp.csr_array, num_users: NDArray[Any], shape: Neighbourhood) -> sp.csr_array:
    """The similarities [V, V] of each row's nearest neighbours, sorted by column."""
    matrix = co_counts.copy()
    own = np.repeat(num_users**shape.asymmetry, np.diff(matrix.indptr))
    matrix.data /= own * num_users[matrix.indices] ** (1 - shape.asymmetry) + shape.shrink
    return strongest(matrix, shape.neighbours)
