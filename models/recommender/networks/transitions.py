"""Item-to-item transitions with decay, counted in one pass over the log; the prior of every network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.nn.sparse_rows import SparseRows, sum_rows
from models.nn.state_dict import resize_on_load
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import Histories, collate, dataset
from models.recommender.event_weights import Weights, item_weights, training_events, transition_weights
from models.recommender.held_out import HeldOutExamples
from models.recommender.networks.event_pairs import SHARES, SHRINKS, Counts, EventPairs
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
DENSE_ITEMS = 6000
"""Up to this many items the weights are also kept dense (144 MB), which speeds up sums of rows."""
MIN_PAIR_GAIN = 0.01
"""Relative gain on validation for which pairs of events are kept: they make a model larger."""
POPULARITY_SHARE = 1e-3
"""Weight of popularity in the scores: ranks the items without a transition from the history."""

Setting = TypeVar("Setting")


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
TYPE_SHAPES = (SHAPES[0], SHAPES[4])
"""With which the weights of event types are chosen: one for sequences, one for baskets."""
TYPE_FACTORS = (0.03, 0.3, 3.0)
"""Tried for each event type of the history, in addition to 1; none is 0, so that a user who only views is not lost."""
MAX_TUNED_TYPES = 6
"""The most frequent types get such a factor."""


class Transitions(nn.Module):
    """Sparse item-to-item weights [V, V] as CSR buffers; V = items + 1, row and column 0 are padding."""

    row_starts: Tensor
    columns: Tensor
    weights: Tensor
    popularity: Tensor
    decay: Tensor
    type_factors: Tensor | None

    def __init__(self, num_items: int, num_types: int = 0) -> None:
        super().__init__()
        self.num_rows = num_items + 1
        self.register_buffer("row_starts", torch.zeros(self.num_rows + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))
        self.register_buffer("popularity", torch.zeros(self.num_rows))
        self.register_buffer("decay", torch.tensor(0.8))
        # How much an event of the history counts, by its type; the log of a model without types has no such tensor.
        self.register_buffer("type_factors", torch.ones(num_types + 1) if num_types else None)
        self.pairs = EventPairs(num_items)
        resize_on_load(self, "columns", "weights")
        self._dense: tuple[Tensor, Tensor] | None = None
        """The weights that were made dense, and the dense ones."""

    def set(
        self, matrix: sp.csr_array, popularity: NDArray[Any], decay: float, type_factors: Weights | None = None
    ) -> None:
        """Set the weights from a scipy matrix [V, V], the items' shares of all events [V], and the factors by type."""
        if type_factors is not None:
            self.type_factors = torch.from_numpy(type_factors.copy())
        self.row_starts = torch.from_numpy(matrix.indptr.astype(np.int64))
        self.columns = torch.from_numpy(matrix.indices.astype(np.int32))
        self.weights = torch.from_numpy(matrix.data.astype(np.float32))
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
        scores = self.pairs.mixed_into(scores, batch)
        return scores.mul_(1 - POPULARITY_SHARE).add_(self.popularity, alpha=POPULARITY_SHARE)

    def _sum_of_rows(self, items: Tensor, factors: Tensor) -> Tensor:
        """Weighted sums [B, V] of the sparse rows `items` [B, K]."""
        return sum_rows(
            SparseRows(self.row_starts, self.columns, self.weights),
            rows_N=items.flatten(),
            factors_N=factors.flatten(),
            owner_N=torch.arange(len(items), device=items.device).repeat_interleave(items.shape[1]),
            shape=(len(items), self.num_rows),
        )

    def _dense_weights(self) -> Tensor:
        if self._dense is None or self._dense[0] is not self.weights:
            row = torch.arange(self.num_rows, device=self.weights.device).repeat_interleave(self.row_starts.diff())
            dense = self.weights.new_zeros(self.num_rows, self.num_rows)
            dense[row, self.columns.long()] = self.weights
            self._dense = self.weights, dense
        return self._dense[1]

    def explain(self, history: Sequence[int], items: Sequence[int], types: Sequence[int] | None = None) -> list[int]:
        """For each item the event of the history that contributes most to its score; PADDING if none does."""
        row_starts, columns, weights = (
            tensor.cpu().numpy() for tensor in (self.row_starts, self.columns, self.weights)
        )
        wanted, decay = np.asarray(items, dtype=np.int32), float(self.decay)
        strongest, explanations = np.zeros(len(wanted)), np.full(len(wanted), PADDING)
        factors = None if self.type_factors is None or types is None else self.type_factors.tolist()
        for distance, event in enumerate(reversed(history[-LAST_EVENTS:])):
            begin, end = row_starts[event], row_starts[event + 1]
            if begin == end:
                continue
            factor = decay**distance
            if factors is not None and types is not None:
                factor *= factors[types[-1 - distance]]
            place = begin + np.searchsorted(columns[begin:end], wanted).clip(max=end - begin - 1)
            weight = np.where(columns[place] == wanted, factor * weights[place], 0)
            explanations[weight > strongest] = event
            strongest = np.maximum(strongest, weight)
        return [int(event) for event in explanations]

    def _last_events(self, batch: Histories) -> tuple[Tensor, Tensor]:
        """The last events [B, K] of each history, newest first, and their factors, 0 for padding."""
        back = torch.arange(LAST_EVENTS, device=batch.items.device)
        place = batch.lengths[:, None] - 1 - back
        clamped = place.clamp(min=0, max=batch.items.shape[1] - 1)
        items = batch.items.gather(1, clamped)
        there = place >= 0
        factors = self.decay**back * there
        if self.type_factors is not None and batch.types is not None:
            factors = factors * self.type_factors[batch.types.gather(1, clamped)]
        return items * there, factors


