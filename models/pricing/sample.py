"""A made-up shop with known elasticities: weekly sales of rival products in two stores, whose prices move at random."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.sample import Question, Sample

FIRST_WEEK = date(2024, 1, 1)
NUM_WEEKS = 110
STORES = ("north", "south")
CATEGORIES = ("tea", "coffee", "cocoa")
PRODUCTS_A_CATEGORY = 4
ELASTICITIES = {"tea": -3.5, "coffee": -1.2, "cocoa": -2.2}
"""Own-price elasticities by category: tea earns more at lower prices, coffee at higher ones."""
MARGIN_COST = 0.55
"""Cost as a share of the usual price, with which cocoa's price is about right."""
CROSS = 0.15
"""Elasticity of demand in the price of each rival of the category."""
CHANGES = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.0, 0.05, 0.1)
"""Log price of a week less the usual one, drawn at random and kept for one to three weeks."""
LIFT = 0.4
"""What a promotion adds to log demand."""
NOISE = 0.15
OUT_SHARE, BAD = 0.02, 0.003
FIXED, ABOVE = "cocoa-3", "coffee-3"
"""A product that was never sold at two prices, and one whose cost is above its price."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shop:
    """Where the made-up sales are, and the products' usual prices and elasticities [P]."""

    sales: Path
    products: Path
    calendar: Path
    ids: tuple[str, ...]
    usual: Floats
    elasticity: Floats


def sample(directory: Path) -> Sample:
    """A small made-up shop for the demo, with questions whose right answers are known."""
    shop = write_sample(directory)
    within = "ladder: {step: 0.05, most_points: 9}\nlargest_change: {share: 0.1}"
    return Sample(
        prepare={"raw": str(shop.sales), "products": str(shop.products), "calendar": str(shop.calendar)},
        train={"network": "monotone", "epochs": 6, "hidden": 32, "trees": 60, "batch_size": 64, "learning_rate": 5e-3},
        questions=(
            Question(
                "tea, whose demand is elastic",
                {"products": ["tea-0", "tea-1", "tea-2"], "rules": within},
                f"lower prices: the elasticity is {ELASTICITIES['tea']:g} and the margin {1 - MARGIN_COST:.0%}",
            ),
            Question(
                "coffee, whose demand is not",
                {"products": ["coffee-0", "coffee-1", "coffee-2"], "stores": ["north"], "rules": within},
                f"higher prices: the elasticity is {ELASTICITIES['coffee']:g}",
            ),
            Question(
                "a product that was sold at one price, and one that costs more than its price",
                {"products": [FIXED, ABOVE]},
                "unchanged, each with its reason",
            ),
        ),
    )


def write_sample(directory: Path, *, num_weeks: int = NUM_WEEKS, seed: int = 0) -> Shop:
    """Write sales.parquet, products.csv and calendar.csv of a made-up shop; deterministic in its arguments."""
    draw = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    ids = tuple(f"{category}-{number}" for category in CATEGORIES for number in range(PRODUCTS_A_CATEGORY))
    elasticity = np.array([ELASTICITIES[name.split("-")[0]] for name in ids])
    usual = np.round(draw.uniform(3, 9, len(ids)), 1)
    change = _changes(ids, num_weeks, draw)
    promotion = draw.random((len(ids), num_weeks + 1)) < 0.1
    price = np.round(usual[:, None, None] * np.exp(change), 2)
    own = np.log(price) - np.log(usual)[:, None, None]
    group = np.arange(len(ids)) // PRODUCTS_A_CATEGORY
    sums = np.stack([own[group == number].sum(0) for number in group])
    level = np.log(draw.uniform(20, 80, (len(ids), len(STORES), 1)))
    season = 0.15 * np.sin(2 * np.pi * np.arange(num_weeks) / 52)
    logs = level + elasticity[:, None, None] * own + CROSS * (sums - own) + season
    logs = logs + LIFT * promotion[:, None, :num_weeks] + draw.normal(0, NOISE, own.shape)
    shop = Shop(
        directory / "sales.parquet", directory / "products.csv", directory / "calendar.csv", ids, usual, elasticity
    )
    pq.write_table(_sales(ids, price, draw.poisson(np.exp(logs)), draw), shop.sales)
    _write_products(shop)
    lines = [f"{_day(int(week))},{ids[int(number)]},1" for number, week in zip(*np.nonzero(promotion), strict=True)]
    shop.calendar.write_text("\n".join(["date,product_id,promotion", *lines]) + "\n", encoding="utf-8")
    return shop


def _changes(ids: tuple[str, ...], num_weeks: int, draw: np.random.Generator) -> Floats:
    """Log price less the usual one [products, stores, weeks]; the last week is at the usual price."""
    change = np.zeros((len(ids), len(STORES), num_weeks))
    for number, name in enumerate(ids):
        for store in range(len(STORES)):
            week = 0
            while week < num_weeks:
                length = int(draw.integers(1, 4))
                change[number, store, week : week + length] = 0.0 if name == FIXED else draw.choice(CHANGES)
                week += length
    change[:, :, -1] = 0.0
    return change


def _sales(ids: tuple[str, ...], price: Floats, demand: npt.NDArray[np.int64], draw: np.random.Generator) -> pa.Table:
    """A row for each product, store and week in the order of weeks, with a few bad ones and sold-out weeks."""
    is_out = (draw.random(demand.shape) < OUT_SHARE) & (demand > 1)
    sold = np.where(is_out, (0.6 * demand).astype(np.int64), demand)
    is_bad = draw.random(demand.shape) < BAD
    rows: dict[str, list[object]] = {
        name: [] for name in ("product_id", "store_id", "week", "units", "price", "stock_out")
    }
    for week, number, store in np.ndindex(demand.shape[2], len(ids), len(STORES)):
        place = (number, store, week)
        prices = [float(price[place])] + [0.0] * int(is_bad[place])  # a gift beside the sales
        for asked in prices:
            values = (
                ids[number],
                STORES[store],
                _day(week),
                int(sold[place]) if asked else 1,
                asked,
                bool(is_out[place]),
            )
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
    return pa.table(rows)


def _write_products(shop: Shop) -> None:
    lines = ["product_id,category,brand,size,cost"]
    for number, (name, price) in enumerate(zip(shop.ids, shop.usual.tolist(), strict=True)):
        cost = 1.1 * price if name == ABOVE else MARGIN_COST * price
        lines.append(
            f"{name},{name.split('-')[0]},{'Own' if number % 2 else 'Best'},{100 + 50 * (number % 3)} g,{cost:.2f}"
        )
    shop.products.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _day(week: int) -> str:
    return (FIRST_WEEK + timedelta(weeks=week)).isoformat()
