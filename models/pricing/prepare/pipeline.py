"""From raw sales to prepared data: a panel, split by time, as rows for demand models, sharded by demand group."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.prepared import CARD, SCHEMA
from models.pricing.design import YEARS, Design, design_of
from models.pricing.panel import Panel
from models.pricing.prepare.card import card_of
from models.pricing.prepare.groups import demand_groups
from models.pricing.prepare.rows import Sales, not_sold_lately, sales_of
from models.pricing.prepare.settings import PrepareConfig
from models.pricing.schema import BLOCKS, NUM_SHARDS, Product, Schema
from models.pricing.states import OfferState
from models.pricing.tables import TABLE_ARRAYS, table_of
from models.pricing.trust import Support, history_flags, support_of
from models.raw.demand import demand_classes
from models.raw.notes import counted, said_if_rejected
from models.raw.panel import Panel as SalesPanel
from models.raw.panel import build_panel
from models.raw.panel_tables import Products, read_ahead, read_products

LAYOUT = 1
"""Part of the fingerprint; incremented when the files or a rule of this package change."""
MIN_BLOCKS = 4
"""Blocks of training: each half of them needs two for bootstrap samples."""
MIN_COVERED = 0.5
"""A smaller share of the periods with sales means that the periods are too short."""


def prepare(config: PrepareConfig, out: Path, executor: Executor) -> Schema:
    """Fill the empty directory `out` from raw sales; raises DataRejected for bad data, ValueError for bad flags.

    The last share of the periods is the test split, half as many before it validation, and what is before these is
    trained on. Everything depends on the set of rows alone.
    """
    quarantine = out / "quarantine"
    quarantine.mkdir(parents=True)
    panel = build_panel(config, quarantine, executor)
    with said_if_rejected(panel.notes):
        _check_prices(panel)
        train_end, test_from = split_of(panel, config)
        panel, left_out = _selected(panel, config, train_end=train_end)
        products = read_products(config, panel, quarantine / "products.parquet")
        ahead = read_ahead(config, panel, quarantine / "calendar.parquet", horizon=1)
    sales = sales_of(panel, products, ahead, cost_share=config.cost_share, train_end=train_end)
    names = tuple(dict.fromkeys(panel.products))
    stores = tuple(sorted(set(panel.stores))) if panel.stores is not None else ("",)
    grouped, attribute = _grouped(names, sales, products, config, train_end=train_end)
    numbers = {name: place for place, name in enumerate(dict.fromkeys(grouped))}
    sizes = _sizes(names, panel, products)
    rows = sales.panel(names, stores, np.array([numbers[name] for name in grouped], np.int64), sizes)
    is_training = rows.row_period < train_end
    design = design_of(rows, is_training, periods_a_year=YEARS[panel.period])
    support = support_of(rows.rows(is_training))
    known = _products(rows, design, is_training, grouped, support, _texts(names, panel, products))
    schema = _schema(panel, sales, rows, design, known, config, train_end=train_end, test_from=test_from)
    offers = _offers(rows, design, schema, sales)
    classes = demand_classes(panel.units[:, :train_end], panel.is_known[:, :train_end])
    counts, digest = _write(out, rows, design, schema, offers, classes)
    digest.update(json.dumps([LAYOUT, schema.model_dump(mode="json")], sort_keys=True).encode())
    schema = schema.model_copy(update={"fingerprint": digest.hexdigest(), "num_examples": counts})
    card = card_of(
        panel, schema, sales, products, offers, left_out=left_out, classes=classes, support=support, group_by=attribute
    )
    card["notes"] += ahead.notes
    (out / SCHEMA).write_text(schema.model_dump_json(), encoding="utf-8")
    (out / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    return schema


def split_of(panel: SalesPanel, config: PrepareConfig) -> tuple[int, int]:
    """The first periods of validation and of test; raises DataRejected for too short a time."""
    source, num_periods = panel.card["raw"], panel.num_periods
    num_test = max(1, round(num_periods * config.test_share))
    num_val = max(1, round(num_test / 2))
    train_end = num_periods - num_test - num_val
    needed = MIN_BLOCKS * BLOCKS[panel.period]
    word = "period" if panel.period == "number" else panel.period
    if train_end < needed:
        raise DataRejected(
            f"{source} has {num_periods:,} {word}s of sales, from {panel.date(0)} to {panel.date(num_periods - 1)}, "
            f"which leaves {max(train_end, 0):,} to train on after {num_val} of validation and {num_test} of test; "
            f"prices need {needed:,}: give a longer history"
        )
    covered = float((panel.is_known & (panel.units > 0)).any(0).mean())
    if covered < MIN_COVERED:
        raise DataRejected(
            f"{source} has sales in {covered:.0%} of the {word}s: sum to longer periods, such as --period month"
        )
    return train_end, num_periods - num_test


def _check_prices(panel: SalesPanel) -> None:
    source = panel.card["raw"]
    panel.check_sold()
    if "price" not in panel.values or not np.isfinite(panel.values["price"]).any():
        raise DataRejected(
            f"{source} has no prices: name the column of the price of a unit, or of revenue, e.g. "
            "--columns price=UnitPrice"
        )


def _selected(panel: SalesPanel, config: PrepareConfig, *, train_end: int) -> tuple[SalesPanel, dict[str, int]]:
    """The series that can be priced and are wanted, and how many were left out for which reason."""
    is_priced = np.isfinite(panel.values["price"])
    sold = (panel.units > 0) & panel.is_known
    never = ~sold.any(1)
    unpriced = ~never & ~is_priced.any(1)
    is_new = ~never & ~unpriced & ~(sold & is_priced)[:, :train_end].any(1)
    left_out = {
        "never sold": int(never.sum()),
        "never with a price": int(unpriced.sum()),
        "no sales with a price before validation": int(is_new.sum()),
    }
    kept = np.flatnonzero(~(never | unpriced | is_new))
    if not len(kept):
        raise DataRejected(f"{panel.card['raw']}: no product can be priced: {counted(left_out)}; give a longer history")
    if config.best_sellers and config.best_sellers < len(kept):
        revenue = np.nan_to_num(panel.units * panel.values["price"])[kept, :train_end].sum(1, dtype=np.float64)
        best = np.sort(np.argsort(-revenue, kind="stable")[: config.best_sellers])
        left_out["not among the best sellers"] = len(kept) - len(best)
        kept = kept[best]
    return panel.take(kept), {reason: count for reason, count in left_out.items() if count}


def _grouped(
    names: tuple[str, ...], sales: Sales, products: Products, config: PrepareConfig, *, train_end: int
) -> tuple[list[str], str]:
    first = {int(place): row for row, place in reversed(list(enumerate(sales.product)))}
    texts = {name: [values[first[place]] for place in range(len(names))] for name, values in products.texts.items()}
    log_price = np.where(sales.has_row, np.log(sales.price), 0.0)[:, :train_end].sum(1)
    counts = np.bincount(sales.product, sales.has_row[:, :train_end].sum(1), len(names))
    usual = np.bincount(sales.product, log_price, len(names)) / np.maximum(counts, 1)
    return demand_groups(names, texts, usual, max_group=config.max_group)


def _sizes(names: tuple[str, ...], panel: SalesPanel, products: Products) -> np.ndarray:
    """The number that the size of each product begins with, such as 64 of `64 oz`; NaN for none."""
    found = dict(zip(panel.products, products.texts.get("size", [""] * len(panel.products)), strict=True))
    numbers = [re.match(r"\s*(\d+(?:\.\d+)?)", found[name]) for name in names]
    return np.array([float(number[1]) if number else np.nan for number in numbers])


def _schema(
    panel: SalesPanel,
    sales: Sales,
    rows: Panel,
    design: Design,
    products: tuple[Product, ...],
    config: PrepareConfig,
    *,
    train_end: int,
    test_from: int,
) -> Schema:
    units = rows.row_units
    return Schema(
        family="pricing",
        fingerprint="",
        num_shards=NUM_SHARDS,
        num_examples={},
        period=panel.period,
        first=panel.first,
        num_periods=panel.num_periods,
        train_end=train_end,
        test_from=test_from,
        products=products,
        stores=rows.stores,
        num_rivals=design.rivals.shape[1],
        context=design.names,
        promotions=sales.promotions,
        signals=sales.signal_names,
        is_count=bool((units == np.rint(units)).all()),
        unit=float(np.median(units[rows.row_period < train_end])),
        cost_share=config.cost_share,
        has_stores=panel.stores is not None,
        time_zone=panel.time_zone,
    )


def _texts(names: tuple[str, ...], panel: SalesPanel, products: Products) -> list[dict[str, str]]:
    """Category and brand of each product."""
    nothing = [""] * len(panel.products)
    found = {
        name: dict(zip(panel.products, products.texts.get(name, nothing), strict=True))
        for name in ("category", "brand")
    }
    return [{name: values[product] for name, values in found.items()} for product in names]


def _products(
    rows: Panel,
    design: Design,
    is_training: np.ndarray,
    grouped: list[str],
    support: list[Support],
    texts: list[dict[str, str]],
) -> tuple[Product, ...]:
    """What the schema says of each product."""
    counts = np.maximum(np.bincount(rows.row_product[is_training], minlength=len(rows.products)), 1)
    usual, level = (
        np.bincount(rows.row_product[is_training], values[is_training], len(rows.products)) / counts
        for values in (design.usual, design.level)
    )
    return tuple(
        Product(
            id=name,
            group=grouped[place],
            usual=float(usual[place]),
            level=float(level[place]),
            size=None if np.isnan(rows.product_size[place]) else float(rows.product_size[place]),
            flags=tuple((flag.name, flag.text) for flag in history_flags(support[place])),
            **texts[place],
        )
        for place, name in enumerate(rows.products)
    )


def _offers(rows: Panel, design: Design, schema: Schema, sales: Sales) -> list[OfferState]:
    """The offers of the period after the sales, by product and store."""
    quiet = {
        (int(product), int(store))
        for product, store, is_quiet in zip(sales.product, sales.store, not_sold_lately(sales), strict=True)
        if is_quiet
    }
    stock = {
        (int(product), int(store)): value
        for product, store, value in zip(sales.product, sales.store, sales.stock.tolist(), strict=True)
    }
    seen = dict(zip(stock, sales.seen.tolist(), strict=True))
    found = []
    for row in np.flatnonzero(rows.row_period == schema.num_periods).tolist():
        place = (int(rows.row_product[row]), int(rows.row_store[row]))
        product, cost = schema.products[place[0]], float(rows.row_cost[row])
        left, (lowest, highest) = stock[place], seen[place]
        cold = (("not sold lately", "it was not sold in the last 13 periods"),) if place in quiet else ()
        found.append(
            OfferState(
                product=product.id,
                store=schema.stores[place[1]],
                group=product.group,
                price=_plain(float(rows.row_price[row])),
                cost=None if np.isnan(cost) else _plain(cost),
                stock=None if np.isinf(left) else left,
                level=float(design.level[row]),
                usual=float(design.usual[row]),
                context=tuple(np.round(design.context[row], 6).tolist()),
                size=product.size,
                category=product.category,
                brand=product.brand,
                flags=(*product.flags, *cold),
                seen=None if np.isnan(lowest) else (_plain(lowest), _plain(highest)),
            )
        )
    return found


def _plain(value: float) -> float:
    """Without what single precision added to it, such as 6.8 instead of 6.800000190734863."""
    return float(f"{value:.7g}")


def _write(
    out: Path, rows: Panel, design: Design, schema: Schema, offers: list[OfferState], classes: np.ndarray
) -> tuple[dict[str, int], Any]:
    """Write the shards; returns the number of rows of each split, and the sha256 of all that was written."""
    digest = hashlib.sha256()
    table = table_of(rows, design, schema, classes)
    names = list(schema.groups)
    of_group = np.array([[_shard(group, store) for store in schema.stores] for group in names])
    shard = of_group[design.group, design.store]
    has_happened = design.period < schema.num_periods
    for number in range(NUM_SHARDS):
        directory = out / "shards" / f"{number:05d}"
        directory.mkdir(parents=True)
        chosen = np.flatnonzero((shard == number) & has_happened)
        for name in TABLE_ARRAYS:
            values = getattr(table, name)[chosen]
            np.save(directory / f"{name}.npy", values)
            digest.update(name.encode() + values.tobytes())
        own = [offer for offer in offers if _shard(offer.group, offer.store) == number]
        texts = [json.dumps(offer.as_row()) for offer in own]
        pq.write_table(pa.table({"offer": pa.array(texts, pa.string())}), directory / "offers.parquet")
        digest.update("\n".join(texts).encode())
    period, is_target = design.period[has_happened], ~design.censored[has_happened]
    counts = {
        "train": int((period < schema.train_end).sum()),
        "val": int(((period >= schema.train_end) & (period < schema.test_from) & is_target).sum()),
        "test": int(((period >= schema.test_from) & is_target).sum()),
    }
    return counts, digest


def _shard(group: str, store: str) -> int:
    return int(hashlib.sha256(repr((group, store)).encode()).hexdigest(), 16) % NUM_SHARDS
