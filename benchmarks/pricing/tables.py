"""Writes Dominick's orange juice (`oj_panel.parquet` of bayesm) as the tables that `shopkeeper prepare pricing` reads.

    python -m benchmarks.pricing.tables --data oj_panel.parquet --out oj

makes `sales.parquet`, with a row for each brand, store and week, `calendar.parquet` with deals and features, and
`products.csv`, in which all brands are one demand group. Prices and units are of 64 ounces, costs follow from the
margin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.pricing.data import FIRST_WEEK, orange_juice


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    panel, out = orange_juice(Path(arguments.data)), Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    deal, feature = panel.row_promotion.T
    sales = {
        "product_id": np.array(panel.products)[panel.row_product],
        "store_id": np.array(panel.stores)[panel.row_store],
        "week": panel.row_period + FIRST_WEEK,
        "units": panel.row_units,
        "price": panel.row_price,
        "cost": np.maximum(panel.row_cost, 0.0),
    }
    pq.write_table(pa.table({name: pa.array(column) for name, column in sales.items()}), out / "sales.parquet")
    known = {"week": sales["week"], "product_id": sales["product_id"], "store_id": sales["store_id"]}
    calendar = {**known, "deal": deal, "feature": feature}
    is_set = (deal != 0) | (feature != 0)
    table = pa.table({name: pa.array(column[is_set]) for name, column in calendar.items()})
    pq.write_table(table, out / "calendar.parquet")
    lines = ["product_id,group", *(f"{product},orange juice" for product in panel.products)]
    (out / "products.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
