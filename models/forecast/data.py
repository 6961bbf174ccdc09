"""Prepared sales as examples and batches: a window of history, what is known ahead, and the periods to forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.arrays import load_array
from models.family import Dataset
from models.forecast.config import Config
from models.forecast.prepare.pipeline import held_out, training_windows
from models.forecast.schema import CENSORED, KNOWN, UNKNOWN, Schema
from models.prepared import Prepared

Floats = npt.NDArray[np.float32]
Status = npt.NDArray[np.uint8]
MAX_STORED = 400
"""Periods of history that the feature store keeps of a series."""
MAX_SERIES_OF_TOTAL = 5_000
"""Series that a total is summed over at an endpoint."""
CATEGORY = "category"


@dataclass(frozen=True)
class Window:
    """One series at one time: an example for training, evaluation or prediction."""

    units: Floats
    """[L] units of the history, 0 where not known."""
    status: Status
    """[L] UNKNOWN, KNOWN or CENSORED."""
    known: Floats
    """[L + H, F] what is known of each period of the history and of the forecast."""
    static: npt.NDArray[np.int64]
    """[C] codes of the product's attributes."""
    target: Floats
    """[H] units of the forecast's periods, 0 where not known."""
    target_status: Status
    """[H]; all UNKNOWN in a prediction."""
    naive_scale: float = 0.0
    """Mean squared difference of consecutive periods before the forecast, for RMSSE; 0 where there is none."""
    demand: int = 0
    """Class of demand, an index of `models.raw.demand.CLASSES`."""
    start: int = 0
    """The first period of the forecast, counted from the model's first."""
    store: int = -1
    """Place of the store in the model's schema; -1 for another or none."""


