"""The offers that a request is about, stored or of the request itself, with what is different today."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.family import Features
from models.prepared import Prepared
from models.pricing.data import stored_offers
from models.pricing.design import LAGS, MIN_UNITS
from models.pricing.requests import ALL, MAX_OFFERS, ExplainRequest, Offer, OffersRequest, Today, is_about
from models.pricing.schema import Schema
from models.pricing.states import OfferState

STATES = "states"


def state_rows(data: Prepared) -> Iterator[tuple[str, Any]]:
    """The states of whole demand groups by product, by store, and of all offers if these are not too many."""
    offers = list(stored_offers(data))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for offer in offers:
        groups.setdefault((offer.group, offer.store), []).append(offer.as_row())
    by_key: dict[str, list[dict[str, Any]]] = {}
    for (_, store), rows in sorted(groups.items()):
        for row in rows:
            by_key.setdefault(f"product:{row['product']}", []).extend(rows)
        by_key.setdefault(f"store:{store}", []).extend(rows)
    if len(offers) <= MAX_OFFERS:
        yield ALL, {"offers": [row for _, rows in sorted(groups.items()) for row in rows]}
    for key, rows in by_key.items():
        yield key, {"offers": rows}


def offers_asked(request: OffersRequest, schema: Schema, features: Features) -> list[OfferState]:
    """The offers of whole demand groups by product and store; raises ValueError for what the model does not know."""
    if request.offers is not None:
        found = [_of_request(offer, schema) for offer in request.offers]
        names = [(offer.product, offer.store) for offer in found]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"offers has product_id {repeated[0]!r} twice in one store; name each once")
    else:
        found = _stored(request, features)
    for field in ("today", "current"):
        counts = Counter((one.product_id, one.store_id) for one in getattr(request, field))
        for offer, count in counts.most_common(1):
            if count > 1:
                raise ValueError(f"{field} names {_named(*offer)} {count} times; say once what holds")
    found = _at_current(found, request.current, schema)
    for given in request.today:
        matches = [place for place, each in enumerate(found) if _is_of(each, given)]
        if not matches:
            raise ValueError(
                f"today names {_named(given.product_id, given.store_id)}, which this request does not have"
            )
        for place in matches:
            found[place] = _changed(found[place], given, schema)
    return _with_promotions_of_rivals(found, request.today, schema)


def _at_current(offers: list[OfferState], current: Sequence[Today], schema: Schema) -> list[OfferState]:
    """The offers with what holds now of each product and store."""
    by_place = {(one.product_id, one.store_id or ""): one for one in current}
    return [
        _changed(offer, given, schema) if (given := by_place.get((offer.product, offer.store))) else offer
        for offer in offers
    ]


def _stored(request: OffersRequest, features: Features) -> list[OfferState]:
    states = features.get(STATES, {})
    for key in request.state_keys():
        if key not in states:
            kind, _, name = key.partition(":")
            if key == ALL:
                raise ValueError(
                    "there are no stored offers, or too many to ask for all at once; name products or stores"
                )
            field = "store_id" if kind == "store" else "product_id"
            raise ValueError(f"{field} {name!r} has no stored offers: it had no sales with a price before validation")
    rows = {(row["product"], row["store"]): row for key in request.state_keys() for row in states[key]["offers"]}
    stores = request.stores
    if isinstance(request, ExplainRequest):
        stores = None if request.store_id is None else [request.store_id]
    known = {store for _, store in rows}
    unknown = [store for store in stores or () if store not in known]
    if unknown:
        raise ValueError(f"store_id {unknown[0]!r} has no offers of the products of this request")
    return [OfferState.read(row) for place, row in sorted(rows.items()) if stores is None or place[1] in stores]


def _of_request(offer: Offer, schema: Schema) -> OfferState:
    """An offer of a request: its history makes the lags, its level and its usual price."""
    if offer.product_id not in schema.places:
        raise ValueError(f"product_id {offer.product_id!r} is not known to the model; its offers cannot be priced")
    store = offer.store_id or ""
    if schema.has_stores and store not in schema.store_places:
        raise ValueError(f"store_id {store!r} is not known to the model; it knows {schema.stores[0]!r} and others")
    product = schema.products[schema.places[offer.product_id]]
    logs = [math.log(max(sold.units, MIN_UNITS)) - product.level for sold in offer.history[-LAGS:]][::-1]
    prices = [math.log(sold.price) - product.usual for sold in offer.history[-2:]][::-1]
    values = {f"units, lag {lag}": value for lag, value in enumerate(logs, 1)}
    values |= {f"own price, lag {lag}": value for lag, value in enumerate(prices, 1)}
    if logs:
        values["units, mean of the lags"] = float(np.mean(logs))
    values |= _season(schema)
    return OfferState(
        product=product.id,
        store=store,
        group=product.group,
        price=offer.price,
        cost=offer.cost,
        stock=offer.stock,
        level=product.level,
        usual=product.usual,
        context=tuple(values.get(name, 0.0) for name in schema.context),
        size=product.size,
        category=product.category,
        brand=product.brand,
        flags=product.flags,
    )


def _season(schema: Schema) -> dict[str, float]:
    """Season and time of the period after the sales."""
    turn = 2 * math.pi * schema.num_periods / schema.periods_a_year
    found = {f"season, sine {harmonic}": math.sin(harmonic * turn) for harmonic in (1, 2)}
    found |= {f"season, cosine {harmonic}": math.cos(harmonic * turn) for harmonic in (1, 2)}
    return {**found, "time": schema.num_periods / schema.periods_a_year}


def _changed(offer: OfferState, given: Today, schema: Schema) -> OfferState:
    """The offer with what is different today; raises ValueError for a promotion that the model does not know."""
    context = list(offer.context)
    for name, value in given.known.items():
        if name not in schema.promotions:
            known = ", ".join(schema.promotions) or "nothing"
            raise ValueError(f"{name!r} is not known ahead; the model knows {known}")
        context[schema.context.index(f"promotion {schema.promotions.index(name)}")] = value
    return replace(
        offer,
        price=offer.price if given.price is None else given.price,
        cost=offer.cost if given.cost is None else given.cost,
        stock=offer.stock if given.stock is None else given.stock,
        context=tuple(context),
    )


def _with_promotions_of_rivals(offers: list[OfferState], today: Sequence[Today], schema: Schema) -> list[OfferState]:
    """The offers with the promotions of their rivals as they are after the changes of a request."""
    if not any(given.known for given in today):
        return offers
    groups: dict[tuple[str, str], list[int]] = {}
    for place, offer in enumerate(offers):
        groups.setdefault((offer.group, offer.store), []).append(place)
    context = np.array([offer.context for offer in offers])
    for number in range(len(schema.promotions)):
        own, others = (schema.context.index(f"{who}promotion {number}") for who in ("", "rivals' "))
        for places in groups.values():
            total = context[places, own].sum()
            context[places, others] = (total - context[places, own]) / max(1, len(places) - 1)
    return [replace(offer, context=tuple(row)) for offer, row in zip(offers, context.tolist(), strict=True)]


def _is_of(offer: OfferState, given: Today) -> bool:
    return is_about((offer.product, offer.store), given.product_id, given.store_id)


def _named(product: str, store: str | None) -> str:
    return f"product_id {product!r}" + ("" if store is None else f" in the store {store!r}")


def prices_asked(offers: Sequence[OfferState], prices: Sequence[Today]) -> dict[int, float]:
    """The new price by the place of the offer; raises ValueError for offers that the request does not have."""
    found: dict[int, float] = {}
    for given in prices:
        if given.price is None:
            raise ValueError(f"prices has no price for {_named(given.product_id, given.store_id)}")
        matches = [place for place, offer in enumerate(offers) if _is_of(offer, given)]
        if not matches:
            named = _named(given.product_id, given.store_id)
            raise ValueError(f"prices names {named}, which is not among the offers of this request")
        found |= dict.fromkeys(matches, given.price)
    return found
