"""A made-up shop whose demand is known: products with weekdays, seasons and promotions, and stock that runs out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.sample import Question, Sample

CATEGORIES = ("tea", "coffee", "mugs", "spare parts")
FIRST_DAY = date(2024, 1, 1)
NUM_DAYS, NUM_PRODUCTS, HORIZON = 420, 24, 14
WEEKDAYS = (0.8, 0.7, 0.8, 0.9, 1.3, 1.6, 0.9)
"""Factors of demand from Monday to Sunday; their mean is 1."""
LIFT = 2.5
"""Factor of demand in a promotion."""
PROMOTION_EVERY, PROMOTION_DAYS = 20, 4
RARE_DEMAND = 0.15
"""Mean daily demand of spare parts, which is therefore intermittent."""
OUT_SHARE = 0.05
"""Share of days on which stock runs out before the demand is met."""
RETURNS, BAD, DUPLICATES = 0.004, 0.002, 0.004

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shop:
    """Where the made-up sales are, and the mean demand that they were drawn from."""

    sales: Path
    products: Path
    calendar: Path
    ids: tuple[str, ...]
    mean: Floats
    """[products, NUM_DAYS + HORIZON] mean demand of each day, in which the last ones have no sales yet."""
    promotions: npt.NDArray[np.bool_]
    """[products, NUM_DAYS + HORIZON]"""


def sample(directory: Path) -> Sample:
    """A small made-up shop for the demo, with questions whose right answers are known."""
    shop = write_sample(directory)
    usual = float(np.median(shop.mean[0][~shop.promotions[0]]))
    rare = shop.ids.index(next(name for name in shop.ids if name.startswith("spare")))
    return Sample(
        prepare={
            "raw": str(shop.sales),
            "products": str(shop.products),
            "calendar": str(shop.calendar),
            "horizon": HORIZON,
            "windows": 2,
        },
        train={
            "network": "tide",
            "epochs": 20,
            "dim": 32,
            "num_blocks": 1,
            "windows_per_epoch": 4000,
        },
        questions=(
            Question(
                "a product with weekdays and promotions",
                {"product_id": shop.ids[0], "lead_time": 7, "service_level": 0.95},
                f"{usual:.0f} on a usual day, twice that on Saturdays, {LIFT:g} times in a promotion",
            ),
            Question(
                "a spare part",
                {"product_id": shop.ids[rare], "horizon": 7},
                f"a mean of {RARE_DEMAND:g}, a median of 0",
            ),
            Question(
                "a history of the request",
                {"history": [3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 3.0] * 4, "horizon": 3},
                "between 3 and 4 a day, a little less on Monday to Wednesday if it learned the other products' weeks",
            ),
        ),
    )


def write_sample(directory: Path, *, num_days: int = NUM_DAYS, seed: int = 0) -> Shop:
    """Write sales.parquet, products.csv and calendar.csv of a made-up shop; deterministic in its arguments."""
    draw = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    categories = [CATEGORIES[number % len(CATEGORIES)] for number in range(NUM_PRODUCTS)]
    ids = tuple(f"{name.split()[0]}-{number:02d}" for number, name in enumerate(categories))
    total = num_days + HORIZON
    promotions = np.zeros((NUM_PRODUCTS, total), np.bool_)
    for number in range(NUM_PRODUCTS):
        for start in range(int(draw.integers(PROMOTION_EVERY)), total, PROMOTION_EVERY):
            promotions[number, start : start + PROMOTION_DAYS] = True
    mean = _mean_demand(categories, promotions, draw)
    demand = np.where(
        np.array([name == CATEGORIES[3] for name in categories])[:, None],
        draw.poisson(mean),
        draw.negative_binomial(12, 12 / (12 + mean)),
    )[:, :num_days]
    shop = Shop(
        directory / "sales.parquet", directory / "products.csv", directory / "calendar.csv", ids, mean, promotions
    )
    pq.write_table(_sales(ids, demand, draw), shop.sales)
    _write_products(shop.products, ids, categories, draw)
    _write_calendar(shop.calendar, ids, promotions)
    return shop


def _mean_demand(categories: list[str], promotions: npt.NDArray[np.bool_], draw: np.random.Generator) -> Floats:
    days = np.arange(promotions.shape[1])
    weekday = np.array(WEEKDAYS)[(days + FIRST_DAY.weekday()) % 7]
    year = 1 + 0.3 * np.sin(2 * np.pi * days / 365.25)
    base = np.array([RARE_DEMAND if name == CATEGORIES[3] else draw.uniform(4, 20) for name in categories])
    shape = weekday * year * np.where(promotions, LIFT, 1.0)
    is_rare = np.array([name == CATEGORIES[3] for name in categories])[:, None]
    found: Floats = np.where(is_rare, base[:, None], base[:, None] * shape)
    return found


def _sales(ids: tuple[str, ...], demand: npt.NDArray[np.int64], draw: np.random.Generator) -> pa.Table:
    """A row for each product and day in the order of days, with returns, bad rows and duplicates."""
    num_products, num_days = demand.shape
    is_out = (draw.random(demand.shape) < OUT_SHARE) & (demand > 1)
    sold = np.where(is_out, (demand * draw.uniform(0.2, 0.8, demand.shape)).astype(np.int64), demand)
    stock = np.where(is_out, 0, draw.integers(5, 60, demand.shape))
    order = [(day, number) for day in range(num_days) for number in range(num_products)]
    rows = [
        (ids[number], _day(day), int(sold[number, day]), 2.0 + number, int(stock[number, day])) for day, number in order
    ]
    chosen = draw.choice(len(rows), int(len(rows) * (RETURNS + BAD + DUPLICATES)), replace=False)
    extra: dict[int, tuple[str, str, int, float, int]] = {}
    for count, place in enumerate(chosen.tolist()):
        product, day, _, price, stock_left = rows[place]
        if count < len(rows) * RETURNS:
            extra[place] = (product, day, -1, price, stock_left)
        elif count < len(rows) * (RETURNS + BAD):
            extra[place] = (product, "soon", 1, price, stock_left)
        else:
            extra[place] = rows[place]
    pairs = ((row, extra.get(place)) for place, row in enumerate(rows))
    all_rows = [row for pair in pairs for row in pair if row is not None]
    names = ("product_id", "date", "units", "price", "stock")
    return pa.table({name: [row[place] for row in all_rows] for place, name in enumerate(names)})


def _write_products(path: Path, ids: tuple[str, ...], categories: list[str], draw: np.random.Generator) -> None:
    lines = ["product_id,category,cost,list_price"]
    for number, (product, category) in enumerate(zip(ids, categories, strict=True)):
        price = 2.0 + number
        lines.append(f"{product},{category},{price * draw.uniform(0.4, 0.7):.2f},{price:.2f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_calendar(path: Path, ids: tuple[str, ...], promotions: npt.NDArray[np.bool_]) -> None:
    lines = ["date,product_id,promotion"]
    for number, day in zip(*np.nonzero(promotions), strict=True):
        lines.append(f"{_day(int(day))},{ids[int(number)]},1")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _day(number: int) -> str:
    return (FIRST_DAY + timedelta(days=number)).isoformat()
