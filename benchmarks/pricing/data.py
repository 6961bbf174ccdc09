"""Public data as panels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from models.pricing.panel import Panel

OUNCES = 64
NUM_BRANDS = 11
FIRST_WEEK = 40


def orange_juice(path: Path) -> Panel:
    """Dominick's orange juice (`oj_panel.parquet` of bayesm): units and prices of 64 ounces, cost from the margin."""
    columns = pq.read_table(path)
    table = {name: columns[name].to_numpy() for name in columns.column_names}
    brand = table["brand"].astype(np.int64) - 1
    stores, store = np.unique(table["store"], return_inverse=True)
    prices = np.stack([table[f"price{number + 1}"] for number in range(NUM_BRANDS)], axis=1)
    price = OUNCES * prices[np.arange(len(brand)), brand]
    names = dict(zip(brand.tolist(), table["brand_name"].tolist(), strict=True))
    return Panel(
        products=tuple(names[number] for number in range(NUM_BRANDS)),
        stores=tuple(str(number) for number in stores),
        row_product=brand,
        row_store=store.astype(np.int64),
        row_period=table["week"].astype(np.int64) - FIRST_WEEK,
        row_units=np.exp(table["logmove"]) / OUNCES,
        row_price=price,
        row_cost=price * (1 - table["profit"] / 100),
        row_stock=np.full(len(brand), np.inf),
        row_promotion=np.stack([table["deal"].astype(float), table["feat"]], axis=1),
        row_signals=np.zeros((len(brand), 0)),
        product_group=np.zeros(NUM_BRANDS, np.int64),
        product_size=np.ones(NUM_BRANDS),
    )
