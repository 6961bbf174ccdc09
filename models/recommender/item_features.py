"""Features of items from the item table: words and values of text, bins of numbers.

A network that also sees features generalises from similar items to rare ones, and can recommend an item that has no
events yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from models.prepared import Prepared

VALUE_SEPARATOR = "|"
"""Separates the values of a multi-valued attribute, such as the genres of a film."""
MIN_ITEMS = 2
"""Items that a feature must have to be kept."""
MAX_FEATURES = 50_000
"""The most frequent features are kept, up to this many."""
NUM_BINS = 10
"""Quantile bins of a numeric attribute."""
MAX_COMPONENTS, COMPONENTS_SHARE = 16, 0.9
"""Vectors are reduced to the principal components with this share of the variance, at most to MAX_COMPONENTS."""
NUM_NEIGHBOURS = 50
"""Nearest neighbours of a cold-start item, all of them items with events."""
SIMILARITY_POWER = 4
"""A neighbour's weight is proportional to this power of its similarity, which favours the most similar."""
BLOCK_ITEMS = 256
"""Cold-start items that are compared with all others at one time."""
_BETWEEN_WORDS = r"[^\pL\pN]+"
_HAN = r"(\p{Han})"


@dataclass(frozen=True)
class ItemFeatures:
    """Binary features of items as a sparse matrix [V, F] in CSR form; V = items + 1, row 0 is padding and empty."""

    names: list[str]
    """Names of the features [F]."""
    starts: NDArray[np.int64]
    """Where the features of each item start in `places` [V + 1]."""
    places: NDArray[np.int32]
    """Indices of the features of all items, item by item."""

    @classmethod
    def open(cls, data: Prepared) -> Self:
        """Read them from a prepared data directory."""
        with np.load(data.path / "features.npz") as stored:
            return cls(stored["names"].tolist(), stored["starts"], stored["places"])

    def save(self, data: Path) -> None:
        """Write them to a data directory."""
        np.savez_compressed(
            data / "features.npz", names=np.asarray(self.names, np.str_), starts=self.starts, places=self.places
        )

    def matrix(self) -> sp.csr_array:
        """The sparse matrix [V, F] of ones."""
        ones = np.ones(len(self.places), np.float32)
        shape = (len(self.starts) - 1, len(self.names))
        return sp.csr_array((ones, self.places, self.starts), shape=shape)


def read_features(table: pa.Table) -> ItemFeatures:
    """The features of an item table, which has one row per item of the vocabulary.

    A text gives its words and, if it has several, the whole text; a text with VALUE_SEPARATOR is several texts. A
    number gives its bin, an integer also its value. A vector gives the bins of its first principal components: items
    with similar embeddings share most of them.
    """
    items: list[NDArray[Any]] = []
    names: list[pa.Array] = []
    for name in table.column_names:
        if name == "item_id":
            continue
        column = table[name].combine_chunks()
        for label, place, value in _column_features(name, column):
            items.append(place)
            names.append(pc.binary_join_element_wise(label, value, "="))
    return _shared_features(table.num_rows, items, names)


@dataclass(frozen=True)
class NearestNeighbours:
    """The items with events that are most similar to each of C cold-start items, with weights that sum to 1.

    items [C]; neighbours and weights [C, NUM_NEIGHBOURS], filled up with padding and zeros.
    """

    items: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    weights: NDArray[np.float32]

    def matrix(self, num_rows: int) -> sp.csr_array:
        """The weights as a sparse matrix [V, V], V = num_rows."""
        row = np.repeat(self.items, NUM_NEIGHBOURS)
        return sp.csr_array((self.weights.ravel(), (row, self.neighbours.ravel())), shape=(num_rows, num_rows))


def find_nearest_neighbours(features: sp.csr_array, has_events: NDArray[np.bool_]) -> NearestNeighbours:
    """The nearest neighbours of the items without events; row 0 of both arguments is padding.

    Similarity is the cosine of the TF-IDF weighted features [V, F].
    """
    weighted = tf_idf(features)
    known = sp.diags_array(has_events.astype(np.float32)) @ weighted
    items = np.flatnonzero(~has_events[1:]) + 1
    neighbours = np.zeros((len(items), NUM_NEIGHBOURS), np.int64)
    weights = np.zeros((len(items), NUM_NEIGHBOURS), np.float32)
    for start in range(0, len(items), BLOCK_ITEMS):
        similarity = (weighted[items[start : start + BLOCK_ITEMS]] @ known.T).tocsr()
        rows = slice(start, start + similarity.shape[0])
        neighbours[rows], weights[rows] = strongest_neighbours(similarity)
    return NearestNeighbours(items, neighbours, weights)


def strongest_neighbours(similarity: sp.csr_array) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The NUM_NEIGHBOURS most similar items of each row [N, V] and their weights, see NearestNeighbours."""
    neighbours = np.zeros((similarity.shape[0], NUM_NEIGHBOURS), np.int64)
    weights = np.zeros(neighbours.shape, np.float32)
    for row in range(len(neighbours)):
        entries = slice(similarity.indptr[row], similarity.indptr[row + 1])
        values, others = similarity.data[entries], similarity.indices[entries]
        best = np.lexsort([others, -values])[:NUM_NEIGHBOURS]
        neighbours[row, : len(best)] = others[best]
        weight = values[best] ** SIMILARITY_POWER
        weights[row, : len(best)] = weight / max(float(weight.sum()), 1e-9)
    return neighbours, weights


def inverse_frequencies(features: sp.csr_array) -> NDArray[np.float64]:
    """The logarithm of the inverse document frequency of each feature [F]."""
    frequency = np.asarray(features.sum(axis=0)).ravel()
    return np.asarray(np.log(features.shape[0] / np.maximum(frequency, 1)), np.float64)


def weighted_by(features: sp.csr_array, weights: NDArray[np.float64]) -> sp.csr_array:
    """The features [V, F] times a weight of each [F], in rows of unit length."""
    weighted = features.multiply(weights[None, :]).tocsr()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sp.csr_array(sp.diags_array(1 / np.maximum(length, 1e-9)) @ weighted)


def bin_edges(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inner edges of the quantile bins of a numeric attribute, at most NUM_BINS - 1."""
    return np.unique(np.quantile(numbers, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))


