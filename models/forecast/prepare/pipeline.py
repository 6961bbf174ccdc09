"""From raw sales to prepared data: a panel, split by time at rolling origins, sharded by series, fingerprinted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.forecast.prepare.settings import PrepareConfig
from models.forecast.schema import CENSORED, KNOWN, NUM_SHARDS, UNKNOWN, Schema
from models.prepared import CARD, SCHEMA
from models.raw.demand import CLASSES, demand_classes, price_support
from models.raw.notes import counted, said_if_rejected
from models.raw.panel import Panel, build_panel
from models.raw.panel_tables import Ahead, Products, read_ahead, read_products

LAYOUT = 1
"""Part of the fingerprint; incremented when the files or a rule of this package change."""
HORIZONS = {"day": 28, "week": 8, "month": 3, "number": 8}
MAX_CATEGORIES = 200

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


def prepare(config: PrepareConfig, out: Path, executor: Executor) -> Schema:
    """Fill the empty directory `out` from raw sales; raises DataRejected for bad data, ValueError for bad flags.

    The last `windows` horizons are the test windows and as many before them those of validation; what is before these
    is trained on. Everything depends on the set of rows alone.
    """
    quarantine = out / "quarantine"
    quarantine.mkdir(parents=True)
    panel = build_panel(config, quarantine, executor)
    with said_if_rejected(panel.notes):
        horizon = config.horizon or HORIZONS[panel.period]
        origins = _origins(panel, horizon, config)
        panel, left_out = _selected(panel, config, train_end=origins[0])
        products = read_products(config, panel, quarantine / "products.parquet")
        ahead = read_ahead(config, panel, quarantine / "calendar.parquet", horizon=horizon)
    static, codes = _categories(products, len(panel.products))
    classes = demand_classes(panel.units[:, : origins[0]], panel.is_known[:, : origins[0]])
    schema = _schema(panel, ahead, static, horizon=horizon, origins=origins)
    counts = _write(out, panel, ahead, codes, classes, schema)
    digest = hashlib.sha256(panel.digest().encode() + ahead.values.tobytes() + codes.tobytes())
    # The stores and the time zone are in the panel, and the digest of an earlier release stays that of the same sales.
    described = schema.model_dump(mode="json", exclude={"stores", "time_zone"})
    digest.update(json.dumps([LAYOUT, described, sorted(static)], sort_keys=True).encode())
    schema = schema.model_copy(update={"fingerprint": digest.hexdigest(), "num_examples": counts})
    card = _card(panel, products, ahead, schema, classes, left_out)
    (out / SCHEMA).write_text(schema.model_dump_json(), encoding="utf-8")
    (out / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    return schema


def _origins(panel: Panel, horizon: int, config: PrepareConfig) -> list[int]:
    """First periods of the windows of validation and test, in order; raises DataRejected for too short a time."""
    source, num_periods, needed = panel.card["raw"], panel.num_periods, (2 * config.windows + 2) * horizon
    if num_periods == 1:
        raise DataRejected(f"{source} has sales of one {_word(panel)} only, {panel.date(0)}: give a longer history")
    if num_periods < needed:
        possible = max(num_periods // (needed // horizon), 1)
        raise DataRejected(
            f"{source} has {num_periods:,} {_word(panel)}s of sales, from {panel.date(0)} to "
            f"{panel.date(num_periods - 1)}, and a horizon of {horizon} needs {needed:,}, with {config.windows} "
            f"window(s) each of validation and test: give a longer history, or --horizon {possible}"
        )
    count = 2 * config.windows
    return [num_periods - horizon * (count - number) for number in range(count)]


def _selected(panel: Panel, config: PrepareConfig, *, train_end: int) -> tuple[Panel, dict[str, int]]:
    """The series that can be forecast and are wanted, and how many were left out for which reason."""
    num_sold = ((panel.units > 0) & panel.is_known).sum(1)
    is_new = ~panel.is_known[:, :train_end].any(1)
    is_few = num_sold < max(config.min_sold, 1)
    left_out = {
        "never sold": int((num_sold == 0).sum()),
        f"fewer than {config.min_sold} periods with sales": int(((num_sold > 0) & is_few).sum()),
        "no sales before validation": int((is_new & ~is_few).sum()),
    }
    kept = np.flatnonzero(~is_few & ~is_new)
    source = panel.card["raw"]
    panel.check_sold()
    if not len(kept):
        remedy = "lower --min-sold, or give a longer history" if config.min_sold > 1 else "give a longer history"
        raise DataRejected(f"{source}: no product has enough sales: {counted(left_out)}; {remedy}")
    if config.best_sellers and config.best_sellers < len(kept):
        total = panel.units[kept, :train_end].sum(1, dtype=np.float64)
        best = np.sort(np.argsort(-total, kind="stable")[: config.best_sellers])
        left_out["not among the best sellers"] = len(kept) - len(best)
        kept = kept[best]
    return panel.take(kept), {reason: count for reason, count in left_out.items() if count}


def _categories(products: Products, num_series: int) -> tuple[dict[str, list[str]], Codes]:
    """Attribute -> its values, and the codes of each series [S, attributes]; rare values share the code 0."""
    static: dict[str, list[str]] = {}
    columns = []
    for name, texts in sorted(products.texts.items()):
        counted = Counter(text for text in texts if text)
        values = sorted(sorted(counted), key=lambda text: -counted[text])[:MAX_CATEGORIES]
        static[name] = ["", *values]
        codes = {value: code for code, value in enumerate(static[name])}
        columns.append([codes.get(text, 0) for text in texts])
    return static, np.array(columns, np.int64).reshape(len(columns), num_series).T.copy()


def _schema(panel: Panel, ahead: Ahead, static: dict[str, list[str]], *, horizon: int, origins: list[int]) -> Schema:
    half = len(origins) // 2
    sold = panel.units[:, : origins[0]]
    sold = sold[(sold > 0) & panel.is_known[:, : origins[0]]]
    return Schema(
        family="forecast",
        fingerprint="",
        num_shards=NUM_SHARDS,
        num_examples={},
        period=panel.period,
        first=panel.first,
        num_periods=panel.num_periods,
        horizon=horizon,
        val_origins=origins[:half],
        test_origins=origins[half:],
        ahead=ahead.names,
        ahead_scale=[float(np.abs(ahead.values[..., place]).max()) or 1.0 for place in range(len(ahead.names))],
        static=static,
        has_stores=panel.stores is not None,
        time_zone=panel.time_zone,
        stores=sorted(set(panel.stores or ())),
        is_count=bool((panel.units == np.rint(panel.units)).all()),
        unit=float(np.median(sold)) if len(sold) else 1.0,
    )


def _write(out: Path, panel: Panel, ahead: Ahead, codes: Codes, classes: Codes, schema: Schema) -> dict[str, int]:
    """Write the shards; returns the number of windows of each split."""
    status = np.where(panel.is_censored, CENSORED, np.where(panel.is_known, KNOWN, UNKNOWN)).astype(np.uint8)
    keys = list(zip(panel.products, panel.stores or [""] * len(panel.products), strict=True))
    shard = np.array([int(hashlib.sha256(repr(key).encode()).hexdigest(), 16) % NUM_SHARDS for key in keys])
    counts = {"train": 0, "val": 0, "test": 0}
    for number in range(NUM_SHARDS):
        rows = np.flatnonzero(shard == number)
        directory = out / "shards" / f"{number:05d}"
        directory.mkdir(parents=True)
        values = ahead.values[rows] if ahead.names else np.zeros((len(rows), 0, 0), np.float32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "units": panel.units[rows],
            "status": status[rows],
            "ahead": values,
            "static": codes[rows],
            "classes": classes[rows],
        }
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array)
        products = [panel.products[row] for row in rows]
        stores = [(panel.stores or [""] * len(keys))[row] for row in rows]
        table = pa.table({"product_id": pa.array(products, pa.string()), "store_id": pa.array(stores, pa.string())})
        pq.write_table(table, directory / "series.parquet")
        for split, origins in (("val", schema.val_origins), ("test", schema.test_origins)):
            counts[split] += len(held_out(status[rows], origins, schema.horizon))
        counts["train"] += int(training_windows(status[rows], schema).sum())
    if not counts["train"]:
        raise DataRejected(
            f"{panel.card['raw']}: no series has a whole horizon of sales to train on; shorten --horizon"
        )
    return counts


def held_out(status: npt.NDArray[np.uint8], origins: list[int], horizon: int) -> list[tuple[int, int]]:
    """(series, origin) of the windows with a known period before and within."""
    return [
        (int(row), origin)
        for origin in origins
        for row in np.flatnonzero(
            (status[:, :origin] != UNKNOWN).any(1) & (status[:, origin : origin + horizon] == KNOWN).any(1)
        )
    ]


def training_windows(status: npt.NDArray[np.uint8], schema: Schema) -> Codes:
    """The number of training windows of each series, whose last one ends where validation begins."""
    known = status[:, : schema.train_end] != UNKNOWN
    start = np.where(known.any(1), known.argmax(1), schema.train_end)
    found: Codes = np.maximum(schema.train_end - schema.horizon - start, 0)
    return found


def _card(
    panel: Panel, products: Products, ahead: Ahead, schema: Schema, classes: Codes, left_out: dict[str, int]
) -> dict[str, Any]:
    found = np.bincount(classes, minlength=len(CLASSES))
    by_class = {name: int(count) for name, count in zip(CLASSES, found, strict=True)}
    censored = int(panel.is_censored.sum())
    card = {
        **panel.card,
        "family": "forecast",
        "fingerprint": schema.fingerprint,
        "bad": {**panel.card["bad"], **products.card.get("bad", {})},
        "series": len(panel.products),
        "left_out": left_out,
        "periods": {"period": panel.period, "from": panel.date(0), "to": panel.date(panel.num_periods - 1)},
        "splits": {name: {"windows": count} for name, count in schema.num_examples.items()},
        "windows_from": {
            name: [schema.date(origin) for origin in origins]
            for name, origins in (("val", schema.val_origins), ("test", schema.test_origins))
        },
        "demand_classes": by_class,
        "censored": censored,
        **{name: value for name, value in products.card.items() if name != "bad"},
        "notes": [*panel.notes, *products.notes, *ahead.notes, *_notes(panel, schema, by_class, censored, left_out)],
    }
    if "price" in panel.values:
        support = price_support(panel.values["price"], panel.units)
        card["prices"] = {
            "series_of_one_price": int((support["distinct_prices"] <= 1).sum()),
            "median_distinct_prices": float(np.median(support["distinct_prices"])),
            "mean_off_price_share": float(np.nan_to_num(support["off_price_share"]).mean()),
        }
    return card


def _notes(
    panel: Panel, schema: Schema, by_class: dict[str, int], censored: int, left_out: dict[str, int]
) -> list[str]:
    """What people are told of the series."""
    notes = [f"{count:,} series are left out: {reason}" for reason, count in left_out.items()]
    notes.append(
        f"{panel.num_periods:,} {_word(panel)}s from {panel.date(0)} to {panel.date(panel.num_periods - 1)}; "
        f"validation begins at {schema.date(schema.val_origins[0])}, test at {schema.date(schema.test_origins[0])}"
    )
    notes.append("demand: " + ", ".join(f"{count:,} {name}" for name, count in by_class.items() if count))
    if censored:
        notes.append(f"in {censored:,} periods stock ran out: demand was at least what was sold")
    return notes


def _word(panel: Panel) -> str:
    return "period" if panel.period == "number" else panel.period
