"""Reasons not to trust what a model says of an offer: its history, its state, estimates of its elasticity."""

from __future__ import annotations

from collections.abc import Sequence

from models.pricing.dml import Elasticities
from models.pricing.schema import Schema
from models.pricing.states import OfferState
from models.pricing.trust import Flag, flags_of_estimates


def product_flags(
    schema: Schema, found: tuple[Elasticities, Elasticities, Elasticities] | None
) -> dict[str, list[Flag]]:
    """What the estimates of each product's elasticity say, on all weeks and on both halves; nothing without them."""
    if found is None:
        return {}
    whole, *halves = found
    flags = flags_of_estimates(whole, (halves[0], halves[1]))
    return {product.id: flags[place] for place, product in enumerate(schema.products)}


def offer_flags(offers: Sequence[OfferState], of_products: dict[str, list[Flag]]) -> list[list[Flag]]:
    """The flags of each offer: its own, and those of its product's estimates."""
    return [
        [*(Flag(name, text) for name, text in offer.flags), *of_products.get(offer.product, [])] for offer in offers
    ]
