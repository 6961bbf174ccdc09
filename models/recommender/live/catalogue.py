"""The live catalogue as one model sees it: what filters, histories and scores must know of new and changed items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.items.hook import Described
from models.items.item import Kind, LiveItem, Value
from models.recommender.filters import EVERY, Overlays, texts_of
from models.recommender.live.item_index import ItemIndex
from models.recommender.live.new_items import NewItems
from models.recommender.live.overlay import Overlay
from models.recommender.schema import Schema

FEATURE = "live_items"
WITHOUT_NEIGHBOURS = (
    "it shares no telling attribute with an item that the model knows, so only a request with a filter finds it, until "
    "the next training"
)
SMALL_VALUES = 1000
"""Live values of the attributes of a filter; with more a request is not encoded on the event loop."""
Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Of one new item: nearest items and weights, [K] each."""


@dataclass(frozen=True)
class Catalogue:
    """Immutable; `after` makes the next one, with work for the changed items only."""

    schema: Schema
    index: ItemIndex
    items: Mapping[str, LiveItem]
    """All live items."""
    beyond: Mapping[str, Kind]
    """Attributes that were put and are not in the item table."""
    overlays: Overlays
    """Attribute -> the values that count instead of those of the item table."""
    nearest: Mapping[str, Neighbours]
    """Item that is new to the model -> its neighbours; also a withdrawn one with attributes, which histories have."""
    new: NewItems
    place_of_new: Mapping[str, int] = field(default_factory=dict)
    """New item -> its index."""

    @property
    def known_attributes(self) -> Mapping[str, Kind]:
        """See LiveView."""
        return {**self.beyond, **self.index.kinds}

    def place(self, item_id: str) -> int | None:
        """Index of an item of the model or of a new one; None for another."""
        return self.schema.index.get(item_id) or self.place_of_new.get(item_id)

    def after(self, changes: Sequence[LiveItem], *, kinds: Mapping[str, Kind]) -> Catalogue:
        """See LiveView."""
        items = {**self.items, **{item.item_id: item for item in changes}}
        nearest = self._nearest_after(changes)
        changed = replace(
            self, items=items, beyond=dict(kinds), nearest=nearest, overlays=self._overlays_after(changes)
        )
        new = changed._new_items()
        return replace(changed, new=new, place_of_new={item: new.first + place for place, item in enumerate(new.ids)})

    def describe(self, item_id: str) -> Described:
        """See LiveView."""
        item = self.items.get(item_id)
        if item is not None and item.is_withdrawn:
            return Described("withdrawn")
        if item_id in self.schema.index:
            return Described("known")
        place = self.place_of_new.get(item_id)
        if place is None:
            return Described("unknown")
        neighbour = self.new.neighbour(place)
        if neighbour is None:
            return Described("new", note=WITHOUT_NEIGHBOURS)
        return Described("new", similar_to=self.schema.items[neighbour - 1])

    def has_context(self, item_id: str) -> bool:
        """See LiveView."""
        place = self.place_of_new.get(item_id)
        return place is not None and self.new.neighbour(place) is not None

    def is_costly(self, request: Any) -> bool:
        """See LiveView."""
        changed = (self.overlays[name].values for name in request.filter if name in self.overlays)
        return sum(map(len, changed)) > SMALL_VALUES

    def counts(self) -> dict[str, int]:
        """See LiveView."""
        return {
            "new": sum(not self.items[item].is_withdrawn for item in self.nearest),
            "new_without_neighbours": sum(
                alone and not self.items[item].is_withdrawn
                for item, alone in zip(self.new.ids, self.new.is_unplaced.tolist(), strict=True)
            ),
            "changed": sum(item.item_id in self.schema.index for item in self.items.values()),
            "withdrawn": sum(item.is_withdrawn for item in self.items.values()),
        }

    def _nearest_after(self, changes: Sequence[LiveItem]) -> dict[str, Neighbours]:
        """The neighbours of the new items; withdrawn ones without attributes are like none."""
        unknown = [(item, self._attributes(item)) for item in changes if item.item_id not in self.schema.index]
        placed = [(item.item_id, attributes) for item, attributes in unknown if attributes or not item.is_withdrawn]
        neighbours, weights = self.index.nearest([attributes for _, attributes in placed])
        rows = zip(placed, neighbours, weights, strict=True)
        found = {item_id: (of_item, weight) for (item_id, _), of_item, weight in rows}
        gone = {item.item_id for item, _ in unknown} - found.keys()
        return {**{item: each for item, each in self.nearest.items() if item not in gone}, **found}

    def _attributes(self, item: LiveItem) -> dict[str, Value]:
        """The attributes of an item: those of the item table, and what was put."""
        put = {name: each.value for name, each in item.attributes.items()}
        both: dict[str, Value | None] = {**self.index.attributes(item.item_id), **put}
        return {name: value for name, value in both.items() if value is not None}

    def _overlays_after(self, changes: Sequence[LiveItem]) -> dict[str, Overlay]:
        """The overlays with the values of changed items that are newer than the item table."""
        values: dict[str, dict[str, Value | None]] = {}
        for item in changes:
            for name, each in item.attributes.items():
                if each.put_at_s > self.index.as_of_s or name not in self.index.kinds:
                    values.setdefault(name, {})[item.item_id] = each.value
        changed = {name: self.overlays.get(name, Overlay()).with_values(of, texts_of) for name, of in values.items()}
        return {**self.overlays, **changed}

    def _new_items(self) -> NewItems:
        ids = list(self.nearest)
        first = self.schema.num_items + 1
        pairs = list(self.nearest.values())
        neighbours = np.stack([each for each, _ in pairs]) if pairs else np.zeros((0, 1), np.int64)
        weights = np.stack([each for _, each in pairs]) if pairs else np.zeros((0, 1), np.float32)
        new = {item: first + place for place, item in enumerate(ids)}
        withdrawn = (item.item_id for item in self.items.values() if item.is_withdrawn)
        places = (self.schema.index.get(item) or new.get(item) for item in withdrawn)
        return NewItems(
            ids,
            first,
            torch.from_numpy(neighbours),
            torch.from_numpy(weights),
            torch.from_numpy(weights.sum(1) == 0),
            torch.tensor([place for place in places if place], dtype=torch.int64),
        )


def open_catalogue(schema: Any, feature_store: Path | None) -> Catalogue:
    """The catalogue of a model without live items; raises OSError for a feature store that cannot be read."""
    index = ItemIndex.open(schema, feature_store)
    empty = torch.zeros(0, 1)
    none = NewItems([], schema.num_items + 1, empty.long(), empty, empty[:, 0].bool(), empty[:, 0].long())
    return Catalogue(schema, index, {}, {}, {}, {}, none)


def catalogue_in(features: Mapping[str, Mapping[str, Any]]) -> Catalogue | None:
    """The live catalogue among the features of a request, if the service has one."""
    found: Catalogue | None = features.get(FEATURE, {}).get(EVERY)
    return found
