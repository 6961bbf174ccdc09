"""What demand models read of a panel: own price in exactly one place, rivals, promotions, season and lags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.pricing.panel import Flags, Floats, Ints, Panel

LAGS = 4
MIN_YEARS = 2.0
"""Season and trend need training rows of so many years: fitted to less they take single weeks for a season."""
YEARS = {"day": 365.25, "week": 52.0, "month": 12.0, "number": 52.0}
"""Periods of a year; numbered periods are taken for weeks."""
MIN_UNITS = 0.5
"""What zero units count as in logarithms; the count head needs no such thing."""


@dataclass(frozen=True)
class Design:
    """The inputs of demand models by row [N].

    The own price is in `own` and nowhere else: log price minus the usual log price of the product in the store.
    `rivals` [N, R] has the same of the other products of the demand group in the same store and period, in the order of
    the group; zero in the product's own column `slot` and where a rival was not sold. `level` is the usual log of the
    units. `context` [N, F] does not depend on any price of the period. Everything usual is of training rows only.
    """

    product: Ints
    store: Ints
    period: Ints
    group: Ints
    slot: Ints
    units: Floats
    censored: Flags
    level: Floats
    usual: Floats
    own: Floats
    rivals: Floats
    has_rival: Flags
    context: Floats
    names: tuple[str, ...]
    num_products: int
    num_stores: int

    @property
    def log_units(self) -> Floats:
        """Log of the units, with at least MIN_UNITS."""
        return np.log(np.maximum(self.units, MIN_UNITS))

    def rows(self, selected: Flags | Ints) -> Design:
        """Some of the rows."""
        arrays: dict[str, Any] = {
            field.name: value[selected]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **arrays)

    def at(self, own: Floats, rivals: Floats | None = None) -> Design:
        """The same rows at other prices, given as log price minus the usual one."""
        return dataclasses.replace(self, own=own, rivals=self.rivals if rivals is None else rivals)


def design_of(panel: Panel, train: Flags, *, periods_a_year: float = 52.0) -> Design:
    """Everything that demand models read; lags are of earlier periods, usual values of the rows in `train` only.

    A pair of product and store without training rows gets the usual values of the product, or of all.
    """
    log_units = np.log(np.maximum(panel.row_units, MIN_UNITS))
    log_price = np.log(panel.row_price)
    complete = train & ~panel.sold_out
    level = _usual(panel, log_units, complete if complete.any() else train)
    usual = _usual(panel, log_price, train)
    own = log_price - usual
    slots, num_slots = _slots(panel.product_group)
    rivals, has_rival = _rivals(panel, own, slots, num_slots)
    context, names = _context(panel, log_units - level, own, train, periods_a_year=periods_a_year)
    return Design(
        product=panel.row_product,
        store=panel.row_store,
        period=panel.row_period,
        group=panel.product_group[panel.row_product],
        slot=slots[panel.row_product],
        units=panel.row_units,
        censored=panel.sold_out,
        level=level,
        usual=usual,
        own=own,
        rivals=rivals,
        has_rival=has_rival,
        context=context,
        names=tuple(names),
        num_products=len(panel.products),
        num_stores=len(panel.stores),
    )


def _usual(panel: Panel, values: Floats, train: Flags) -> Floats:
    """The mean of the training rows of the same product and store; else of the product, else of all."""
    if not train.any():
        raise ValueError("no training rows; the usual price and level need some")
    usual = np.full(len(values), values[train].mean())
    for keys in (panel.row_product, panel.series):
        sums = np.bincount(keys[train], values[train], keys.max() + 1)
        counts = np.bincount(keys[train], minlength=keys.max() + 1)
        known = counts[keys] > 0
        usual[known] = (sums / np.maximum(counts, 1))[keys][known]
    return usual


def _slots(groups: Ints) -> tuple[Ints, int]:
    """The position of each product in its group, and the size of the largest group."""
    slots = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        slots[members] = np.arange(len(members))
    return slots, int(slots.max(initial=0)) + 1


def _rivals(panel: Panel, own: Floats, slots: Ints, num_slots: int) -> tuple[Floats, Flags]:
    group = panel.product_group[panel.row_product]
    places = np.stack([group, panel.row_store, panel.row_period], axis=1)
    _, place = np.unique(places, axis=0, return_inverse=True)
    return rivals_of(place.ravel(), slots[panel.row_product], own, num_slots)


def rivals_of(place: Ints, slot: Ints, own: Floats, num_slots: int) -> tuple[Floats, Flags]:
    """The own prices of the others of a row's place [N, R], by their slots, zero where there is none, and where not.

    A place is a demand group in a store and period.
    """
    table = np.full((place.max() + 1, num_slots), np.nan)
    table[place, slot] = own
    rivals = table[place]
    rivals[np.arange(len(own)), slot] = np.nan
    has_rival = ~np.isnan(rivals)
    return np.where(has_rival, rivals, 0.0), has_rival


def _context(
    panel: Panel, deviation: Floats, own: Floats, train: Flags, *, periods_a_year: float
) -> tuple[Floats, list[str]]:
    """Columns that do not depend on a price of the row's own period."""
    columns: list[Floats] = []
    names: list[str] = []

    def add(name: str, column: Floats) -> None:
        names.append(name)
        columns.append(column)

    for number, flag in enumerate(panel.row_promotion.T):
        add(f"promotion {number}", flag)
        add(f"rivals' promotion {number}", _others_mean(panel, flag))
    lagged = _lags(panel, deviation)
    for lag, column in enumerate(lagged, 1):
        add(f"units, lag {lag}", np.nan_to_num(column))
    add("units, mean of the lags", _mean(lagged))
    for lag, column in enumerate(_lags(panel, own)[:2], 1):
        add(f"own price, lag {lag}", np.nan_to_num(column))
    for number, flag in enumerate(panel.row_promotion.T):
        add(f"promotion {number}, lag 1", np.nan_to_num(_lags(panel, flag)[0]))
    for number, signal in enumerate(panel.row_signals.T):
        logs = np.sign(signal) * np.log1p(np.abs(signal))
        add(f"signal {number}, lag 1", np.nan_to_num(_lags(panel, logs - _usual(panel, logs, train))[0]))
    everywhere = _by_period(panel, deviation, panel.row_product)
    add("units in all stores, lag 1", everywhere)
    add("units of the store's group, lag 1", _by_period(panel, deviation, _store_group(panel)))
    add("rivals' price, lag 1", _by_period(panel, own, _store_group(panel)))
    if np.ptp(panel.row_period[train]) + 1 < MIN_YEARS * periods_a_year:
        return np.stack(columns, axis=1), names
    angle = 2 * np.pi * panel.row_period / periods_a_year
    for harmonic in (1, 2):
        add(f"season, sine {harmonic}", np.sin(harmonic * angle))
        add(f"season, cosine {harmonic}", np.cos(harmonic * angle))
    add("time", panel.row_period / periods_a_year)
    return np.stack(columns, axis=1), names


