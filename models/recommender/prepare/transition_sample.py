"""How far the last item predicts the next one: followers of each item, and how well they rank the next item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TRAIN, VAL = 0, 2
"""Codes of the splits, as in diagnosis.SPLITS."""
TOP = 10
MAX_HELD_OUT = 1_000
"""Transitions into the validation split that are ranked, per shard."""
_MIX = np.uint64(0x9E3779B97F4A7C15)

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TransitionSample:
    """Transitions between consecutive events of a user from some items, as last * (num_items + 1) + next."""

    keys: Int64s
    """Distinct transitions within the training split."""
    counts: Int64s
    held_out: Int64s
    """Transitions into the validation split, evenly spaced."""


def sample_transitions(
    items: npt.NDArray[np.int32],
    same_user: npt.NDArray[np.bool_],
    split: npt.NDArray[np.int8],
    *,
    num_items: int,
    every: int,
) -> TransitionSample:
    """Count the transitions of a shard from every n-th item, by a hash of its index."""
    last, following = items[:-1].astype(np.int64), items[1:].astype(np.int64)
    is_sampled = same_user
    if every > 1:
        is_sampled = same_user & ((last.astype(np.uint64) * _MIX >> np.uint64(32)) % np.uint64(every) == 0)
    keys = last * (num_items + 1) + following
    distinct, counts = np.unique(keys[is_sampled & (split[1:] == TRAIN)], return_counts=True)
    held_out = keys[is_sampled & (split[1:] == VAL)]
    if len(held_out) > MAX_HELD_OUT:
        held_out = held_out[np.linspace(0, len(held_out) - 1, MAX_HELD_OUT).astype(np.int64)]
    return TransitionSample(distinct, counts, held_out)


def rank_next(parts: Sequence[TransitionSample], *, popularity: Int64s) -> dict[str, dict[str, float]]:
    """Branching of the training split, and the hit rates of transitions and of popularity on validation.

    `popularity` is the number of training events per item index, which starts at 0 with none.
    """
    size = len(popularity)
    keys, place = np.unique(np.concatenate([part.keys for part in parts]), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate([part.counts for part in parts])).astype(np.int64)
    last = keys // size
    starts = np.flatnonzero(np.diff(last, prepend=-1))
    branching = {"followers": 0.0, "perplexity": 0.0}
    if len(keys):
        totals = np.add.reduceat(counts, starts)
        log_share = np.log(counts / np.repeat(totals, np.diff(np.append(starts, len(keys)))))
        branching["followers"] = round(len(keys) / len(starts), 4)
        branching["perplexity"] = round(float(np.exp(-(counts * log_share).sum() / counts.sum())), 4)
    held_out = np.concatenate([part.held_out for part in parts])
    popular = np.argsort(-popularity, kind="stable")[:TOP]
    hits = {
        "transitions": np.isin(held_out, keys[_rank(last, counts, starts) < TOP]),
        "popularity": np.isin(held_out % size, popular[popularity[popular] > 0]),
    }
    rates = {f"hit_rate_at_10_{name}": round(float(hit.mean()), 4) if len(hit) else 0.0 for name, hit in hits.items()}
    return {"branching": branching, "history_dependence": {**rates, "sampled": len(held_out)}}


def _rank(last: Int64s, counts: Int64s, starts: Int64s) -> Int64s:
    """The place of each follower among those of its item: the most frequent first, the smaller index at a tie."""
    order = np.lexsort((-counts, last))
    rank = np.empty(len(last), np.int64)
    rank[order] = np.arange(len(last)) - np.repeat(starts, np.diff(np.append(starts, len(last))))
    return rank
