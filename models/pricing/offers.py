"""What is priced: products in stores at today's prices, with what the rules need to know of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.pricing.panel import Flags, Floats, Ints

SAME_PRICE = 1e-5


@dataclass(frozen=True)
class Offers:
    """Offers [I], one for each product and store; empty texts and NaN where something is not known.

    `price` is today's. Stock is infinite where it is not known; an offer whose cost is NaN counts with no profit. A
    group is a demand group: offers that influence each other's demand, so never of two stores. `seen` [I, 2] has the
    lowest and the highest price at which each was sold, NaN where that is not known.
    """

    products: tuple[str, ...]
    stores: tuple[str, ...]
    price: Floats
    cost: Floats
    stock: Floats
    size: Floats
    group: Ints
    categories: tuple[str, ...]
    brands: tuple[str, ...]
    seen: Floats | None = None

    def __post_init__(self) -> None:
        for name in ("stores", "price", "cost", "stock", "size", "group", "categories", "brands"):
            if len(getattr(self, name)) != len(self.products):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {len(self.products)} offers")
        wrong = np.flatnonzero(~(np.isfinite(self.price) & (self.price > 0)))
        if len(wrong):
            named = self.name(int(wrong[0]))
            raise ValueError(f"the price of {named} is {self.price[wrong[0]]:g}; it must be above zero")
        wrong = np.flatnonzero((self.cost < 0) | np.isinf(self.cost))
        if len(wrong):
            named = self.name(int(wrong[0]))
            raise ValueError(
                f"the cost of {named} is {self.cost[wrong[0]]:g}; a cost is zero or more, or NaN where not known"
            )
        wrong = np.flatnonzero(~(self.stock >= 0))
        if len(wrong):
            named = self.name(int(wrong[0]))
            raise ValueError(f"the stock of {named} is {self.stock[wrong[0]]:g}; it is zero or more, or infinite")
        if len({*zip(self.products, self.stores, strict=True)}) < len(self.products):
            raise ValueError("a product is offered twice in the same store; name each product and store once")

    def __len__(self) -> int:
        return len(self.products)

    def margin(self, prices: Floats) -> Floats:
        """Profit of a unit at prices [..., I]; zero where the cost is not known."""
        return np.nan_to_num(prices - self.cost)

    def name(self, index: int) -> str:
        """An offer in words."""
        store = self.stores[index]
        return f"product {self.products[index]}" + (f" in store {store}" if store else "")


def changes(offers: Offers, price: Floats) -> Flags:
    """Which prices [I] are not today's, beyond rounding."""
    changed: Flags = np.abs(price - offers.price) > SAME_PRICE
    return changed
