"""Demand groups: products that people choose between, by the product table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.pricing.panel import Floats


def demand_groups(
    products: Sequence[str], texts: Mapping[str, Sequence[str]], prices: Floats, *, max_group: int
) -> tuple[list[str], str]:
    """The name of each product's demand group [P], and the attribute it goes by; "" if each product is alone.

    `texts` are attributes of each product; the first of group, category and brand that any product has counts. A
    product without it is alone. Groups of more than `max_group` products are cut by the usual price [P]: those of
    similar price compete most.
    """
    attribute = next((name for name in ("group", "category", "brand") if any(texts.get(name, ()))), "")
    names = list(texts[attribute]) if attribute else [""] * len(products)
    groups = [f"{name}" if name else f"only {product}" for name, product in zip(names, products, strict=True)]
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    for group, places in members.items():
        num_parts = -(-len(places) // max_group)
        if num_parts > 1:
            ordered = sorted(places, key=lambda place: (float(prices[place]), products[place]))
            for number, part in enumerate(np.array_split(np.array(ordered), num_parts), 1):
                for place in part.tolist():
                    groups[place] = f"{group}, part {number} of {num_parts} by price"
    return groups, attribute
