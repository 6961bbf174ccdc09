"""Preparing public logs: the published counts, and every row of a dirty log accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Store
from models.errors import DataRejected
from models.recommender.prepare.settings import PrepareConfig
from tests.kit.logs import contents, is_empty, prepare, prepared

RETAIL: dict[str, Any] = {
    "columns": "user_id=CustomerID,item_id=StockCode,timestamp=InvoiceDate,"
    "quantity=Quantity,price=UnitPrice,session_id=InvoiceNo",
    "item_columns": "item_id=StockCode,title=Description",
}


@pytest.mark.real
def test_sequence_benchmarks_have_their_published_counts(shared_data: Path, store: Store) -> None:
    published = {
        "movielens_1m/ml-1m_sasrec.txt.gz": (6_040, 3_416, 999_611),
        "amazon_sequences/s3rec_Beauty.txt.gz": (22_363, 12_101, 198_502),
    }
    for name, counts in published.items():
        details = prepare(store, PrepareConfig(raw=str(shared_data / name), split="leave-one-out")).details
        assert (details["users"], details["items"], details["kept"]) == counts
        assert details["splits"]["test"] == {"events": counts[0], "users": counts[0]}
        assert details["rows"] == details["kept"]


@pytest.mark.real
def test_raw_online_retail_is_rejected_and_every_row_is_accounted_for(shared_data: Path, store: Store) -> None:
    raw = str(shared_data / "online_retail_uci" / "online_retail.parquet")
    with pytest.raises(DataRejected, match=r"10,624 quantity_not_positive.*--max-bad-fraction 0.02"):
        prepare(store, PrepareConfig(raw=raw, **RETAIL))
    assert is_empty(store)
    details = prepare(store, PrepareConfig(raw=raw, items=raw, max_bad_fraction=0.02, **RETAIL)).details
    assert details["rows"] == 541_909
    assert details["bad"] == {"negative_price": 2, "quantity_not_positive": 10_624}
    # The published clean rows of customers, 40 free items, and the good rows of the 135,080 without a customer.
    assert details["anonymous"] == {"stitched_events": 0, "events": 133_359, "sessions": 2_190}
    assert details["kept"] + details["duplicates"] == 397_884 + 40 + 133_359
    assert (details["users"], details["items"]) == (4_339 + 2_190, 3_941)
    assert (details["bots"]["users"], details["bots"]["events_in_600_s"]) == (0, 400)
    services = ("POST", "DOT", "M", "C2", "D", "S", "BANK CHARGES", "PADS", "CRUK", "AMAZONFEE", "B")
    goods = prepare(store, PrepareConfig(raw=raw, max_bad_fraction=0.02, exclude_items=services, **RETAIL)).details
    assert goods["bad"] == {"excluded_item": 2_915, "quantity_not_positive": 10_040}
    assert (goods["kept"], goods["duplicates"], goods["items"]) == (523_726, 5_228, 3_932)
    without = RETAIL["columns"].removesuffix(",session_id=InvoiceNo")
    customers = prepare(store, PrepareConfig(raw=raw, max_bad_fraction=0.27, columns=without)).details
    assert customers["bad"] == {"missing_user_id": 135_080, "quantity_not_positive": 8_905}
    assert (customers["kept"], customers["users"]) == (392_690, 4_339)
    titles = pq.read_table(Path(details["data"]) / "items.parquet").to_pylist()
    assert {"item_id": "85123A", "title": "WHITE HANGING HEART T-LIGHT HOLDER"} in titles


@pytest.mark.real
def test_online_retail_as_csv_with_float_customer_ids_gives_the_same_data(shared_data: Path, tmp_path: Path) -> None:
    raw = shared_data / "online_retail_uci" / "online_retail.parquet"
    table = pq.read_table(raw).slice(0, 60_000)
    pq.write_table(table, tmp_path / "log.parquet")
    users = pa.array([None if user is None else f"{user}.0" for user in table["CustomerID"].to_pylist()])
    table = table.set_column(table.column_names.index("CustomerID"), "CustomerID", users)
    pyarrow.csv.write_csv(table, tmp_path / "log.csv")
    found = [
        contents(prepared(Store(tmp_path / name), tmp_path / name / f"../log.{name}", max_bad_fraction=0.1, **RETAIL))
        for name in ("parquet", "csv")
    ]
    assert found[0] == found[1]
