"""Rows of prepared sales as arrays: what a demand model reads of each, and what an evaluation needs besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from models.arrays import load_array
from models.pricing.design import Design
from models.pricing.panel import Panel
from models.pricing.schema import Schema


@dataclass(frozen=True)
class Rows:
    """Arrays [N] as in Design, memory-mapped where they are those of a shard; `rivals` are [N, R], `context` [N, F]."""

    product: npt.NDArray[Any]
    store: npt.NDArray[Any]
    period: npt.NDArray[Any]
    group: npt.NDArray[Any]
    slot: npt.NDArray[Any]
    units: npt.NDArray[Any]
    censored: npt.NDArray[Any]
    level: npt.NDArray[Any]
    usual: npt.NDArray[Any]
    own: npt.NDArray[Any]
    rivals: npt.NDArray[Any]
    has_rival: npt.NDArray[Any]
    context: npt.NDArray[Any]
    demand: npt.NDArray[Any]
    """Class of demand of the product in the store, an index of `models.raw.demand.CLASSES`."""

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map the arrays of one shard."""
        return cls(**{name: np.asarray(load_array(directory / f"{name}.npy", mmap=True)) for name in TABLE_ARRAYS})

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Self:
        """The rows of several tables, in order."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in TABLE_ARRAYS})

    @classmethod
    def of_design(cls, design: Design) -> Self:
        """The rows of a design, without a class of demand."""
        found = {each.name: getattr(design, each.name) for each in fields(cls) if each.name != "demand"}
        return cls(**found, demand=np.zeros(len(design.own), np.int8))

    def __len__(self) -> int:
        return len(self.own)

    def rows(self, chosen: npt.NDArray[Any]) -> Rows:
        """Some of the rows, in memory."""
        return Rows(**{name: np.asarray(getattr(self, name)[chosen]) for name in TABLE_ARRAYS})

    def design(self, schema: Schema) -> Design:
        """The rows for demand models; one more product and store than the schema has stand for those not known."""
        num_products, num_stores = len(schema.products) + 1, len(schema.stores) + 1
        return replace(self.plain(), names=schema.context, num_products=num_products, num_stores=num_stores)

    def plain(self) -> Design:
        """The rows as a design without names of columns and numbers of products and stores."""
        found: dict[str, Any] = {name: np.asarray(getattr(self, name), np.int64) for name in INDEXES}
        found |= {name: np.asarray(getattr(self, name), np.bool_) for name in ("censored", "has_rival")}
        found |= {name: np.asarray(getattr(self, name), np.float64) for name in FLOATS}
        return Design(**found, names=(), num_products=0, num_stores=0)


INDEXES = ("product", "store", "period", "group", "slot")
FLOATS = ("units", "level", "usual", "own", "rivals", "context")
TABLE_ARRAYS = tuple(each.name for each in fields(Rows))


def table_of(panel: Panel, design: Design, schema: Schema, classes: npt.NDArray[np.int64]) -> Rows:
    """The rows of a whole panel; `classes` are those of its series [S] in the order of product and store."""
    keys = np.unique(panel.series)
    assert len(keys) == len(classes) and design.names == schema.context
    found = {name: getattr(design, name) for name in TABLE_ARRAYS if name != "demand"}
    small = {name: found[name].astype(np.int32) for name in INDEXES}
    wide = {name: found[name].astype(np.float32) for name in ("rivals", "context")}
    demand = classes[np.searchsorted(keys, panel.series)].astype(np.int8)
    return Rows(**{**found, **small, **wide, "demand": demand})


def recoded(rows: Rows, own: Schema, schema: Schema) -> Rows:
    """The rows of data with another schema, with the model's numbers of products, stores, rivals and context.

    Products, stores and rivals that the model does not know have the number after the last, or none; columns that the
    data do not have are zero.
    """
    if own.model_copy(update=_VARYING) == schema.model_copy(update=_VARYING):
        return rows
    products = np.array([schema.places.get(each.id, len(schema.products)) for each in own.products])
    stores = np.array([schema.store_places.get(each, len(schema.stores)) for each in own.stores])
    columns = [own.context.index(name) if name in own.context else -1 for name in schema.context]
    padded = np.concatenate([rows.context, np.zeros((len(rows), 1), np.float32)], 1)
    rivals, has_rival = _recoded_rivals(rows, own, schema)
    product = products[rows.product]
    groups = np.array([schema.groups[each.group] for each in schema.products] + [len(schema.groups)])
    return replace(
        rows,
        product=product,
        store=stores[rows.store],
        group=groups[product],
        slot=np.array([*schema.slots, 0])[product],
        rivals=rivals,
        has_rival=has_rival,
        context=padded[:, columns],
    )


_VARYING = {"fingerprint": "", "num_examples": {}, "num_periods": 0, "train_end": 0, "test_from": 0, "first": 0}


def _recoded_rivals(rows: Rows, own: Schema, schema: Schema) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rivals in the order of the model's groups [N, R], and whether there is one."""
    by_place = {(each.group, slot): each.id for each, slot in zip(schema.products, schema.slots, strict=True)}
    slot_of = {each.id: (each.group, slot) for each, slot in zip(own.products, own.slots, strict=True)}
    columns = np.full((len(own.products), schema.num_rivals), -1)
    for place, product in enumerate(own.products):
        if product.id not in schema.places:
            continue
        group = schema.products[schema.places[product.id]].group
        for slot in range(schema.num_rivals):
            found = slot_of.get(by_place.get((group, slot), ""))
            if found is not None and found[0] == product.group:
                columns[place, slot] = found[1]
    chosen = columns[rows.product]
    pick = np.arange(len(rows))[:, None], np.maximum(chosen, 0)
    has_rival = (chosen >= 0) & rows.has_rival[pick]
    return np.where(has_rival, rows.rivals[pick], 0).astype(np.float32), has_rival