@dataclass(frozen=True)
class Tuned:
    """What count_and_tune finds: weights [V, V], popularity [V], the shape, and the factors of event types by code."""

    weights: sp.csr_array
    popularity: NDArray[Any]
    shape: Shape
    type_factors: Weights | None = None


def best_of(
    tried: Iterable[Setting], score: Callable[[Setting], float], *, so_far: tuple[float, Setting] | None = None
) -> tuple[float, Setting]:
    """The setting with the highest score, and that score; among equal ones the first, before them the best `so_far`."""
    scored = ((score(each), each) for each in tried)
    return max(scored if so_far is None else itertools.chain([so_far], scored), key=itemgetter(0))


def count_and_tune(data: Prepared, schema: Schema, *, event_weights: Weights | None = None) -> Tuned:
    """Count the training split and tune the shape for NDCG@10 on validation.

    Where events have types, a pair counts as much as the type of its second event: by `event_weights`, all alike or
    targets only, whichever is best. Then each type gets a factor as an event of the history.
    """
    popularity = popularity_of(schema, item_weights(data, schema, event_weights))
    examples = tuning_examples(data, schema)

    def score(tuned: Tuned) -> float:
        return ndcg(tuned, examples)

    def best_shape(shapes: Sequence[Shape], weights: Weights | None) -> tuple[float, Tuned]:
        windows = {shape.window for shape in shapes}
        counted = {window: count_pairs(data, schema, window=window, weights=weights) for window in windows}
        return best_of(
            (Tuned(weight_counts(counted[shape.window], shape), popularity, shape) for shape in shapes), score
        )

    weights, *others = transition_weights(event_weights, schema)
    if others:
        _, weights = best_of([weights, *others], lambda each: best_shape(TYPE_SHAPES, each)[0])
    best = best_shape(SHAPES, weights)
    decayed = [replace(best[1], shape=replace(best[1].shape, decay=decay)) for decay in DECAYS]
    best = best_of(decayed, score, so_far=best)
    return _with_type_factors(best, schema, score) if schema.has_types else best[1]


def _with_type_factors(best: tuple[float, Tuned], schema: Schema, score: Callable[[Tuned], float]) -> Tuned:
    """Factors of the types, tried one type after the other, the most frequent first."""
    score_so_far, tuned = best
    best_factors = score_so_far, np.ones(len(schema.event_types) + 1, np.float32)
    counts = np.array(schema.event_type_counts)
    for code in np.argsort(-counts, kind="stable")[: min(MAX_TUNED_TYPES, int((counts > 0).sum()))]:
        is_code = np.arange(len(schema.event_types) + 1) == code
        tried = [np.where(is_code, np.float32(factor), best_factors[1]) for factor in TYPE_FACTORS]
        best_factors = best_of(tried, lambda factors: score(replace(tuned, type_factors=factors)), so_far=best_factors)
    return replace(tuned, type_factors=best_factors[1])