@dataclass(frozen=True)
class Windows:
    """A batch of B windows, as Window says."""

    units: Tensor
    status: Tensor
    known: Tensor
    static: Tensor
    target: Tensor
    target_status: Tensor
    naive_scale: Tensor
    demand: Tensor
    start: Tensor
    store: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return replace(self, **{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    def pin_memory(self) -> Self:
        """The same batch in memory from which a GPU copies while it computes."""
        return replace(self, **{each.name: getattr(self, each.name).pin_memory() for each in fields(self)})


@dataclass(frozen=True)
class Shard:
    """The memory-mapped arrays of one shard: units, status [S, T], ahead [S, T + H, K], static [S, C], classes [S]."""

    units: Floats
    status: Status
    ahead: Floats
    static: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]

    @classmethod
    def open(cls, data: Prepared, shard: int) -> Self:
        """Map one shard of a prepared data directory."""
        directory = data.shard(shard)
        return cls(*(np.asarray(load_array(directory / f"{each.name}.npy", mmap=True)) for each in fields(cls)))


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int
) -> Dataset[Window]:
    """Windows of some shards of one split; those of training are other ones in each epoch."""
    own = data.schema(Schema)
    check_data(schema, own)
    opened = [Shard.open(data, shard) for shard in shards]
    if split == "train":
        stride = max(1, -(-own.num_examples["train"] // config.windows_per_epoch))
        places = [
            (number, row, origin)
            for number, shard in enumerate(opened)
            for row, origin in _training_origins(shard, own, stride, seed=[config.seed, epoch, shards[number]])
        ]
    elif split in ("val", "test"):
        origins = own.val_origins if split == "val" else own.test_origins
        places = [
            (number, row, origin)
            for number, shard in enumerate(opened)
            for row, origin in held_out(shard.status, origins, own.horizon)
        ]
    else:
        raise ValueError(f"unknown split {split!r}; use train, val or test")
    stores = [_stores(data, shard, own, schema) for shard in shards]
    return SeriesWindows(opened, places, stores=stores, own=own, schema=schema, length=config.context)


def check_data(schema: Schema, own: Schema) -> None:
    """Raise ValueError for a model of other periods than those of prepared data."""
    if own.period != schema.period:
        raise ValueError(
            f"the model forecasts {schema.period}s and the prepared data have {own.period}s; use a model that was "
            f"trained on them, or prepare with --period {schema.period}"
        )
    if own.time_zone != schema.time_zone:
        raise ValueError(
            f"the model's days begin in {schema.time_zone} and those of the prepared data in {own.time_zone}; prepare "
            f"with --time-zone {schema.time_zone}, or train on these data"
        )


class SeriesWindows:
    """The windows of some series at given places (shard, row, first period of the forecast)."""

    def __init__(
        self,
        shards: Sequence[Shard],
        places: Sequence[tuple[int, int, int]],
        *,
        stores: Sequence[npt.NDArray[np.int64] | None],
        own: Schema,
        schema: Schema,
        length: int,
    ) -> None:
        self._shards, self._places, self._length, self._horizon = shards, places, length, schema.horizon
        self._stores = stores
        self._recode = recoding(own, schema)
        self._columns = [own.ahead.index(name) if name in own.ahead else None for name in schema.ahead]
        self._scale = np.array(schema.ahead_scale, np.float32)
        shift = self._shift = own.first - schema.first
        self._time = schema.time_features(shift - length, shift + own.num_periods + max(own.horizon, schema.horizon))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Window:
        number, row, origin = self._places[index]
        shard, length, horizon = self._shards[number], self._length, self._horizon
        static, stores = shard.static[row], self._stores[number]
        return Window(
            units=cut(shard.units[row], origin - length, origin),
            status=cut(shard.status[row], origin - length, origin),
            known=self._known(shard, row, origin),
            static=np.array(
                [codes[static[place]] if place is not None else 0 for place, codes in self._recode], np.int64
            ),
            target=cut(shard.units[row], origin, origin + horizon),
            target_status=cut(shard.status[row], origin, origin + horizon),
            naive_scale=naive_scale(shard.units[row, :origin], shard.status[row, :origin]),
            demand=int(shard.classes[row]),
            start=origin + self._shift,
            store=-1 if stores is None else int(stores[row]),
        )

    def _known(self, shard: Shard, row: int, origin: int) -> Floats:
        start, stop = origin - self._length, origin + self._horizon
        time = self._time[start + self._length : stop + self._length]
        if not self._columns:
            return time
        ahead = np.zeros((stop - start, len(self._columns)), np.float32)
        for column, theirs in enumerate(self._columns):
            if theirs is not None:
                ahead[:, column] = cut(shard.ahead[row, :, theirs], start, stop)
        return np.concatenate([time, ahead / self._scale], 1)


def collate(examples: Sequence[Window]) -> Windows:
    """Turn windows into tensors; see Window for the shapes."""
    names = ("units", "status", "known", "static", "target", "target_status")
    arrays = {name: torch.from_numpy(np.stack([getattr(each, name) for each in examples])) for name in names}
    return Windows(
        **arrays,
        naive_scale=torch.tensor([each.naive_scale for each in examples], dtype=torch.float32),
        demand=torch.tensor([each.demand for each in examples]),
        start=torch.tensor([each.start for each in examples]),
        store=torch.tensor([each.store for each in examples]),
    )


def naive_scale(units: Floats, status: Status) -> float:
    """Mean squared difference of consecutive known periods, the scale of RMSSE (Makridakis et al., M5, 2022)."""
    known = status == KNOWN
    both = known[1:] & known[:-1]
    count = int(both.sum())
    differences = np.diff(units.astype(np.float64))
    return float((differences[both] ** 2).sum() / count) if count else 0.0


def recoding(own: Schema, schema: Schema) -> list[tuple[int | None, npt.NDArray[np.int64]]]:
    """For each attribute of the model: its column in the data, and the model's code for each of the data's."""
    found: list[tuple[int | None, npt.NDArray[np.int64]]] = []
    names = list(own.static)
    for name, values in schema.static.items():
        codes = {value: code for code, value in enumerate(values)}
        if name in names:
            found.append((names.index(name), np.array([codes.get(value, 0) for value in own.static[name]], np.int64)))
        else:
            found.append((None, np.zeros(1, np.int64)))
    return found


def _stores(data: Prepared, shard: int, own: Schema, schema: Schema) -> npt.NDArray[np.int64] | None:
    """The place of the store of each series of a shard in the model's schema; None where one of them has no stores."""
    if not (own.has_stores and schema.stores):
        return None
    place = {store: number for number, store in enumerate(schema.stores)}
    names = pq.read_table(data.shard(shard) / "series.parquet", columns=["store_id"])["store_id"].to_pylist()
    return np.array([place.get(name, -1) for name in names], np.int64)


def series_rows(data: Prepared) -> Iterator[tuple[str, dict[str, Any]]]:
    """The history of every series for the feature store, see `key_of`, with what is known ahead of it."""
    schema = data.schema(Schema)
    for number in range(schema.num_shards):
        shard = Shard.open(data, number)
        table = pq.read_table(data.shard(number) / "series.parquet").to_pylist()
        start = max(0, schema.num_periods - MAX_STORED)
        for row, names in enumerate(table):
            ahead = {name: shard.ahead[row, start:, place].tolist() for place, name in enumerate(schema.ahead)}
            texts = {
                name: values[shard.static[row, place]] for place, (name, values) in enumerate(schema.static.items())
            }
            value: dict[str, Any] = {
                "period": schema.period,
                "from": schema.date(start),
                "units": [_plain(unit) for unit in shard.units[row, start:].tolist()],
                "status": "".join(map(str, shard.status[row, start:].tolist())),
                "ahead": ahead,
                "static": texts,
            }
            yield key_of(names["product_id"], names["store_id"] or None), value


def store_rows(data: Prepared) -> Iterator[tuple[str, dict[str, Any]]]:
    """The histories of a product in all of its stores, {store: history}; nothing for sales without stores."""
    if not data.schema(Schema).has_stores:
        return
    found: dict[str, dict[str, Any]] = {}
    for key, value in series_rows(data):
        product, store = _names_of(key)
        found.setdefault(product, {})[store] = value
    yield from sorted(found.items())


def total_rows(data: Prepared) -> Iterator[tuple[str, dict[str, Any]]]:
    """The histories of the series of each category, of each store and of everything, see `total_key`.

    Of a group of more than MAX_SERIES_OF_TOTAL series only their number.
    """
    schema = data.schema(Schema)
    found: dict[str, list[dict[str, Any]]] = {}
    for key, value in series_rows(data):
        keys = [total_key("all")]
        if CATEGORY in schema.static:
            keys.append(total_key(CATEGORY, value["static"][CATEGORY]))
        if schema.has_stores:
            keys.append(total_key("store", _names_of(key)[1]))
        for each in keys:
            found.setdefault(each, []).append(value)
    for key, values in sorted(found.items()):
        is_kept = len(values) <= MAX_SERIES_OF_TOTAL
        yield key, {"num_series": len(values), "series": values if is_kept else []}


def total_key(kind: str, name: str = "") -> str:
    """The key of a total in the feature store."""
    return f"{kind}:{name}"


def _names_of(key: str) -> tuple[str, str]:
    """The product and the store of a key of series with stores."""
    length, _, rest = key.partition(":")
    return rest[: int(length)], rest[int(length) + 1 :]


def key_of(product_id: str, store_id: str | None) -> str:
    """The key of a series in the feature store."""
    return product_id if store_id is None else f"{len(product_id)}:{product_id}:{store_id}"


def _plain(unit: float) -> float:
    return int(unit) if unit == int(unit) else unit


def _training_origins(shard: Shard, schema: Schema, stride: int, *, seed: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(series, origin) of every `stride`-th training window of each series, from another first one in each epoch."""
    draw = np.random.default_rng(list(seed))
    counts = training_windows(shard.status, schema)
    last = schema.train_end - schema.horizon
    for row, count in enumerate(counts.tolist()):
        offset = int(draw.integers(stride))
        yield from ((row, last - back) for back in range(offset, count, stride))


def cut(values: npt.NDArray[Any], start: int, stop: int) -> npt.NDArray[Any]:
    """values[start:stop] with zeros for what is before the first and after the last."""
    found = np.zeros(stop - start, values.dtype)
    low, high = max(start, 0), min(stop, len(values))
    if high > low:
        found[low - start : high - start] = values[low:high]
    return found


__all__ = ["CENSORED", "KNOWN", "UNKNOWN", "Window", "Windows", "collate", "dataset", "key_of", "series_rows"]
