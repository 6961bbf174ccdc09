"""Tables beside the sales of a panel: attributes of products, and what is known ahead, such as promotions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.ids import as_text
from models.raw.joins import join_ids
from models.raw.mapping import parse_mapping
from models.raw.panel import Panel
from models.raw.panel_rows import find_names, identifier, read_numbers, read_periods
from models.raw.panel_settings import PanelSettings
from models.raw.periods import days_of, ordinals
from models.raw.quarantine import Quarantine
from models.raw.reading import item_reading_of, reading_of
from models.raw.rejections import Rejections
from models.raw.tables import find_tables, read, without_secrets

PRODUCT_TABLE = "product table"
PRODUCT_NUMBERS = ("cost", "list_price", "stock")
PRODUCT_TEXTS = ("category", "size")
PROMOTION = "promotion"
_AHEAD_S = 5 * 366 * 86_400

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Products:
    """Attributes of the products of a panel's series."""

    numbers: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Those of PRODUCT_NUMBERS that the table has, of each series [S]; NaN where missing."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """Those of PRODUCT_TEXTS and the family's more_texts, of each series [S]; empty where missing."""
    card: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ahead:
    """What is known ahead, such as promotions and holidays, in the periods of a panel and after them."""

    names: list[str] = field(default_factory=list)
    """Columns of numbers, in order."""
    values: Floats = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    """[S, T + horizon, columns], 0 where the calendar has no row."""
    notes: list[str] = field(default_factory=list)


def read_products(settings: PanelSettings, panel: Panel, quarantine: Path) -> Products:
    """The product table joined to a panel; raises DataRejected if no product matches."""
    if settings.products is None:
        return Products()
    name = without_secrets(settings.products)
    rows, bad, repeated = _all_products(settings, quarantine)
    products = pa.array(sorted(set(panel.products)), pa.string())
    join = join_ids(
        products,
        pa.array(sorted(rows), pa.string()),
        names=("the sales", f"the {PRODUCT_TABLE} {name}"),
        remedy="name the column of the ids: --product-columns product_id=...",
    )
    notes = list[str]()
    if join.table_ids > join.table_matched:
        notes.append(f"{join.table_ids - join.table_matched:,} products of the {PRODUCT_TABLE} have no sales")
    if repeated:
        notes.append(f"{repeated:,} rows of the {PRODUCT_TABLE} contradict another of their product; one was taken")
    found = {column for row in rows.values() for column in row}
    return Products(
        {
            column: np.array([rows.get(each, {}).get(column, np.nan) for each in panel.products], np.float64)
            for column in PRODUCT_NUMBERS
            if column in found
        },
        {
            column: [rows.get(each, {}).get(column) or "" for each in panel.products]
            for column in (*PRODUCT_TEXTS, *settings.more_texts)
            if column in found
        },
        card={"bad": bad, "joins": {PRODUCT_TABLE: asdict(join)}},
        notes=notes,
    )


@dataclass
class _Calendar:
    """What was read of a calendar so far."""

    shape: tuple[int, int]
    values: dict[str, Floats] = field(default_factory=dict)
    """[S, T + horizon] of each column, NaN where there is no row."""
    unknown: set[str] = field(default_factory=set)
    """Products without a series."""
    num_outside: int = 0
    """Good rows of other periods."""
    num_contradicting: int = 0

    def add(self, name: str, series: Sequence[int], place: int, value: float) -> bool:
        """Keep the largest value of a period; whether another one was there."""
        target = self.values[name]
        before = target[series, place]
        target[series, place] = np.fmax(before, value)
        return bool((np.isfinite(before) & (before != np.float32(value))).any())


def read_ahead(settings: PanelSettings, panel: Panel, quarantine: Path, *, horizon: int) -> Ahead:
    """What is known in the periods of a panel and the `horizon` after it; raises DataRejected for a bad calendar.

    That is what the calendar says, and the promotions of the sales: after these only the calendar knows any.
    """
    shape = (len(panel.products), panel.num_periods + horizon)
    ahead = Ahead(values=np.zeros((*shape, 0), np.float32))
    if settings.calendar is not None:
        ahead = _read_calendar(settings, panel, quarantine, shape)
    own = panel.values.get(PROMOTION)
    if own is None:
        return ahead
    padded = np.pad(np.nan_to_num(own), ((0, 0), (0, horizon)))
    if PROMOTION not in ahead.names:
        return Ahead([*ahead.names, PROMOTION], np.concatenate([ahead.values, padded[:, :, None]], 2), ahead.notes)
    place = ahead.names.index(PROMOTION)
    ahead.values[:, :, place] = np.maximum(ahead.values[:, :, place], padded)
    return ahead


