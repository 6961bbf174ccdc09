"""The vocabulary of a log: all items with events, and those of a separate item table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import DataRejected


def index_items(work: Path, without_events: pa.Array) -> pa.Array:
    """All items with events, and `without_events`, in ascending order; writes the indices of each partition's items."""
    paths = _paths(work)
    items = [_items(path) for path in paths]
    distinct = pc.unique(pa.chunked_array([*items, without_events], pa.string()))
    vocabulary = distinct.take(pc.sort_indices(distinct))
    index = pc.index_in(pa.chunked_array(items, pa.string()), value_set=vocabulary).to_numpy() + 1
    ends = np.cumsum([len(own) for own in items]).tolist()
    for path, own, end in zip(paths, items, ends, strict=True):
        np.save(path.with_name("index.npy"), index[end - len(own) : end].astype(np.int32))
    return vocabulary


def items_of_partitions(work: Path) -> pa.Array:
    """The distinct items with events, unordered."""
    return pc.unique(pa.chunked_array([_items(path) for path in _paths(work)], pa.string()))


def check_enough(num_users: int, num_events: int, vocabulary: pa.Array) -> None:
    """Raise DataRejected for a log of one user or one item, or of one event per user."""
    if num_users < 2:
        raise DataRejected(f"the log has events of {num_users} user; a recommender needs at least 2")
    if len(vocabulary) < 2:
        raise DataRejected(f"the log has events of one item, {vocabulary[0].as_py()!r}; a recommender needs at least 2")
    if num_events == num_users:
        raise DataRejected(
            "every user has a single event, so nothing can be learnt from what they did before; is the column of "
            "user_id an order or a session? Map it as session_id, and the customer or visitor as user_id"
        )


def _paths(work: Path) -> list[Path]:
    return sorted((work / "sorted").glob("*/items.parquet"))


def _items(path: Path) -> pa.Array:
    return pq.read_table(path)["item_id"].combine_chunks()
