"""Panels of sales, product x store x period, from sales tables and logs of order lines; for families that need one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.ids import id_text
from models.raw.panel_cells import Cells, sum_cells, without_returns
from models.raw.panel_rows import EXCLUDED, NUMBERS, Rows, read_rows, remedy_of
from models.raw.panel_settings import PanelSettings, Period, check_panel_settings
from models.raw.periods import choose_period, coarser, date_of, days_of, early_dates, ordinals
from models.raw.quarantine import check_bad, most_frequent
from models.raw.reading import reading_of
from models.raw.remedies import explain
from models.raw.tables import find_tables, without_secrets
from models.raw.time_zones import UTC

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
MAX_CELLS = 500_000_000
MIN_ZERO_SHARE = 0.05
"""A table with a larger share of rows of no units lists them all: a period without a row is then not known."""


@dataclass(frozen=True)
class Panel:
    """Sales of S series in T periods, in ascending order of product and store."""

    period: Period
    first: int
    """Number of the first period, see `models.raw.periods`."""
    products: list[str]
    """Product of each series [S]."""
    stores: list[str] | None
    """Store of each series [S]; None for sales without stores."""
    units: Floats
    """Units [S, T], 0 where not known."""
    is_known: Bools
    """Whether the units are known [S, T]: from the first row of a series on, unless the table lists zeros itself."""
    is_censored: Bools
    """Whether stock ran out [S, T]: demand was at least the units."""
    values: dict[str, Floats] = field(default_factory=dict)
    """price, revenue, stock, promotion and a family's more_numbers [S, T], those that the sales have; NaN where not
    known."""
    card: dict[str, Any] = field(default_factory=dict)
    """Counts of rows, bad rows by reason, and more, for the data card."""
    notes: list[str] = field(default_factory=list)
    time_zone: str = UTC
    """Where periods begin."""

    @property
    def num_periods(self) -> int:
        """T."""
        return int(self.units.shape[1])

    def date(self, place: int) -> str:
        """The date at which a period begins; `place` counts from the first and may be past the last."""
        return date_of(self.first + place, self.period)

    def names(self) -> list[str]:
        """Each series by product and store, for messages."""
        stores = self.stores
        return self.products if stores is None else [f"{p} in {s}" for p, s in zip(self.products, stores, strict=True)]

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> Panel:
        """The panel of some series, in the given order."""
        places = np.asarray(rows, np.int64)
        return Panel(
            period=self.period,
            first=self.first,
            products=[self.products[place] for place in places],
            stores=None if self.stores is None else [self.stores[place] for place in places],
            units=self.units[places],
            is_known=self.is_known[places],
            is_censored=self.is_censored[places],
            values={name: value[places] for name, value in self.values.items()},
            card=self.card,
            notes=self.notes,
            time_zone=self.time_zone,
        )

    def check_sold(self) -> None:
        """Raise DataRejected if no units were ever sold."""
        if (self.units > 0).any():
            return
        returns = self.card.get("returns", 0)
        hint = f", and {returns:,} rows are returns" if returns else ""
        raise DataRejected(
            f"{self.card['raw']}: no product has ever sold, no units are above zero{hint}; check the column of the "
            "units, in which returns, not sales, are negative"
        )

    def digest(self) -> str:
        """sha256 of the contents, which does not depend on the order of rows and files."""
        found = hashlib.sha256(repr((self.period, self.first, self.products, self.stores)).encode())
        if self.time_zone != UTC:
            found.update(self.time_zone.encode())
        for name, value in (
            ("units", self.units),
            ("known", self.is_known),
            ("censored", self.is_censored),
            *sorted(self.values.items()),
        ):
            found.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return found.hexdigest()


def build_panel(settings: PanelSettings, quarantine: Path, executor: Executor) -> Panel:
    """The panel of a family's raw sales; raises DataRejected for bad data, ValueError for bad flags.

    Rows of a file that agree in all its columns are duplicates, and one is kept. Units and revenue of a cell are
    summed, its price is the mean weighted by units, its stock that of the last row, promotion the largest. Bad rows are
    written to the directory `quarantine`.
    """
    check_panel_settings(settings)
    raw = getattr(settings, "raw", "")
    tables = find_tables(raw, reading_of(settings, format=settings.format))
    now_s = time.time()
    paths = [quarantine / f"{number:05d}.parquet" for number in range(len(tables.sources))]
    parts = list(executor.map(partial(_read, settings, now_s), tables.sources, paths))
    source = without_secrets(raw)
    rows = _merged(parts)
    card, notes = _counted(rows, settings, source), [*tables.notes(raw), *dict.fromkeys(rows.notes)]
    assert rows.table is not None
    table, card["duplicates"] = _distinct(rows.table)
    table = _one_currency(table, settings, source, card)
    return _panel(table, settings, rows, source, card=card, notes=notes)


def _read(settings: PanelSettings, now_s: float, source: Any, quarantine: Path) -> Rows:
    return read_rows(settings, source, quarantine, now_s)


def _merged(parts: Sequence[Rows]) -> Rows:
    whole = Rows()
    tables = [part.table for part in parts if part.table is not None]
    whole.table = pa.concat_tables(tables) if tables else None
    unreadable = [part.unreadable for part in parts if part.unreadable is not None]
    whole.unreadable = pa.concat_tables(unreadable) if unreadable else None
    for part in parts:
        whole.num_rows += part.num_rows
        for reason, count in part.bad.items():
            whole.bad[reason] = whole.bad.get(reason, 0) + count
        whole.examples = {**part.examples, **whole.examples}
        whole.samples = {**part.samples, **whole.samples}
        whole.columns |= part.columns
        whole.excluded |= part.excluded
        whole.notes += part.notes
    whole.bad = dict(sorted(whole.bad.items()))
    return whole


def _counted(rows: Rows, settings: PanelSettings, source: str) -> dict[str, Any]:
    """What the card says of the rows; raises DataRejected if there are none, or too many are bad."""
    if rows.num_rows == 0:
        raise DataRejected(f"{source} is empty: it has no sales")
    bad = {reason: count for reason, count in rows.bad.items() if reason != EXCLUDED}
    num_excluded = rows.bad.get(EXCLUDED, 0)
    if missing := sorted({str(id_text(each)) for each in settings.exclude_products} - rows.excluded):
        rows.notes.append(f"--exclude-products: {', '.join(map(repr, missing))} has no rows; check the spelling")
    if num_excluded == rows.num_rows:
        raise DataRejected(f"{source}: all rows are of products in --exclude-products")
    check_bad(
        source,
        bad,
        total=rows.num_rows,
        max_fraction=settings.max_bad_fraction,
        explained={reason: _explained(rows, reason) for reason, _ in most_frequent(bad)},
        num_skipped=num_excluded,
    )
    return {"raw": source, "rows": rows.num_rows, "bad": rows.bad}


def _explained(rows: Rows, reason: str) -> str:
    example = rows.examples.get(reason)
    return explain(reason, example, rows.samples.get(reason, ()), remedy=remedy_of(reason, example))


def _distinct(table: pa.Table) -> tuple[pa.Table, int]:
    """The rows in an order that depends on their contents alone, one of each that agree in all columns of the file."""
    frame = table.select(["product", "time", "content"]).to_pandas()
    order = frame.sort_values(["product", "time", "content"], kind="stable").index.to_numpy()
    content = frame["content"].to_numpy()[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = content[1:] != content[:-1]
    return table.take(pa.array(order[is_first])), int((~is_first).sum())


def _one_currency(table: pa.Table, settings: PanelSettings, source: str, card: dict[str, Any]) -> pa.Table:
    """The rows in one currency; raises DataRejected where there are several, and none is chosen."""
    found = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(table["currency"].combine_chunks()).to_pylist()
    }
    known = {name: count for name, count in sorted(found.items(), key=lambda one: -one[1]) if name is not None}
    wanted = settings.currency.upper()
    if wanted and known and wanted not in known:
        raise DataRejected(f"{source} has no prices in {wanted}; there are {', '.join(known)}: see --currency")
    if not wanted and len(known) > 1:
        counts = ", ".join(f"{name} ({count:,} rows)" for name, count in known.items())
        raise DataRejected(
            f"{source} has prices in {counts}: convert them to one currency, or keep the rows in one with "
            f"--currency {next(iter(known))}"
        )
    if wanted and len(known) > 1:
        is_other = pc.fill_null(pc.invert(pc.equal(table["currency"], wanted)), False)
        card["other_currency"] = pc.sum(is_other).as_py()
        table = table.filter(pc.invert(is_other))
    card["currency"] = wanted or next(iter(known), None)
    return table


def _panel(
    table: pa.Table, settings: PanelSettings, rows: Rows, source: str, *, card: dict[str, Any], notes: list[str]
) -> Panel:
    frame = table.select(["product", "store"]).to_pandas().fillna("")
    series, uniques = pd.MultiIndex.from_frame(frame).factorize(sort=True)
    series = np.asarray(series, np.int64)
    products = [str(product) for product, _ in uniques]
    has_stores = "store_id" in rows.columns
    stores = [str(store) for _, store in uniques] if has_stores else None
    times = table["time"].to_numpy()
    period = settings.period
    if period == "auto":
        period = choose_period(days_of(times), series, products, source=source)
    notes += _notes_on_dates(times, period)
    place = times if period == "number" else ordinals(days_of(times), period)
    first, num_periods = int(place.min()), int(place.max() - place.min()) + 1
    if len(products) * num_periods > MAX_CELLS:
        raise DataRejected(
            f"{source} has {len(products):,} series of {num_periods:,} periods, more than {MAX_CELLS:,} cells; sum to "
            "weeks with --period week, or prepare groups of products apart"
        )
    numbers = {name: table[name].to_numpy() for name in (*NUMBERS, *settings.more_numbers)}
    kept = without_returns(series * num_periods + place - first, numbers["units"], settings.returns, card)
    cells = sum_cells(
        series[kept],
        (place - first)[kept],
        {name: value[kept] for name, value in numbers.items()},
        shape=(len(products), num_periods),
        columns=rows.columns,
    )
    card["period"], card["time_zone"] = period, settings.time_zone
    is_known = _known(cells, settings, card, notes)
    lost = _unreadable(rows, list(uniques), period, first=first, shape=is_known.shape) & is_known & ~cells.has_row
    if lost.any():
        notes.append(f"in {int(lost.sum()):,} periods the units are not known, since their only row is in quarantine")
    is_known &= ~lost
    is_censored = cells.is_censored & is_known
    values, zone = cells.values, settings.time_zone
    return Panel(period, first, products, stores, cells.units, is_known, is_censored, values, card, notes, zone)


def _unreadable(
    rows: Rows, series: list[tuple[str, str]], period: Period, *, first: int, shape: tuple[int, ...]
) -> Bools:
    """The periods of series [S, T] of which a row could not be read, so that what was sold is not known."""
    found = np.zeros(shape, np.bool_)
    if rows.unreadable is None or not rows.unreadable.num_rows:
        return found
    number = {(str(product), str(store)): place for place, (product, store) in enumerate(series)}
    frame = rows.unreadable.select(["product", "store"]).to_pandas().fillna("")
    keys = zip(frame["product"].astype(str), frame["store"].astype(str), strict=True)
    places = np.array([number.get(key, -1) for key in keys], np.int64)
    times = rows.unreadable["time"].to_numpy()
    place = (times if period == "number" else ordinals(days_of(times), period)) - first
    inside = (places >= 0) & (place >= 0) & (place < shape[1])
    found[places[inside], place[inside]] = True
    return found


def _notes_on_dates(times: npt.NDArray[np.int64], period: Period) -> list[str]:
    """What is odd about the dates of the sales."""
    if period == "number":
        return []
    days, notes = days_of(times), []
    if longer := coarser(days, period):
        notes.append(
            f"all dates are one {longer} apart, as of sales by {longer}: --period {period} takes the days between them "
            f"for days without sales; leave it out, or use --period {longer}"
        )
    if found := early_dates(days):
        first, usual = (date_of(day, "day") for day in found)
        notes.append(
            f"the first sales are of {first}, and 99 % of the rows are of {usual} or later: remove rows before that if "
            "their dates are mistakes, since a product counts as one without sales after its first row"
        )
    return notes


def _known(cells: Cells, settings: PanelSettings, card: dict[str, Any], notes: list[str]) -> Bools:
    """Where units are known [S, T]: cells with a row and, unless zeros are listed, all after the first of a series."""
    has_row = cells.has_row
    zero_share = float((cells.units[has_row] == 0).mean()) if has_row.any() else 0.0
    lists_zeros = settings.gaps == "unknown" or (settings.gaps == "auto" and zero_share > MIN_ZERO_SHARE)
    card["gaps"] = "unknown" if lists_zeros else "zero"
    if settings.gaps == "auto" and lists_zeros:
        notes.append(
            f"{zero_share:.0%} of the rows have no units, so a period without a row is taken as unknown; with --gaps "
            "zero it is one without sales"
        )
    # A stock-out without a row of sales is no sale of zero, and stays censored.
    return has_row if lists_zeros else np.maximum.accumulate(has_row, axis=1)
