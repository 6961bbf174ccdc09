"""A synthetic log of any size with learnable structure: topics, item-to-item transitions, users' favourite topics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ITEMS_PER_TOPIC = 100
NUM_FAVOURITES = 3
SUCCESSOR_SHARES = (0.4, 0.25, 0.15, 0.12, 0.08)
FOLLOWS, STAYS, RETURNS = 0.6, 0.25, 0.12
"""Probabilities that the next item is a successor of the last one, of its topic, or of a favourite topic; else any."""
FIRST_S = 1_700_000_000
SPAN_S = 300 * 86_400


@dataclass(frozen=True)
class World:
    """The generating distribution; item `rank * num_topics + topic` is the rank-th most popular of its topic."""

    num_topics: int
    topic_shares: NDArray[np.float64]
    rank_shares: NDArray[np.float64]
    successors: Ints
    """[items, S]: items of the same topic, popular ones more often."""

    @classmethod
    def of(cls, num_items: int, draw: np.random.Generator) -> World:
        """Topics and ranks with a flattened Zipf distribution."""
        num_topics = max(num_items // ITEMS_PER_TOPIC, NUM_FAVOURITES + 1)
        topic_shares, rank_shares = _zipf(num_topics), _zipf(ITEMS_PER_TOPIC)
        size = num_topics * ITEMS_PER_TOPIC
        ranks = _drawn(rank_shares, (size, len(SUCCESSOR_SHARES)), draw)
        successors = (np.arange(size) % num_topics)[:, None] + num_topics * ranks
        return cls(num_topics, topic_shares, rank_shares, successors)

    def next_items(self, items: Ints, favourites: Ints, draw: np.random.Generator) -> Ints:
        """The next items [U] of users with favourite topics [U, F] after `items` [U]."""
        kind, users = draw.random(len(items)), np.arange(len(items))
        followed = self.successors[items, _drawn(np.array(SUCCESSOR_SHARES), items.shape, draw)]
        favourite = favourites[users, draw.integers(0, NUM_FAVOURITES, len(items))]
        topic = _drawn(self.topic_shares, items.shape, draw)
        topic = np.where(kind < FOLLOWS + STAYS + RETURNS, favourite, topic)
        topic = np.where(kind < FOLLOWS + STAYS, items % self.num_topics, topic)
        fresh = topic + self.num_topics * _drawn(self.rank_shares, items.shape, draw)
        return np.asarray(np.where(kind < FOLLOWS, followed, fresh))

    def probabilities(self, item: int, favourites: Ints) -> dict[int, float]:
        """Probability of each item of the topics in question to be next; the others share the rest."""
        found: dict[int, float] = {}
        shares = {int(topic): RETURNS / NUM_FAVOURITES for topic in favourites}
        shares[item % self.num_topics] = shares.get(item % self.num_topics, 0.0) + STAYS
        for topic, share in shares.items():
            weight = share + (1 - FOLLOWS - STAYS - RETURNS) * float(self.topic_shares[topic])
            found |= {
                topic + self.num_topics * rank: weight * part for rank, part in enumerate(self.rank_shares.tolist())
            }
        for successor, share in zip(self.successors[item].tolist(), SUCCESSOR_SHARES, strict=True):
            found[successor] += FOLLOWS * share
        return found


def write_log(path: Path, *, num_items: int, num_users: int, events_per_user: int, seed: int = 0) -> dict[str, float]:
    """Write a Parquet log of users, items and times; returns the metrics of an ideal predictor on next-to-last events.

    It knows the distribution and each user's favourite topics, which a network has to infer from the history.
    """
    draw = np.random.default_rng(seed)
    world = World.of(num_items, draw)
    favourites = _drawn(world.topic_shares, (num_users, NUM_FAVOURITES), draw)
    events = np.empty((num_users, events_per_user), np.int64)
    events[:, 0] = draw.integers(0, len(world.successors), num_users)
    for step in range(1, events_per_user):
        events[:, step] = world.next_items(events[:, step - 1], favourites, draw)
    named = draw.permutation(len(world.successors))
    times = FIRST_S + draw.integers(0, SPAN_S, (num_users, 1)) + 3600 * np.arange(events_per_user)
    table = pa.table(
        {
            "user_id": _names("u", np.repeat(np.arange(num_users), events_per_user)),
            "item_id": _names("i", named[events.ravel()]),
            "timestamp": pa.array(times.ravel(), pa.timestamp("s")),
        }
    )
    pq.write_table(table, path, compression="zstd")
    return ideal(world, events[:2000], favourites[:2000])


def ideal(world: World, events: Ints, favourites: Ints) -> dict[str, float]:
    """NDCG@10 and hit rate of the ideal predictor on next-to-last events whose item is new to the user."""
    gains: list[float] = []
    for history, target, liked in zip(events[:, :-2], events[:, -2].tolist(), favourites, strict=True):
        seen = set(history.tolist())
        if target in seen:
            continue
        likely = world.probabilities(int(history[-1]), liked)
        own = likely.get(target, 0.0)
        rank = 1 + sum(share > own for item, share in likely.items() if item not in seen)
        gains.append(float(1 / np.log2(rank + 1)) if own and rank <= 10 else 0.0)
    return {"ndcg_at_10": float(np.mean(gains)), "hit_rate_at_10": float(np.mean(np.array(gains) > 0))}


def _zipf(num: int) -> NDArray[np.float64]:
    shares = 1 / (np.arange(num) + 5 + num / 50)
    return np.asarray(shares / shares.sum())


def _drawn(shares: NDArray[np.float64], shape: tuple[int, ...], draw: np.random.Generator) -> Ints:
    """Indices drawn with the given probabilities."""
    return np.searchsorted(shares.cumsum(), draw.random(shape)).clip(max=len(shares) - 1)


def _names(prefix: str, numbers: Ints) -> Any:
    return pa.array(np.char.add(prefix, np.char.zfill(numbers.astype("U8"), 8)))
