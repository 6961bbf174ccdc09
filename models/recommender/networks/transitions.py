"""Item-to-item transitions with decay, counted in one pass over the log; the prior of every network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import HeldOutExamples, Histories, ShardLog, collate, dataset
from models.recommender.networks.ranking import gains, rows_at_once
from models.recommender.schema import PADDING, Schema
from models.sampling import evenly

LAST_EVENTS = 30
"""Events of a history that are used."""
MAX_FOLLOWERS = 2000
"""Most frequent followers kept for each item, so that memory grows with items and not with pairs."""
MAX_PAIRS = 25_000_000
"""Pairs kept in total (200 MB); a large catalogue keeps fewer followers per item."""
TUNING_EXAMPLES = 3000
"""Validation examples on which the shape is tuned."""
MAX_TUNING_SCORES = 1_000_000_000
"""Scores of those examples; a large catalogue uses fewer examples."""
COUNTED_EVENTS = 2_000_000
"""Events counted per sparse sum."""
DENSE_ITEMS = 6000
"""Up to this many items the weights are also kept dense (144 MB), which speeds up sums of rows."""
POPULARITY_SHARE = 1e-3
"""Weight of popularity in the scores: ranks the items without a transition from the history."""


@dataclass(frozen=True)
class Shape:
    """How pairs are counted and weighted.

    score(history, i) is the sum over its last events j, at distance k from the end, of
    decay^k * T[j, i] / row(j)^row_power / column(i)^column_power, where T[j, i] sums 1 / distance over pairs at most
    `window` apart, plus `reverse` times its transpose.
    """

    window: int = 8
    decay: float = 0.7
    row_power: float = 1.0
    column_power: float = 0.0
    reverse: float = 0.0


SHAPES = (
    Shape(row_power=1.0, column_power=0.0, reverse=0.0),
    Shape(row_power=0.75, column_power=0.1, reverse=0.0),
    Shape(row_power=0.5, column_power=0.1, reverse=0.25),
    Shape(row_power=0.35, column_power=0.1, reverse=0.25),
    Shape(row_power=0.5, column_power=0.2, reverse=0.5),
    Shape(window=15, row_power=0.5, column_power=0.2, reverse=1.0),
)
"""Tried on validation: directed ones suit films watched in sequence, symmetric ones suit baskets."""
DECAYS = (0.5, 0.6, 0.8, 0.9)
"""Tried with the best shape, in addition to its own."""


class Transitions(nn.Module):
    """Sparse item-to-item weights [V, V] as CSR buffers; V = items + 1, row and column 0 are padding."""

    row_starts: Tensor
    columns: Tensor
    weights: Tensor
    popularity: Tensor
    decay: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_rows = num_items + 1
        self.register_buffer("row_starts", torch.zeros(self.num_rows + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))
        self.register_buffer("popularity", torch.zeros(self.num_rows))
        self.register_buffer("decay", torch.tensor(0.8))
        self._dense: Tensor | None = None

    def set(self, matrix: sp.csr_array, popularity: NDArray[Any], decay: float) -> None:
        """Set the weights from a scipy matrix [V, V] and the items' shares of all events [V]."""
        self.row_starts = torch.from_numpy(matrix.indptr.astype(np.int64))
        self.columns = torch.from_numpy(matrix.indices.astype(np.int32))
        self.weights = torch.from_numpy(matrix.data.astype(np.float32))
        self._dense = None
        self.popularity = torch.from_numpy(popularity.astype(np.float32))
        self.decay = torch.tensor(decay, dtype=torch.float32)

    def forward(self, batch: Histories) -> Tensor:
        """Scores [B, V] that sum to 1 over the items; popularity ranks those without a transition."""
        items, factors = self._last_events(batch)
        if self.num_rows <= DENSE_ITEMS:
            scores = F.embedding_bag(items, self._dense_weights(), per_sample_weights=factors, mode="sum")
        else:
            scores = self._sum_of_rows(items, factors)
        scores /= scores.sum(1, keepdim=True).clamp_min(1e-9)
        return scores.mul_(1 - POPULARITY_SHARE).add_(self.popularity, alpha=POPULARITY_SHARE)

    def _sum_of_rows(self, items: Tensor, factors: Tensor) -> Tensor:
        """Weighted sums [B, V] of the sparse rows `items` [B, K]."""
        starts = self.row_starts[items].reshape(-1)
        lengths = self.row_starts[items + 1].reshape(-1) - starts
        total = int(lengths.sum())
        # One flat entry per (example, event, follower): its index in the CSR arrays, its row of scores, its factor.
        first = starts - (lengths.cumsum(0) - lengths)
        place = torch.arange(total, device=items.device) + first.repeat_interleave(lengths, output_size=total)
        owner = torch.arange(len(items), device=items.device)[:, None].expand_as(items).reshape(-1) * self.num_rows
        row = owner.repeat_interleave(lengths, output_size=total)
        factor = factors.reshape(-1).repeat_interleave(lengths, output_size=total)
        scores = torch.zeros(len(items) * self.num_rows, device=items.device)
        scores.index_add_(0, row + self.columns[place], factor * self.weights[place])
        return scores.view(len(items), self.num_rows)

    def _dense_weights(self) -> Tensor:
        if self._dense is None or self._dense.device != self.weights.device:
            row = torch.arange(self.num_rows, device=self.weights.device).repeat_interleave(self.row_starts.diff())
            dense = self.weights.new_zeros(self.num_rows, self.num_rows)
            dense[row, self.columns.long()] = self.weights
            self._dense = dense
        return self._dense

    def explain(self, history: Sequence[int], items: Sequence[int]) -> list[int]:
        """For each item the event of the history that contributes most to its score; PADDING if none does."""
        row_starts, columns, weights = (
            tensor.cpu().numpy() for tensor in (self.row_starts, self.columns, self.weights)
        )
        wanted, decay = np.asarray(items, dtype=np.int32), float(self.decay)
        strongest, explanations = np.zeros(len(wanted)), np.full(len(wanted), PADDING)
        for distance, event in enumerate(reversed(history[-LAST_EVENTS:])):
            begin, end = row_starts[event], row_starts[event + 1]
            if begin == end:
                continue
            place = begin + np.searchsorted(columns[begin:end], wanted).clip(max=end - begin - 1)
            weight = np.where(columns[place] == wanted, decay**distance * weights[place], 0)
            explanations[weight > strongest] = event
            strongest = np.maximum(strongest, weight)
        return [int(event) for event in explanations]

    def _last_events(self, batch: Histories) -> tuple[Tensor, Tensor]:
        """The last events [B, K] of each history, newest first, and their factors, 0 for padding."""
        back = torch.arange(LAST_EVENTS, device=batch.items.device)
        place = batch.lengths[:, None] - 1 - back
        items = batch.items.gather(1, place.clamp(min=0, max=batch.items.shape[1] - 1))
        there = place >= 0
        return items * there, self.decay**back * there

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Only the file says how many pairs were counted.
        self._dense = None
        for name in ("columns", "weights"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.zeros(len(stored), dtype=stored.dtype, device=self.popularity.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def count_and_tune(data: Prepared, schema: Schema) -> tuple[sp.csr_array, NDArray[Any], Shape]:
    """Count the training split and tune the shape for NDCG@10 on validation: weights [V, V], popularity [V], shape."""
    popularity = popularity_of(schema)
    examples = tuning_examples(data, schema)
    counts: dict[int, sp.csr_array] = {}
    best: tuple[float, sp.csr_array, Shape] | None = None
    for shape in SHAPES:
        if shape.window not in counts:
            counts[shape.window] = count_pairs(data, schema, window=shape.window)
        weights = weight_counts(counts[shape.window], shape)
        score = ndcg(weights, popularity, shape.decay, examples)
        if best is None or score > best[0]:
            best = (score, weights, shape)
    assert best is not None
    score, weights, shape = best
    for tried in [replace(shape, decay=decay) for decay in DECAYS]:
        if examples and (other := ndcg(weights, popularity, tried.decay, examples)) > score:
            score, shape = other, tried
    return weights, popularity, shape


def tuning_examples(data: Prepared, schema: Schema) -> list[Any]:
    """The validation examples on which count-based networks are tuned; none if the split is empty."""
    held_out = dataset(data, "val", range(schema.num_shards), schema=schema, config=Config(), epoch=0)
    assert isinstance(held_out, HeldOutExamples)
    return evenly(held_out, min(TUNING_EXAMPLES, max(1, MAX_TUNING_SCORES // schema.num_items)))


def popularity_of(schema: Schema) -> NDArray[Any]:
    """Each item's share of all training events [V], with half an event for items never seen in training."""
    counts = np.concatenate([[0.0], np.asarray(schema.item_counts, dtype=np.float64) + 0.5])
    return np.asarray(counts / counts.sum())


def count_pairs(data: Prepared, schema: Schema, *, window: int) -> sp.csr_array:
    """T [V, V]: sum of 1 / distance over ordered pairs of a user's training events at most `window` apart."""
    size = schema.num_items + 1
    total = sp.csr_array((size, size), dtype=np.float32)
    for items, user in _training_events(data, schema):
        pairs: list[NDArray[Any]] = []
        weights: list[NDArray[Any]] = []
        for distance in range(1, min(window, len(items) - 1) + 1):
            same = user[distance:] == user[:-distance]
            pairs.append(np.stack([items[:-distance][same], items[distance:][same]]))
            weights.append(np.full(pairs[-1].shape[1], 1 / distance, np.float32))
        if pairs:
            total = total + sp.csr_array((np.concatenate(weights), np.concatenate(pairs, 1)), shape=(size, size))
    return total  # type: ignore[return-value]


def _training_events(data: Prepared, schema: Schema) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Items and users of the training split, several shards at a time: few sparse sums in bounded memory."""
    items: list[NDArray[Any]] = []
    users: list[NDArray[Any]] = []
    for shard in range(schema.num_shards):
        log = ShardLog.open(data, shard)
        lengths = np.diff(log.offsets)
        position = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], lengths)
        in_train = position < np.repeat(log.splits[:, 0], lengths)
        items.append(np.asarray(log.items)[in_train])
        users.append(np.repeat(np.arange(log.num_users) * schema.num_shards + shard, lengths)[in_train])
        if sum(map(len, items)) >= COUNTED_EVENTS or shard == schema.num_shards - 1:
            yield np.concatenate(items), np.concatenate(users)
            items, users = [], []


def weight_counts(counts: sp.csr_array, shape: Shape) -> sp.csr_array:
    """Counts to weights; see Shape. Rows are sorted by column and hold at most MAX_FOLLOWERS entries."""
    matrix = (counts + shape.reverse * counts.T).tocsr() if shape.reverse else counts.copy()
    rows = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-9) ** -shape.row_power
    columns = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1e-9) ** -shape.column_power
    matrix.data *= np.repeat(rows, np.diff(matrix.indptr)) * columns[matrix.indices]
    matrix = _strongest(matrix)
    matrix.sort_indices()
    return matrix


def add_cold_start_items(weights: sp.csr_array, neighbours: sp.csr_array) -> sp.csr_array:
    """The weights [V, V], with those of cold-start items averaged over their nearest neighbours, [V, V] by weight."""
    matrix = _strongest((weights + weights @ neighbours.T + neighbours @ weights).tocsr())
    matrix.sort_indices()
    return matrix


def _strongest(matrix: sp.csr_array) -> sp.csr_array:
    lengths = np.diff(matrix.indptr)
    limit = MAX_FOLLOWERS
    while limit > 1 and np.minimum(lengths, limit).sum() > MAX_PAIRS:
        limit = limit * 7 // 8
    if lengths.max(initial=0) <= limit:
        return matrix
    keep = np.ones(len(matrix.data), dtype=bool)
    for row in np.flatnonzero(lengths > limit):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        weakest = np.argpartition(matrix.data[begin:end], -limit)[:-limit]
        keep[begin + weakest] = False
    row_of = np.repeat(np.arange(len(lengths)), lengths)[keep]
    return sp.csr_array((matrix.data[keep], (row_of, matrix.indices[keep])), shape=matrix.shape)


def ndcg(weights: sp.csr_array, popularity: NDArray[Any], decay: float, examples: Sequence[Any]) -> float:
    """Mean NDCG@10 of the weights [V, V] on validation examples; 0 if there are none."""
    network = Transitions(weights.shape[0] - 1)
    network.set(weights, popularity, decay)
    total, size = 0.0, min(256, rows_at_once(network.num_rows))
    for start in range(0, len(examples), size):
        batch = collate(examples[start : start + size])
        assert isinstance(batch, Histories)
        total += float(gains(batch, network(batch)).sum())
    return total / max(1, len(examples))
