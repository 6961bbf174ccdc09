"""The data card of sales for prices: what was read, what was left out, and what the log can support."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.pricing.prepare.rows import Sales
from models.pricing.schema import Schema
from models.pricing.states import OfferState
from models.pricing.trust import Support
from models.raw.demand import CLASSES
from models.raw.panel import Panel as SalesPanel
from models.raw.panel_tables import Products


def card_of(
    panel: SalesPanel,
    schema: Schema,
    sales: Sales,
    products: Products,
    offers: Sequence[OfferState],
    *,
    left_out: dict[str, int],
    classes: np.ndarray,
    support: Sequence[Support],
    group_by: str,
) -> dict[str, Any]:
    """Counts of rows, bad rows by reason, and what people are told of the prices."""
    by_class = np.bincount(classes, minlength=len(CLASSES)).tolist()
    above = [offer for offer in offers if offer.cost is not None and offer.cost >= offer.price]
    card: dict[str, Any] = {
        **panel.card,
        "family": "pricing",
        "fingerprint": schema.fingerprint,
        "bad": {**panel.card["bad"], **products.card.get("bad", {})},
        "products": len(schema.products),
        "stores": len(schema.stores) if schema.has_stores else 0,
        "series": len(classes),
        "offers": len(offers),
        "left_out": left_out,
        "periods": {"period": panel.period, "from": panel.date(0), "to": panel.date(panel.num_periods - 1)},
        "splits": {name: {"rows": count} for name, count in schema.num_examples.items()},
        "splits_from": {"val": panel.date(schema.train_end), "test": panel.date(schema.test_from)},
        "demand_classes": dict(zip(CLASSES, by_class, strict=True)),
        **_support(schema, sales, support, group_by),
        "costs": {"above_price": len(above), "unknown": sum(offer.cost is None for offer in offers)},
        **{name: value for name, value in products.card.items() if name != "bad"},
    }
    card["notes"] = [*panel.notes, *products.notes, *_notes(panel, schema, card, above)]
    return card


def _support(schema: Schema, sales: Sales, support: Sequence[Support], group_by: str) -> dict[str, Any]:
    """What the log can support: demand groups, prices that were asked, and products that are flagged."""
    flags = Counter(name for product in schema.products for name, _ in product.flags)
    sizes = Counter(product.group for product in schema.products)
    return {
        "demand_groups": {"by": group_by, "number": len(sizes), "largest": max(sizes.values())},
        "prices": {
            "median_distinct_prices": float(np.median([one.num_prices for one in support])),
            "mean_share_off_usual": float(np.mean([1 - one.usual_share for one in support])),
            "carried": sales.num_carried,
            "guessed": sales.num_guessed,
            "unknown": sales.num_unpriced,
        },
        "flagged_products": sum(bool(product.flags) for product in schema.products),
        "flags": dict(sorted(flags.items())),
    }


def _notes(panel: SalesPanel, schema: Schema, card: dict[str, Any], above: list[OfferState]) -> list[str]:
    """What people are told."""
    word = "period" if panel.period == "number" else panel.period
    prices, groups, costs = card["prices"], card["demand_groups"], card["costs"]
    notes = [
        f"{count:,} products, or products in a store, are left out: {why}" for why, count in card["left_out"].items()
    ]
    notes.append(
        f"{panel.num_periods:,} {word}s from {panel.date(0)} to {panel.date(panel.num_periods - 1)}; validation begins "
        f"at {panel.date(schema.train_end)}, test at {panel.date(schema.test_from)}"
    )
    by = (
        f"by {groups['by']}"
        if groups["by"]
        else "each product alone: no table of products has group, category or brand"
    )
    notes.append(f"{groups['number']:,} demand groups of up to {groups['largest']} products, {by}")
    notes.append(
        f"a product was sold at {prices['median_distinct_prices']:g} prices (median), in "
        f"{prices['mean_share_off_usual']:.0%} of its {word}s at another than its usual one (mean)"
    )
    demand = ", ".join(f"{count:,} {name}" for name, count in card["demand_classes"].items() if count)
    notes.append(f"demand: {demand}")
    if card["flagged_products"]:
        reasons = ", ".join(f"{count:,} {name}" for name, count in Counter(card["flags"]).most_common())
        notes.append(f"{card['flagged_products']:,} products cannot say how demand depends on their price: {reasons}")
    if prices["carried"]:
        notes.append(f"in {prices['carried']:,} rows without sales the price is that of the last {word} with one")
    if prices["guessed"]:
        notes.append(
            f"in {prices['guessed']:,} rows with sales no price is known: that of the last {word} with one is taken, "
            "which hides how demand depends on it"
        )
    if prices["unknown"]:
        notes.append(f"{prices['unknown']:,} {word}s of a product before its first price are left out")
    notes += _cost_notes(schema, costs, above)
    return notes


def _cost_notes(schema: Schema, costs: dict[str, int], above: list[OfferState]) -> list[str]:
    notes = []
    if costs["unknown"]:
        notes.append(
            f"NO COST is known for {costs['unknown']:,} offers: their prices stay; give costs in --products or in the "
            "sales, or assume them with --cost-share"
        )
    if schema.cost_share:
        notes.append(
            f"COSTS ARE ASSUMED where none is known: {schema.cost_share:g} of the usual price (--cost-share); profits "
            "are no better than that"
        )
    if above:
        names = f"{above[0].product}" + (f" in {above[0].store}" if above[0].store else "")
        notes.append(f"{len(above):,} offers cost as much as their price or more, such as {names}: their prices stay")
    return notes