def tf_idf(features: sp.csr_array) -> sp.csr_array:
    """The features [V, F] weighted by their inverse document frequency, in rows of unit length."""
    return weighted_by(features, inverse_frequencies(features))


def _column_features(name: str, column: pa.Array) -> Iterator[tuple[str, NDArray[Any], pa.Array]]:
    """(label, items, values) of an attribute."""
    if pa.types.is_list(column.type):
        for number, component in enumerate(_principal_components(column)):
            yield from ((f"{name} {number + 1}", place, value) for place, value in _number_features(component))
    else:
        found = text_features(column) if pa.types.is_string(column.type) else _number_features(column)
        yield from ((name, place, value) for place, value in found)


def _principal_components(column: pa.Array) -> list[pa.Array]:
    """Principal components with COMPONENTS_SHARE of the variance, one column each; null where there is no vector."""
    there = ~column.is_null().to_numpy(zero_copy_only=False)
    if not there.any():
        return []
    vectors = np.stack(list(column.drop_null().to_numpy(zero_copy_only=False))).astype(np.float64)
    vectors -= vectors.mean(0)
    variances, directions = np.linalg.eigh(vectors.T @ vectors)
    share = np.cumsum(variances[::-1]) / max(float(variances.sum()), 1e-12)
    num_components = min(int(np.searchsorted(share, COMPONENTS_SHARE)) + 1, MAX_COMPONENTS, vectors.shape[1])
    values = np.full((len(column), num_components), np.nan)
    values[there] = vectors @ directions[:, ::-1][:, :num_components]
    return [pa.array(component, from_pandas=True) for component in values.T]


def text_features(column: pa.Array) -> list[tuple[NDArray[Any], pa.Array]]:
    """(item, text) pairs: the values of each text, and the words of each value."""
    parts = pc.split_pattern(pc.utf8_lower(column), VALUE_SEPARATOR)
    item, part = _flattened(parts)
    spaced = pc.replace_substring_regex(part, _HAN, r" \1 ")
    place, words = _flattened(pc.split_pattern_regex(spaced, _BETWEEN_WORDS))
    several = pc.greater(pc.count_substring_regex(pc.utf8_trim_whitespace(spaced), _BETWEEN_WORDS), 0)
    whole = np.asarray(several.to_numpy(zero_copy_only=False), bool)
    return [(item[whole], part.filter(pa.array(whole))), (item[place], words)]


def _number_features(column: pa.Array) -> list[tuple[NDArray[Any], pa.Array]]:
    """(item, text) pairs: the bin of each number, and the value of an integer."""
    there = np.flatnonzero(~column.is_null().to_numpy(zero_copy_only=False))
    values = column.drop_null()
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    if not len(numbers):
        return []
    edges = bin_edges(numbers)
    ranges = np.searchsorted(edges, numbers, side="right")
    named = pa.array([f"range {place + 1} of {len(edges) + 1}" for place in range(len(edges) + 1)])
    pairs = [(there, named.take(pa.array(ranges)))]
    return [*pairs, (there, values.cast(pa.string()))] if pa.types.is_integer(column.type) else pairs


def _flattened(lists: pa.Array) -> tuple[NDArray[Any], pa.Array]:
    """The index of its list for each value, and the values, without empty texts."""
    place, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
    kept = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
    return place.filter(kept).to_numpy(zero_copy_only=False), values.filter(kept)


def _shared_features(num_items: int, items: Sequence[NDArray[Any]], names: Sequence[pa.Array]) -> ItemFeatures:
    """The distinct features that enough items share, in ascending order of name."""
    starts = np.zeros(num_items + 2, np.int64)
    if not any(len(own) for own in items):
        return ItemFeatures([], starts, np.zeros(0, np.int32))
    encoded = pc.dictionary_encode(pa.concat_arrays(names))
    pairs = np.unique(np.stack([np.concatenate(items), encoded.indices.to_numpy()]), axis=1)
    counts = np.bincount(pairs[1], minlength=len(encoded.dictionary))
    all_names = encoded.dictionary.to_pylist()
    frequent = sorted(np.flatnonzero(counts >= MIN_ITEMS), key=lambda place: (-counts[place], all_names[place]))
    chosen = sorted(frequent[:MAX_FEATURES], key=lambda place: all_names[place])
    number = np.full(len(counts), -1, np.int32)
    number[chosen] = np.arange(len(chosen))
    row, place = pairs[0], number[pairs[1]]
    row, place = row[place >= 0], place[place >= 0]
    order = np.lexsort([place, row])
    starts[2:] = np.cumsum(np.bincount(row, minlength=num_items))
    return ItemFeatures([all_names[place] for place in chosen], starts, place[order])