def _store_group(panel: Panel) -> Ints:
    return panel.product_group[panel.row_product] * len(panel.stores) + panel.row_store


def _lags(panel: Panel, values: Floats) -> list[Floats]:
    """The values of the same product and store 1 to LAGS periods before; NaN where there was no row."""
    _, series = np.unique(panel.series, return_inverse=True)
    periods = int(panel.row_period.max()) + 1
    grid = np.full((series.max() + 1, LAGS + periods), np.nan)
    grid[series, LAGS + panel.row_period] = values
    return [grid[series, LAGS + panel.row_period - lag] for lag in range(1, LAGS + 1)]


def _mean(columns: Sequence[Floats]) -> Floats:
    """The mean of what is not NaN, zero where there is nothing."""
    stacked = np.stack(columns)
    means: Floats = np.nansum(stacked, axis=0) / np.maximum(1, (~np.isnan(stacked)).sum(axis=0))
    return means


def _by_period(panel: Panel, values: Floats, keys: Ints) -> Floats:
    """The mean over all rows of the same key one period before; zero where there are none."""
    periods = int(panel.row_period.max()) + 2
    flat = keys * periods + panel.row_period + 1
    size = (int(keys.max()) + 1) * periods
    means = np.bincount(flat, values, size) / np.maximum(1, np.bincount(flat, minlength=size))
    result: Floats = means[keys * periods + panel.row_period]
    return result


def _others_mean(panel: Panel, values: Floats) -> Floats:
    """The mean over the other products of the group in the same store and period."""
    periods = int(panel.row_period.max()) + 1
    keys = _store_group(panel) * periods + panel.row_period
    sums, counts = np.bincount(keys, values)[keys], np.bincount(keys)[keys]
    means: Floats = (sums - values) / np.maximum(1, counts - 1)
    return means