def tuning_examples(data: Prepared, schema: Schema) -> list[Any]:
    """The validation examples on which count-based networks are tuned; none if the split is empty."""
    held_out = dataset(data, "val", range(schema.num_shards), schema=schema, config=Config(), epoch=0)
    assert isinstance(held_out, HeldOutExamples)
    return evenly(held_out, min(TUNING_EXAMPLES, max(1, MAX_TUNING_SCORES // schema.num_items)))


def popularity_of(schema: Schema, item_weights: NDArray[Any] | None = None) -> NDArray[Any]:
    """Each item's share of all training events [V], with half an event for items never seen in training.

    `item_weights` [V - 1] are the events of each item weighted by their types; by default all count alike.
    """
    events = schema.item_counts if item_weights is None else item_weights
    counts = np.concatenate([[0.0], np.asarray(events, dtype=np.float64) + 0.5])
    return np.asarray(counts / counts.sum())


def count_pairs(data: Prepared, schema: Schema, *, window: int, weights: Weights | None = None) -> sp.csr_array:
    """T [V, V]: sum of 1 / distance over ordered pairs of a user's training events at most `window` apart.

    `weights` multiply a pair by the type of its second event.
    """
    size = schema.num_items + 1
    total = sp.csr_array((size, size), dtype=np.float32)
    for items, user, types in training_events(data, schema):
        pairs: list[NDArray[Any]] = []
        values: list[NDArray[Any]] = []
        for distance in range(1, min(window, len(items) - 1) + 1):
            same = user[distance:] == user[:-distance]
            pairs.append(np.stack([items[:-distance][same], items[distance:][same]]))
            if weights is None:
                values.append(np.full(pairs[-1].shape[1], 1 / distance, np.float32))
            else:
                values.append(weights[types[distance:][same]] / np.float32(distance))
        if pairs:
            total = total + sp.csr_array((np.concatenate(values), np.concatenate(pairs, 1)), shape=(size, size))
    return total  # type: ignore[return-value]


def weight_counts(counts: sp.csr_array, shape: Shape) -> sp.csr_array:
    """Counts to weights; see Shape. Rows are sorted by column and hold at most MAX_FOLLOWERS entries."""
    matrix = (counts + shape.reverse * counts.T).tocsr() if shape.reverse else counts.copy()
    rows = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-9) ** -shape.row_power
    columns = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1e-9) ** -shape.column_power
    matrix.data *= np.repeat(rows, np.diff(matrix.indptr)) * columns[matrix.indices]
    return strongest(matrix)


def add_cold_start_items(weights: sp.csr_array, neighbours: sp.csr_array) -> sp.csr_array:
    """The weights [V, V], with those of cold-start items averaged over their nearest neighbours, [V, V] by weight."""
    return strongest((weights + weights @ neighbours.T + neighbours @ weights).tocsr())


def strongest(matrix: sp.csr_array, limit: int = MAX_FOLLOWERS) -> sp.csr_array:
    """The `limit` largest entries of each row, fewer if that makes more than MAX_PAIRS; rows are sorted by column."""
    lengths = np.diff(matrix.indptr)
    while limit > 1 and np.minimum(lengths, limit).sum() > MAX_PAIRS:
        limit = limit * 7 // 8
    if lengths.max(initial=0) > limit:
        keep = np.ones(len(matrix.data), dtype=bool)
        for row in np.flatnonzero(lengths > limit):
            begin, end = matrix.indptr[row], matrix.indptr[row + 1]
            weakest = np.argpartition(matrix.data[begin:end], -limit)[:-limit]
            keep[begin + weakest] = False
        row_of = np.repeat(np.arange(len(lengths)), lengths)[keep]
        matrix = sp.csr_array((matrix.data[keep], (row_of, matrix.indices[keep])), shape=matrix.shape)
    matrix.sort_indices()
    return matrix


def ndcg(tuned: Tuned, examples: Sequence[Any]) -> float:
    """Mean NDCG@10 of tuned weights on validation examples; 0 if there are none."""
    return float(gains_of(_network(tuned), examples).mean())


def tune_pairs(network: Transitions, counts: Counts, examples: Sequence[Any]) -> None:
    """Add pairs of events to transitions as is best on validation, if they gain MIN_PAIR_GAIN.

    The gain must also be three times its standard error: on few examples the best of several settings gains by chance.
    """
    before = gains_of(network, examples)
    gained = {}
    for shrink, share in itertools.product(SHRINKS, SHARES):
        network.pairs.set(counts, shrink=shrink, share=share)
        gained[shrink, share] = gains_of(network, examples) - before
    shrink, share = max(gained, key=lambda setting: float(gained[setting].mean()))
    gain = gained[shrink, share]
    network.pairs.set(counts, shrink=shrink, share=share)
    if gain.mean() <= max(MIN_PAIR_GAIN * before.mean(), 3 * gain.std() / len(gain) ** 0.5):
        network.pairs = EventPairs(network.num_rows - 1)


def _network(tuned: Tuned) -> Transitions:
    network = Transitions(tuned.weights.shape[0] - 1)
    network.set(tuned.weights, tuned.popularity, tuned.shape.decay, tuned.type_factors)
    return network


def gains_of(network: Transitions, examples: Sequence[Any]) -> NDArray[np.float64]:
    """NDCG@10 of each validation example [N]; a single 0 if there are none."""
    found, size = [np.zeros(0 if examples else 1)], min(256, rows_at_once(network.num_rows))
    for start in range(0, len(examples), size):
        batch = collate(examples[start : start + size])
        assert isinstance(batch, Histories)
        found.append(gains(batch, network(batch)).double().numpy())
    return np.concatenate(found)
