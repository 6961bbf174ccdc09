"""The panel that prices are learnt from: one row for each product, store and period."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Panel:
    """Rows [N] of what was sold at which price; every array `row_` has N entries, every `product_` has P.

    `row_product` and `row_store` are indexes into `products` and `stores`, `row_period` counts periods of equal length.
    `row_promotion` [N, F] is what was known in advance besides the price, such as a feature in a leaflet. `row_signals`
    [N, G] is what was seen in the period, such as views, carts, conversion or days of lead time: models read that of
    the period before. Stock is what was there to sell in the period; infinite where it is not known. A group is a
    demand group: products that people choose between.
    """

    products: tuple[str, ...]
    stores: tuple[str, ...]
    row_product: Ints
    row_store: Ints
    row_period: Ints
    row_units: Floats
    row_price: Floats
    row_cost: Floats
    row_stock: Floats
    row_promotion: Floats
    row_signals: Floats
    product_group: Ints
    product_size: Floats

    def __post_init__(self) -> None:
        rows, num_products = len(self.row_product), len(self.products)
        for field in dataclasses.fields(self):
            prefix = field.name.partition("_")[0]
            if prefix not in {"row", "product"}:
                continue
            length, value = rows if prefix == "row" else num_products, getattr(self, field.name)
            if len(value) != length:
                raise ValueError(f"{field.name} has {len(value)} entries instead of {length}")
        if not rows:
            raise ValueError("the panel has no rows; it needs units and prices by product, store and period")
        self._check_values()
        keys = self.series * (int(self.row_period.max()) + 1) + self.row_period
        if len(np.unique(keys)) < rows:
            raise ValueError("a product has two rows in the same store and period; add them up first")

    def _check_values(self) -> None:
        for name in ("row_units", "row_price", "row_promotion", "row_signals"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} has values that are not finite; leave such rows out")
        if (self.row_period < 0).any():
            raise ValueError("periods count from 0")
        for name, is_wrong in (("price", self.row_price <= 0), ("units", self.row_units < 0)):
            if is_wrong.any():
                row = int(np.flatnonzero(is_wrong)[0])
                value, product = getattr(self, f"row_{name}")[row], self.products[self.row_product[row]]
                raise ValueError(
                    f"{name} of product {product} is {value:g} in period {self.row_period[row]}; {REMEDY[name]}"
                )

    @property
    def series(self) -> Ints:
        """The number of each row's product-and-store pair, as product times stores plus store."""
        return self.row_product * len(self.stores) + self.row_store

    @property
    def sold_out(self) -> Flags:
        """Rows in which all stock was sold: demand was at least the units, not equal to them."""
        return self.row_units >= self.row_stock

    def rows(self, selected: Flags | Ints) -> Panel:
        """The panel with some of its rows; products and stores keep their numbers."""
        changed: dict[str, Any] = {
            field.name: getattr(self, field.name)[selected]
            for field in dataclasses.fields(self)
            if field.name.startswith("row_")
        }
        return dataclasses.replace(self, **changed)


REMEDY = {"price": "prices must be above zero, leave such rows out", "units": "take returns out before the panel"}


def panel_of(
    products: Sequence[str],
    stores: Sequence[str],
    *,
    units: Floats,
    prices: Floats,
    costs: Floats,
    promotion: Floats | None = None,
    signals: Floats | None = None,
    groups: Sequence[int] | None = None,
) -> Panel:
    """A full panel from arrays [products, stores, periods]; costs may have any shape that broadcasts to it."""
    shape = units.shape
    product, store, period = (axis.ravel().astype(np.int64) for axis in np.indices(shape))
    return Panel(
        products=tuple(products),
        stores=tuple(stores),
        row_product=product,
        row_store=store,
        row_period=period,
        row_units=units.ravel(),
        row_price=prices.ravel(),
        row_cost=np.broadcast_to(costs, shape).ravel(),
        row_stock=np.full(units.size, np.inf),
        row_promotion=np.zeros((units.size, 0)) if promotion is None else promotion.reshape(units.size, -1),
        row_signals=np.zeros((units.size, 0)) if signals is None else signals.reshape(units.size, -1),
        product_group=np.asarray(groups if groups is not None else np.zeros(shape[0]), np.int64),
        product_size=np.ones(shape[0]),
    )
