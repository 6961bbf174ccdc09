"""The item table of the prepared data as the service has it, and the items in it that are most similar to a new one.

`deploy` writes the table to the feature store. A new item has the features that training would give it: words and
values of text, bins of numbers with the table's edges, weighted by the frequencies of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray

from models.errors import FeatureStoreUnreadable
from models.features import FeatureStore
from models.items.item import Kind, Value
from models.prepared import Prepared
from models.recommender.filters import attribute_rows
from models.recommender.item_features import (
    NUM_NEIGHBOURS,
    bin_edges,
    inverse_frequencies,
    read_features,
    strongest_neighbours,
    text_features,
    weighted_by,
)
from models.recommender.schema import PADDING, Schema

FEATURE = "item_table"
ABOUT = "about"
"""Key of what the table is; its other keys are numbers of chunks of rows."""
CHUNK_ITEMS = 10_000
AS_OF = "items_as_of_s"
"""In the card: epoch seconds at which the item table was written, as far as its files tell."""
MIN_SIMILARITY = 0.1
"""Cosine to the most similar item below which a new item is similar to none."""
_TYPES = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}


def table_rows(data: Prepared) -> Iterator[tuple[str, Any]]:
    """The item table for the feature store, without vectors: what it is, and its columns in chunks of rows."""
    table = pq.read_table(data.path / "items.parquet")
    types = {each.name: str(each.type) for each in table.schema if str(each.type) in _TYPES}
    ((_, kinds),) = attribute_rows(data)
    yield ABOUT, {"types": types, "kinds": kinds, "as_of_s": _as_of_s(data)}
    for number, start in enumerate(range(0, table.num_rows, CHUNK_ITEMS)):
        yield str(number), table.select(list(types)).slice(start, CHUNK_ITEMS).to_pydict()


@dataclass(frozen=True)
class ItemIndex:
    """The item table [I] of the prepared data, without vectors; empty where a feature store has none."""

    schema: Schema
    """The model's, whose items can be neighbours."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Attribute -> whether its values are numbers or text."""
    as_of_s: float = 0.0
    """Epoch seconds at which the table was written; later values of the shop are newer."""
    table: pa.Table = field(default_factory=lambda: pa.table({"item_id": pa.array([], pa.string())}))

    @classmethod
    def open(cls, schema: Schema, feature_store: Path | None) -> ItemIndex:
        """Read the table of a feature store; raises OSError for one that cannot be read."""
        if feature_store is None:
            return cls(schema)
        with closing(FeatureStore(feature_store, read_only=True)) as store:
            rows = dict(store.rows(FEATURE))
        about = rows.pop(ABOUT, None)
        if about is None:  # written by release 0.3 or earlier
            return cls(schema)
        try:
            columns = pa.schema([(name, _TYPES[kind]) for name, kind in about["types"].items()])
            chunks = [pa.table(rows[key], schema=columns) for key in sorted(rows, key=int)]
            table = pa.concat_tables(chunks) if chunks else columns.empty_table()
            return cls(schema, about["kinds"], float(about["as_of_s"]), table.combine_chunks())
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # Arrow's are among them
            raise FeatureStoreUnreadable(f"{feature_store} has a damaged item table: {error}; deploy again") from error

    def attributes(self, item_id: str) -> dict[str, Value]:
        """The attributes of an item in the table; empty for one that is not there."""
        row = self._row_of.get(item_id)
        if row is None:
            return {}
        return {name: value for name, value in self.table.slice(row, 1).to_pylist()[0].items() if value is not None}

    def nearest(self, items: Sequence[Mapping[str, Value]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The neighbours of some items [N, NUM_NEIGHBOURS] by index in the model, and weights that sum to 1.

        An item that is similar to none of those with events has weights of zero.
        """
        if not items or not self._features.number_of:
            return np.zeros((len(items), NUM_NEIGHBOURS), np.int64), np.zeros((len(items), NUM_NEIGHBOURS), np.float32)
        similarity = (weighted_by(self._features_of(items), self._features.weights) @ self._features.known.T).tocsr()
        similarity.eliminate_zeros()
        neighbours, weights = strongest_neighbours(similarity)
        best = np.zeros(len(items)) if similarity.nnz == 0 else similarity.max(axis=1).toarray().ravel()
        weights[best < MIN_SIMILARITY] = 0
        return self._places[neighbours], weights

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.table["item_id"].to_pylist())}

    @cached_property
    def _features(self) -> _Features:
        features = read_features(self.table)
        matrix = features.matrix()
        weights = inverse_frequencies(matrix)
        edges = {}
        for name in self.table.column_names:
            if not pa.types.is_string(self.table.schema.field(name).type):
                column = self.table[name].combine_chunks().drop_null()
                numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
                edges[name] = bin_edges(numbers) if len(numbers) else np.zeros(0)
        number_of = {name: number for number, name in enumerate(features.names)}
        has_events = sp.diags_array((self._places != PADDING).astype(np.float64))
        known = has_events @ weighted_by(matrix, weights) if number_of else matrix
        return _Features(number_of, weights, known, edges)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Index in the model of each row [I + 1]; PADDING for an item without events: its scores are borrowed."""
        counts, index = [0, *self.schema.item_counts], self.schema.index
        places = (index.get(item, PADDING) for item in self.table["item_id"].to_pylist())
        return np.asarray([PADDING, *(place if counts[place] else PADDING for place in places)], np.int64)

    def _features_of(self, items: Sequence[Mapping[str, Value]]) -> sp.csr_array:
        """The features [N, F] of some items, of those that the table has."""
        rows, names = list[int](), list[str]()
        for name in self.table.column_names:
            if name == "item_id":
                continue
            there = [row for row, item in enumerate(items) if item.get(name) is not None]
            values = [items[row][name] for row in there]
            if name in self._features.edges:
                found = self._of_numbers(name, values)
            else:
                found = _of_texts(name, [str(value) for value in values])
            rows += [there[row] for row, _ in found]
            names += [each for _, each in found]
        number_of = self._features.number_of
        pairs = {(row, number_of[each]) for row, each in zip(rows, names, strict=True) if each in number_of}
        row, column = (np.asarray([pair[place] for pair in sorted(pairs)], np.int64) for place in (0, 1))
        shape = (len(items), len(number_of))
        return sp.csr_array((np.ones(len(row)), (row, column)), shape=shape)

    def _of_numbers(self, name: str, values: Sequence[Value]) -> list[tuple[int, str]]:
        edges = self._features.edges[name]
        is_whole = pa.types.is_integer(self.table.schema.field(name).type)
        found = []
        for row, value in enumerate(values):
            number = float(value)
            place = int(np.searchsorted(edges, number, side="right"))
            found.append((row, f"{name}=range {place + 1} of {len(edges) + 1}"))
            if is_whole and number.is_integer():
                found.append((row, f"{name}={int(number)}"))
        return found


@dataclass(frozen=True)
class _Features:
    """The features of the table [I + 1, F], row 0 is padding."""

    number_of: Mapping[str, int]
    """Name of a feature -> its column."""
    weights: NDArray[np.float64]
    known: sp.csr_array
    """The weighted features of the items with events; others have none."""
    edges: Mapping[str, NDArray[np.float64]]
    """Numeric attribute -> the inner edges of its bins."""


def _of_texts(name: str, values: Sequence[str]) -> list[tuple[int, str]]:
    found = list[tuple[int, str]]()
    for place, texts in text_features(pa.array(values, pa.string())):
        labelled = pc.binary_join_element_wise(name, texts, "=")
        found += zip(place.tolist(), labelled.to_pylist(), strict=True)
    return found


def _as_of_s(data: Prepared) -> float:
    """When the item table was written: by the card, or by the prepared table where an earlier release wrote it."""
    try:
        written = data.card().get(AS_OF)
    except OSError:
        written = None
    return float(written) if written is not None else (data.path / "items.parquet").stat().st_mtime