def _read_calendar(settings: PanelSettings, panel: Panel, quarantine: Path, shape: tuple[int, int]) -> Ahead:
    assert settings.calendar is not None
    found = _Calendar(shape)
    with Quarantine(quarantine) as bad:
        for source in find_tables(settings.calendar, reading_of(settings)).sources:
            for chunk in read(source):
                for reason, lines in chunk.broken.items():
                    bad.add_lines(lines, reason=reason, source=source.path)
                if chunk.rows.num_rows:
                    _add_ahead(chunk.rows, settings, panel, found, source=source.path, bad=bad)
        counts = dict(bad.counts)
    if not found.values:
        raise DataRejected(
            f"{without_secrets(settings.calendar)} has no column of numbers, such as promotion or holiday"
        )
    names = sorted(found.values)
    values = np.stack([found.values[name] for name in names], -1)
    return Ahead(names, np.nan_to_num(values), [*_known_ahead(values, names, panel), *_unused(found, counts, panel)])


def _known_ahead(values: Floats, names: Sequence[str], panel: Panel) -> list[str]:
    """From when to when the calendar says something."""
    places = np.flatnonzero(np.isfinite(values).any((0, 2)))
    told = f"known ahead: {', '.join(names)}"
    if not len(places):
        return [told]
    first, last = panel.date(int(places[0])), panel.date(int(places[-1]))
    notes = [f"{told}, from {first} to {last}; 0 in other periods, and where a product or store has no row"]
    if places[-1] < panel.num_periods:
        notes.append(f"the calendar ends with {last} and says nothing of the periods after the sales; add them")
    return notes


def _unused(found: _Calendar, bad: dict[str, int], panel: Panel) -> list[str]:
    """What of the calendar is not used, and why."""
    notes = []
    if bad:
        notes.append(f"{sum(bad.values()):,} rows of the calendar are bad: {', '.join(sorted(bad))}")
    if found.num_contradicting:
        notes.append(
            f"{found.num_contradicting:,} rows of the calendar contradict another of their period; the largest value "
            "was taken"
        )
    if found.num_outside:
        notes.append(
            f"{found.num_outside:,} rows of the calendar are not used: they are before {panel.date(0)} or after "
            f"{panel.date(found.shape[1] - 1)}, the last period of a forecast"
        )
    if found.unknown:
        notes.append(f"the calendar has {len(found.unknown):,} products without sales, such as {min(found.unknown)!r}")
    return notes


def _all_products(settings: PanelSettings, quarantine: Path) -> tuple[dict[str, dict[str, Any]], dict[str, int], int]:
    """The attributes of every product of the table, bad rows by reason, and how many contradict another."""
    assert settings.products is not None
    mapping = parse_mapping(settings.product_columns)
    texts = (*PRODUCT_TEXTS, *settings.more_texts)
    rows: dict[str, dict[str, Any]] = {}
    repeated = 0
    with Quarantine(quarantine) as bad:
        for source in find_tables(settings.products, item_reading_of(settings)).sources:
            for chunk in read(source):
                for reason, lines in chunk.broken.items():
                    bad.add_lines(lines, reason=f"{PRODUCT_TABLE}: {reason}", source=source.path)
                for product, row in _product_rows(chunk.rows, mapping, source.path, bad, texts):
                    other = rows.setdefault(product, row)
                    if other != row:
                        repeated += 1
                        rows[product] = min(other, row, key=repr)
    return rows, dict(bad.counts), repeated


