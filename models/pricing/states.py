"""The state of the shop before a period: the offers, with what demand models read of each besides its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.pricing.design import Design, rivals_of
from models.pricing.offers import Offers
from models.pricing.schema import Schema


@dataclass(frozen=True)
class OfferState:
    """One product in one store. `level` and `usual` are logs; `context` is in the order of the schema's columns."""

    product: str
    store: str
    group: str
    price: float
    cost: float | None
    stock: float | None
    level: float
    usual: float
    context: tuple[float, ...]
    size: float | None = None
    category: str = ""
    brand: str = ""
    flags: tuple[tuple[str, str], ...] = ()
    """Reasons, name and sentence, not to trust what is expected of it."""
    seen: tuple[float, float] | None = None
    """The lowest and the highest price at which it was sold; None where not known."""

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> OfferState:
        """From a row of prepared data or of the feature store."""
        texts = {name: value[name] for name in ("product", "store", "group", "category", "brand")}
        numbers = {name: value[name] for name in ("price", "cost", "stock", "level", "usual", "size")}
        flags = tuple((name, text) for name, text in value["flags"])
        seen = value.get("seen")
        return cls(
            **texts, **numbers, context=tuple(value["context"]), flags=flags, seen=None if seen is None else tuple(seen)
        )

    def as_row(self) -> dict[str, Any]:
        """For prepared data and the feature store; JSON types only."""
        seen = None if self.seen is None else list(self.seen)
        return {
            **asdict(self),
            "context": list(self.context),
            "flags": [list(flag) for flag in self.flags],
            "seen": seen,
        }


def design_of_offers(offers: Sequence[OfferState], schema: Schema, *, period: int | None = None) -> Design:
    """The rows of offers at today's prices; rivals are the other offers of the same demand group and store."""
    num_products, num_stores = len(schema.products), len(schema.stores)
    product = np.array([schema.places.get(offer.product, num_products) for offer in offers], np.int64)
    store = np.array([schema.store_places.get(offer.store, num_stores) for offer in offers], np.int64)
    group = np.array([schema.groups.get(offer.group, len(schema.groups)) for offer in offers], np.int64)
    slots = (*schema.slots, 0)
    slot = np.array([slots[place] for place in product], np.int64)
    usual = np.array([offer.usual for offer in offers])
    own = np.log([offer.price for offer in offers]) - usual
    numbers: dict[tuple[str, str], int] = {}
    place = np.array([numbers.setdefault((one.group, one.store), len(numbers)) for one in offers], np.int64)
    rivals, has_rival = rivals_of(place, slot, own, schema.num_rivals)
    return Design(
        product=product,
        store=store,
        period=np.full(len(offers), schema.num_periods if period is None else period, np.int64),
        group=group,
        slot=slot,
        units=np.zeros(len(offers)),
        censored=np.zeros(len(offers), np.bool_),
        level=np.array([offer.level for offer in offers]),
        usual=usual,
        own=own,
        rivals=rivals,
        has_rival=has_rival,
        context=np.array([offer.context for offer in offers]).reshape(len(offers), len(schema.context)),
        names=schema.context,
        num_products=num_products + 1,
        num_stores=num_stores + 1,
    )


def offers_of_states(offers: Sequence[OfferState]) -> Offers:
    """What the optimiser prices; groups are demand groups within a store."""
    groups: dict[tuple[str, str], int] = {}
    number = [groups.setdefault((offer.group, offer.store), len(groups)) for offer in offers]
    return Offers(
        products=tuple(offer.product for offer in offers),
        stores=tuple(offer.store for offer in offers),
        price=np.array([offer.price for offer in offers]),
        cost=np.array([np.nan if offer.cost is None else offer.cost for offer in offers]),
        stock=np.array([np.inf if offer.stock is None else offer.stock for offer in offers]),
        size=np.array([np.nan if offer.size is None else offer.size for offer in offers]),
        group=np.array(number, np.int64),
        categories=tuple(offer.category for offer in offers),
        brands=tuple(offer.brand for offer in offers),
        seen=np.array([offer.seen or (np.nan, np.nan) for offer in offers]).reshape(len(offers), 2),
    )
