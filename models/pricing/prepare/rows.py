"""From the shared panel of sales to the rows that prices are learnt from, and the offers of the period to come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.pricing.panel import Floats, Ints, Panel
from models.pricing.prepare.settings import COST, SIGNALS
from models.raw.panel import Panel as SalesPanel
from models.raw.panel_tables import Ahead, Products

RECENT = 13
"""A product that was not sold in so many last periods is not offered with any confidence."""


@dataclass(frozen=True)
class Sales:
    """Series [S] by period [T + 1], the last one that of new prices, as arrays that rows are cut from."""

    product: Ints
    store: Ints
    has_row: npt.NDArray[np.bool_]
    """[S, T + 1] rows with a price; the last ones are offers."""
    units: Floats
    is_censored: npt.NDArray[np.bool_]
    price: Floats
    cost: Floats
    """[S, T + 1], NaN where it is not known."""
    promotion: Floats
    """[S, T + 1, F]"""
    signals: Floats
    """[S, T + 1, G]"""
    stock: Floats
    """[S] what is there to sell now; infinite where it is not known."""
    seen: Floats
    """[S, 2] the lowest and the highest price it was sold at, without the outermost hundredth; NaN where not known."""
    num_carried: int
    """Rows of periods without sales, whose price is that of the period before."""
    num_guessed: int
    """Rows of periods with sales and no price, whose price is that of the period before too."""
    num_unpriced: int
    """Cells of known units before the first known price, which are left out."""
    promotions: tuple[str, ...]
    signal_names: tuple[str, ...]

    def panel(self, products: tuple[str, ...], stores: tuple[str, ...], group: Ints, size: Floats) -> Panel:
        """All rows, in the order of series and period."""
        series, period = np.nonzero(self.has_row)
        units = self.units[series, period]
        return Panel(
            products=products,
            stores=stores,
            row_product=self.product[series],
            row_store=self.store[series],
            row_period=period.astype(np.int64),
            row_units=units,
            row_price=self.price[series, period],
            row_cost=self.cost[series, period],
            row_stock=np.where(self.is_censored[series, period], units, np.inf),
            row_promotion=self.promotion[series, period],
            row_signals=self.signals[series, period],
            product_group=group,
            product_size=size,
        )


def _seen(price: Floats) -> Floats:
    """Without the outermost hundredth of prices [S, T], which are mistakes more often than prices."""
    found = np.full((len(price), 2), np.nan)
    for series, row in enumerate(price):
        known = row[np.isfinite(row)]
        if len(known):
            found[series] = np.quantile(known, (0.01, 0.99), method="nearest")
    return found


def sales_of(panel: SalesPanel, products: Products, ahead: Ahead, *, cost_share: float, train_end: int) -> Sales:
    """The panel's series with a price in every period: that of the last sale where none is known.

    Costs are those of the sales, else of the product table, else a share of the usual price, if it is above zero.
    """
    names = list(dict.fromkeys(panel.products))
    stores = [""] if panel.stores is None else sorted(set(panel.stores))
    of_product = {name: place for place, name in enumerate(names)}
    product = np.array([of_product[each] for each in panel.products], np.int64)
    store = np.array([stores.index(each) for each in panel.stores or [""] * len(product)], np.int64)
    shown = _priced(panel)
    price = _carried(shown)
    is_known = panel.is_known
    has_row = is_known & np.isfinite(price)
    signal_names = tuple(name for name in SIGNALS if name in panel.values)
    signals = [_filled(np.nan_to_num(panel.values[name].astype(np.float64))) for name in signal_names]
    return Sales(
        product=product,
        store=store,
        has_row=_with_last(has_row, np.asarray(np.isfinite(price).any(1))),
        units=_filled(np.where(is_known, panel.units, 0).astype(np.float64)),
        is_censored=_with_last(panel.is_censored & has_row, np.zeros(len(product), np.bool_)),
        price=_with_last(np.nan_to_num(price, nan=1.0), np.nan_to_num(price[:, -1], nan=1.0)),
        cost=_costs(panel, products, price[:, :train_end], cost_share=cost_share),
        promotion=ahead.values.astype(np.float64),
        signals=np.stack(signals, -1) if signals else np.zeros((*_longer(panel.units), 0)),
        stock=_stock(panel, products),
        seen=_seen(np.where(is_known & (panel.units > 0), shown, np.nan)),
        num_carried=int((has_row & ~np.isfinite(shown) & (panel.units <= 0)).sum()),
        num_guessed=int((has_row & ~np.isfinite(shown) & (panel.units > 0)).sum()),
        num_unpriced=int((is_known & ~np.isfinite(price)).sum()),
        promotions=tuple(ahead.names),
        signal_names=signal_names,
    )


def not_sold_lately(sales: Sales) -> npt.NDArray[np.bool_]:
    """Series [S] that sold nothing in the last RECENT periods."""
    recent: npt.NDArray[np.bool_] = (sales.units[:, :-1] * sales.has_row[:, :-1])[:, -RECENT:].sum(1) <= 0
    return recent


def _priced(panel: SalesPanel) -> Floats:
    """The price of each cell [S, T], NaN where it is not known."""
    prices: Floats = panel.values["price"].astype(np.float64)
    return np.where(prices > 0, prices, np.nan)


def _carried(values: Floats) -> Floats:
    """The last known value of each series [S, T] up to every period, NaN before the first."""
    place = np.where(np.isfinite(values), np.arange(values.shape[1]), -1)
    last = np.maximum.accumulate(place, axis=1)
    return np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=1), np.nan)


def _costs(panel: SalesPanel, products: Products, train_price: Floats, *, cost_share: float) -> Floats:
    num_series, num_periods = panel.units.shape
    cost = np.full((num_series, num_periods), np.nan)
    if COST in panel.values:
        known = panel.values[COST].astype(np.float64)
        cost = _carried(np.where(known >= 0, known, np.nan))
        first = np.where(np.isfinite(cost), cost, 0).argmax(1)
        cost = np.where(np.isfinite(cost), cost, cost[np.arange(num_series), first][:, None])
    table = products.numbers.get(COST, np.full(num_series, np.nan))
    cost = np.where(np.isfinite(cost), cost, table[:, None])
    if cost_share:
        usual = np.exp(_mean(np.log(train_price)))
        cost = np.where(np.isfinite(cost), cost, cost_share * usual[:, None])
    return _with_last(cost, cost[:, -1])


def _mean(values: Floats) -> Floats:
    """The mean of what is known of each row [S]; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(1)
    sums: Floats = np.where(known, values, 0.0).sum(1)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)


def _stock(panel: SalesPanel, products: Products) -> Floats:
    """What is there to sell now [S]: by the product table, else by the last row of the sales."""
    stock = np.full(len(panel.products), np.nan)
    if "stock" in panel.values:
        stock = _carried(panel.values["stock"].astype(np.float64))[:, -1]
    table = products.numbers.get("stock", np.full(len(stock), np.nan))
    stock = np.where(np.isfinite(table), table, stock)
    return np.where(np.isfinite(stock), stock, np.inf)


def _longer(values: npt.NDArray[np.float32]) -> tuple[int, int]:
    return values.shape[0], values.shape[1] + 1


def _filled(values: Floats) -> Floats:
    """With a last period of zeros."""
    return np.pad(values, ((0, 0), (0, 1)))


def _with_last(values: npt.NDArray, last: npt.NDArray) -> npt.NDArray:  # type: ignore[type-arg]
    return np.concatenate([values, last[:, None]], axis=1)