def _product_rows(
    rows: pa.Table, mapping: dict[str, str], source: str, bad: Quarantine, wanted: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Product and attributes of each good row; `wanted` are the columns of texts."""
    if not rows.num_rows:
        return []
    columns = find_names(rows.column_names, mapping, ("product_id", *PRODUCT_NUMBERS, *wanted))
    wrong = next((theirs for theirs in columns.values() if rows.column_names.count(theirs) != 1), None)
    if wrong is not None or "product_id" not in columns:
        raise DataRejected(
            f"{source} has no column {wrong or 'product_id'!r}; its columns are: {', '.join(rows.column_names)}. "
            "Name them, e.g. --product-columns product_id=StockCode,category=Department"
        )
    rejections = Rejections(rows.num_rows)
    get = {ours: rows[theirs].combine_chunks() for ours, theirs in columns.items()}
    product = identifier(get["product_id"], "product_id", rejections)
    numbers = {name: read_numbers(get[name], name, rejections) for name in PRODUCT_NUMBERS if name in get}
    for name, value in numbers.items():
        rejections.add(value < 0, f"negative_{name}", values=get[name])
    texts = {name: as_text(get[name])[0].to_pylist() for name in wanted if name in get}
    if rejections.names:
        rejected = rows.filter(pa.array(rejections.codes > 0))
        reasons = pa.array([f"{PRODUCT_TABLE}: {reason}" for reason in rejections.reasons().to_pylist()], pa.string())
        bad.add_rows(rejected, reasons=reasons, source=source)
    return [
        (
            each,
            {name: float(value[row]) for name, value in numbers.items() if np.isfinite(value[row])}
            | {name: value[row] for name, value in texts.items()},
        )
        for row, each in enumerate(product.to_pylist())
        if rejections.codes[row] == 0
    ]


def _add_ahead(
    rows: pa.Table, settings: PanelSettings, panel: Panel, found: _Calendar, *, source: str, bad: Quarantine
) -> None:
    """Add some rows of the calendar."""
    columns = find_names(rows.column_names, {}, ("timestamp", "product_id", "store_id"))
    if "timestamp" not in columns:
        raise DataRejected(f"{source} has no column 'date'; its columns are: {', '.join(rows.column_names)}")
    rejections = Rejections(rows.num_rows)
    get = {ours: rows[theirs].combine_chunks() for ours, theirs in columns.items()}
    times = read_periods(get["timestamp"], settings, rejections, now_s=time.time() + _AHEAD_S)
    numbers = {
        name: read_numbers(rows[name].combine_chunks(), name, rejections)
        for name in rows.column_names
        if name not in columns.values() and _is_numeric(rows[name])
    }
    if rejections.names:
        bad.add_rows(rows.filter(pa.array(rejections.codes > 0)), reasons=rejections.reasons(), source=source)
    whole = pc.fill_null(times, 0).to_numpy(zero_copy_only=False)
    place = (whole if panel.period == "number" else ordinals(days_of(whole), panel.period)) - panel.first
    good = (rejections.codes == 0) & (place >= 0) & (place < found.shape[1])
    names = [name for name in ("product_id", "store_id") if name in get]
    texts: dict[str, list[str | None]] = {name: as_text(get[name])[0].to_pylist() for name in names}
    series = _series_of(panel, texts, rows.num_rows)
    for name in numbers:
        found.values.setdefault(name, np.full(found.shape, np.nan, np.float32))
    for row in np.flatnonzero(good):
        known = {name: float(value[row]) for name, value in numbers.items() if np.isfinite(value[row])}
        other = [found.add(name, series[int(row)], int(place[row]), value) for name, value in known.items()]
        found.num_contradicting += any(other)
    found.unknown |= {each for each in texts.get("product_id", ()) if each is not None} - set(panel.products)
    found.num_outside += int((rejections.codes == 0).sum() - good.sum())


def _series_of(panel: Panel, texts: dict[str, list[str | None]], num_rows: int) -> Sequence[Any]:
    """The series that each row of the calendar is about: all, those of a product or of a store, or one of both."""
    stores = panel.stores or [""] * len(panel.products)
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for place, (product, store) in enumerate(zip(panel.products, stores, strict=True)):
        for key in {(product, store), (product, None), (None, store), (None, None)}:
            groups.setdefault(key, []).append(place)
    nothing: list[str | None] = [None] * num_rows
    pairs = zip(texts.get("product_id", nothing), texts.get("store_id", nothing), strict=True)
    return [groups.get(pair, []) for pair in pairs]


def _is_numeric(column: pa.ChunkedArray) -> bool:
    """Whether a column holds numbers, or flags; names of holidays, say, are not."""
    rejections = Rejections(len(column))
    numbers = read_numbers(column.combine_chunks(), "value", rejections)
    return int((rejections.codes > 0).sum()) < int(np.isfinite(numbers).sum())
