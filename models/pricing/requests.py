"""Requests for prices: which offers, under which rules, and what differs from the stored state of the shop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.pricing.offers import Offers
from models.pricing.rules import Rules, parse_rules
from models.raw.ids import Id

DEFAULT_RULES = "ladder: {step: 0.05, most_points: 9}\nlargest_change: {share: 0.1}\n"
"""Prices in steps of 5 cents within 10 % of today's."""
MAX_OFFERS = 20_000
ALL = "all"
Price = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Sold(_Part):
    """One past period of an offer that the request brings along."""

    units: Amount
    price: Price


class Offer(_Part):
    """A product in a store that the request brings along, instead of the stored ones."""

    product_id: Id
    store_id: Id | None = None
    price: Price
    cost: Amount | None = None
    stock: Amount | None = None
    history: list[Sold] = Field(default_factory=list, max_length=1000)
    """Its last periods, oldest first, the last one the period before the new price."""


class Today(_Part):
    """What is different today from the stored state of a product, in one store or in all."""

    product_id: Id
    store_id: Id | None = None
    price: Price | None = None
    cost: Amount | None = None
    stock: Amount | None = None
    known: dict[str, Number] = Field(default_factory=dict, max_length=100)
    """What is known of the period to come, such as promotion; replaces the calendar's."""


class OffersRequest(_Part):
    """Which offers a request is about, and what is different today."""

    products: list[Id] | None = Field(default=None, min_length=1, max_length=MAX_OFFERS)
    """Products; without them all, or all of the stores."""
    stores: list[Id] | None = Field(default=None, min_length=1, max_length=MAX_OFFERS)
    """Stores; without them all."""
    today: list[Today] = Field(default_factory=list, max_length=MAX_OFFERS)
    """Prices, costs, stock and promotions that differ from the stored ones."""
    current: list[Today] = Field(default_factory=list, max_length=MAX_OFFERS)
    """Like `today`, of the whole shop: offers that this request is not about are passed over. `today` goes before."""
    offers: list[Offer] | None = Field(default=None, min_length=1, max_length=1000)
    """Offers of the request itself, of products that the model knows; the stored ones are then not used."""

    def state_keys(self) -> list[str]:
        """The keys of the stored states of whole demand groups."""
        if self.offers is not None:
            return []
        if self.products is not None:
            return [f"product:{product}" for product in dict.fromkeys(self.products)]
        return [ALL] if self.stores is None else [f"store:{store}" for store in dict.fromkeys(self.stores)]


class RecommendRequest(OffersRequest):
    """Recommend prices for products in stores, under rules."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"products": ["tea-0"], "rules": DEFAULT_RULES}, {}]},
    )

    rules: str | dict[str, Any] | None = None
    """Rules for prices: a YAML document as text, or the same as an object; by default steps of 0.05 within 10 %."""


class WhatIfRequest(OffersRequest):
    """Ask what is expected at given prices."""

    prices: list[Today] = Field(min_length=1, max_length=MAX_OFFERS)
    """The price of a product, in one store or in all; other prices stay."""


class ExplainRequest(OffersRequest):
    """Ask for the demand curve of one offer."""

    product_id: Id
    """The product."""
    store_id: Id | None = None
    """The store, where the sales have stores."""
    rules: str | dict[str, Any] | None = None
    """Rules whose ladder says at which prices; by default steps of 0.05 within 10 %."""

    def state_keys(self) -> list[str]:
        """The key of the product's states."""
        return [] if self.offers is not None else [f"product:{self.product_id}"]


def rules_of(request: RecommendRequest | ExplainRequest, offers: Offers | None = None) -> Rules:
    """The rules of a request; raises RulesRejected with every mistake."""
    given = request.rules
    text = DEFAULT_RULES if given is None else given if isinstance(given, str) else json.dumps(given)
    return parse_rules(text, Path("rules"), offers=offers)


def is_about(place: tuple[str, str], product: str, store: str | None) -> bool:
    """Whether an offer's product and store are these; no store means all."""
    return place[0] == product and store in (None, place[1])


def is_asked(request: OffersRequest, product: str, store: str) -> bool:
    """Whether a request is about an offer itself, not only about its rivals."""
    if request.offers is not None:
        return True
    if isinstance(request, ExplainRequest):
        return is_about((product, store), request.product_id, request.store_id)
    products: Sequence[str] | None = request.products
    return (products is None or product in products) and (request.stores is None or store in request.stores)
