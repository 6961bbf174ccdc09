"""What follows two events of a history, the last one and an earlier one: sharpens the transitions where it is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.nn.sparse_rows import SparseRows, sum_rows
from models.nn.state_dict import default_on_load, resize_on_load
from models.prepared import Prepared
from models.recommender.data import Histories
from models.recommender.event_weights import training_events
from models.recommender.schema import Schema

MAX_DISTANCE = 8
"""Largest distance of the earlier event from the last one."""
WINDOW = 4
"""Largest distance of a follower from the last event."""
MIN_WEIGHT = 0.5
"""Followers counted less are dropped: on ML-1M nine in ten, with no loss."""
MAX_FOLLOWERS = 4_000_000
"""Followers kept in total, the most frequent (50 MB)."""
MAX_EVENTS = 2_000_000
"""A larger log does without: counting takes time and memory in proportion to 32 times its events."""
COUNTED_AT_ONCE = 16_000_000
SHRINKS = (16.0, 32.0, 64.0, 128.0)
SHARES = (0.3, 0.5)
"""Both are tried on validation."""

Counts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""Keys [P], ascending, row starts [P + 1], columns [N] and weights [N]: see EventPairs."""


class EventPairs(nn.Module):
    """Followers of pairs of items as CSR buffers; empty if the log has too many events or they are of no use.

    The pair of an earlier item a and a last item b has the key a * V + b. A follower at distance f from b, which is at
    distance g from a, counts 1 / (f * g). For a history the followers of its last MAX_DISTANCE pairs are added, divided
    by g, and mixed into the transitions with the weight share * n / (n + shrink), n being their sum.
    """

    keys: Tensor
    starts: Tensor
    columns: Tensor
    weights: Tensor
    shrink: Tensor
    share: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_rows = num_items + 1
        empty = {
            "keys": torch.zeros(0, dtype=torch.int64),
            "starts": torch.zeros(1, dtype=torch.int64),
            "columns": torch.zeros(0, dtype=torch.int32),
            "weights": torch.zeros(0),
            "shrink": torch.tensor(1.0),
            "share": torch.tensor(0.0),
        }
        for name, value in empty.items():
            self.register_buffer(name, value)
        default_on_load(self, empty)  # models until release 0.2 have none
        resize_on_load(self, "keys", "starts", "columns", "weights")

    def set(self, counts: Counts, *, shrink: float, share: float) -> None:
        """Set the followers and how they are mixed in."""
        keys, starts, columns, weights = counts
        self.keys, self.starts = torch.from_numpy(keys), torch.from_numpy(starts)
        self.columns, self.weights = torch.from_numpy(columns), torch.from_numpy(weights)
        self.shrink, self.share = torch.tensor(shrink), torch.tensor(share)

    def mixed_into(self, scores: Tensor, batch: Histories) -> Tensor:
        """The scores [B, V], which sum to 1 over the items, with the followers mixed in; may write into them."""
        if not len(self.keys):
            return scores
        found = self._followers(batch)
        total = found.sum(1, keepdim=True)
        share = self.share * total / (total + self.shrink)
        return scores.mul_(1 - share).add_(found.mul_(share / total.clamp_min(1e-9)))

    def _followers(self, batch: Histories) -> Tensor:
        """Weighted sums [B, V] of the followers of each history's pairs."""
        distance = torch.arange(1, MAX_DISTANCE + 1, device=batch.items.device)
        place = batch.lengths[:, None] - 1 - distance
        last = batch.items.gather(1, (batch.lengths - 1).clamp_min(0)[:, None])
        key = batch.items.gather(1, place.clamp_min(0)) * self.num_rows + last
        at = torch.searchsorted(self.keys, key).clamp_max(len(self.keys) - 1)
        known = (self.keys[at] == key) & (place >= 0)
        row, pair = known.nonzero(as_tuple=True)
        return sum_rows(
            SparseRows(self.starts, self.columns, self.weights),
            rows_N=at[known],
            factors_N=1 / distance[pair],
            owner_N=row,
            shape=(len(known), self.num_rows),
        )


def count_event_pairs(data: Prepared, schema: Schema) -> Counts | None:
    """The followers of all pairs of the training split; None for a log that is too large.

    Pairs are counted in several passes, each those of a part of the keys, so that memory is bounded.
    """
    size = schema.num_items + 1
    if sum(schema.item_counts) > MAX_EVENTS or size > 2**20:  # a pair and its follower fit 63 bits
        return None
    chunks = list(training_events(data, schema))
    items = np.concatenate([items for items, _, _ in chunks]).astype(np.int64)
    user = np.concatenate([user for _, user, _ in chunks])
    num_passes = -(-len(items) * MAX_DISTANCE * WINDOW // COUNTED_AT_ONCE) or 1
    counted = [_count(items, user, size, part, num_passes) for part in range(num_passes)]
    codes, weights = (np.concatenate(arrays) for arrays in zip(*counted, strict=True))
    if len(codes) > MAX_FOLLOWERS:
        weakest = np.partition(weights, len(weights) - MAX_FOLLOWERS)[len(weights) - MAX_FOLLOWERS]
        codes, weights = codes[weights > weakest], weights[weights > weakest]
    order = np.argsort(codes)
    codes, weights = codes[order], weights[order]
    keys, starts = np.unique(codes // size, return_index=True)
    return keys, np.append(starts, len(codes)).astype(np.int64), (codes % size).astype(np.int32), weights


def _count(
    items: NDArray[np.int64], user: NDArray[Any], size: int, part: int, num_parts: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes (key * V + follower), each once, and summed weights of the pairs in one part of the keys."""
    codes, weights = [], []
    for distance in range(1, MAX_DISTANCE + 1):
        for after in range(1, WINDOW + 1):
            count = max(0, len(items) - distance - after)
            earlier, last = items[:count], items[distance : distance + count]
            wanted = user[:count] == user[distance + after :][:count]
            wanted &= (earlier * 31 + last) % num_parts == part
            code = (earlier[wanted] * size + last[wanted]) * size + items[distance + after :][:count][wanted]
            codes.append(code)
            weights.append(np.full(len(code), 1 / (distance * after), np.float32))
    code, weight = np.concatenate(codes), np.concatenate(weights)
    if not len(code):
        return code, weight
    order = np.argsort(code, kind="stable")
    code = code[order]
    first = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
    total = np.add.reduceat(weight[order], first)
    kept = total >= MIN_WEIGHT - 1e-6
    return code[first][kept], total[kept]
