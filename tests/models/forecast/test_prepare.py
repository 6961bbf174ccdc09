"""Preparing sales for forecasts: windows by time, series that are left out, and sales that cannot be forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import DataRejected
from models.forecast.config import Config
from models.forecast.data import Window, dataset, key_of, series_rows
from models.forecast.networks.build import resolve
from models.forecast.prepare.settings import PrepareConfig
from models.forecast.schema import CENSORED, KNOWN, Schema
from models.prepared import Prepared
from tests.models.forecast.kit import prepared, sales_file, schema_of

DAYS = 60


def windows(data: Prepared, split: str, **settings: Any) -> list[Window]:
    schema = schema_of(data)
    config = resolve(Config(**settings), schema)
    found = dataset(data, split, range(schema.num_shards), schema=schema, config=config, epoch=1)
    return [found[row] for row in range(len(found))]


def counting(product: int = 1) -> list[int]:
    """Units that say which day it is."""
    return [product * 1000 + day for day in range(DAYS)]


def test_the_last_horizons_are_test_and_validation_and_training_never_sees_them(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", raw=str(sales_file(tmp_path / "s.csv", {"a": counting()})), horizon=7)

    (val,), (test,), train = (windows(data, split, context=14) for split in ("val", "test", "train"))

    assert test.target.tolist() == [1000 + day for day in range(DAYS - 7, DAYS)]
    assert val.target.tolist() == [1000 + day for day in range(DAYS - 14, DAYS - 7)]
    assert val.units.tolist() == [1000 + day for day in range(DAYS - 28, DAYS - 14)]
    assert max(window.target.max() for window in train) == 1000 + DAYS - 15
    assert len(train) == data.schema(Schema).num_examples["train"] == DAYS - 14 - 7
    assert data.card()["windows_from"] == {"val": ["2024-02-16"], "test": ["2024-02-23"]}


def test_more_windows_roll_their_origins_back(tmp_path: Path) -> None:
    raw = str(sales_file(tmp_path / "s.csv", {"a": counting()}))

    schema = schema_of(prepared(tmp_path / "data", raw=raw, horizon=5, windows=2))

    assert schema.test_origins == [DAYS - 10, DAYS - 5] and schema.val_origins == [DAYS - 20, DAYS - 15]


def test_what_is_before_the_first_sale_is_not_known_and_what_is_after_the_last_one_is_zero(tmp_path: Path) -> None:
    sold: list[object] = [*[None] * 50, 3, 3, *[None] * 8]
    steady: list[object] = [2] * DAYS
    data = prepared(
        tmp_path / "data",
        raw=str(sales_file(tmp_path / "s.csv", {"a": steady, "new": [2] * 40, "late": sold})),
        horizon=5,
    )

    of_series = dict(series_rows(data))

    assert set(of_series) == {"a", "new"}
    assert of_series["new"]["units"][-1] == 0 and of_series["new"]["status"] == str(KNOWN) * DAYS
    assert data.card()["left_out"] == {"no sales before validation": 1}


def test_periods_without_stock_are_not_targets_but_stay_in_the_history_as_censored(tmp_path: Path) -> None:
    rows: list[object] = [f"{4},{0 if day in (20, 58) else 9}" for day in range(DAYS)]
    raw = sales_file(tmp_path / "s.csv", {"a": rows}, more=",stock")
    data = prepared(tmp_path / "data", raw=str(raw), horizon=5)

    (test,) = windows(data, "test", context=40)

    assert test.target_status.tolist() == [KNOWN, KNOWN, KNOWN, CENSORED, KNOWN]
    assert np.flatnonzero(test.status == CENSORED).tolist() == [20 - (DAYS - 5 - 40)]
    assert data.card()["censored"] == 2


def test_best_sellers_are_those_before_validation(tmp_path: Path) -> None:
    units: dict[str, Any] = {"early": [9] * 40 + [0] * 20, "late": [1] * 50 + [500] * 10, "rare": [1] * 60}
    raw = str(sales_file(tmp_path / "s.csv", units))

    data = prepared(tmp_path / "data", raw=raw, horizon=5, best_sellers=1)

    assert [key for key, _ in series_rows(data)] == ["early"]


def test_series_of_stores_are_apart(tmp_path: Path) -> None:
    raw = tmp_path / "s.csv"
    lines = [f"{store},a,2024-01-{day:02d},{store}" for store in (1, 2) for day in range(1, 31)]
    raw.write_text("\n".join(["store_id,product_id,date,units", *lines]), encoding="utf-8")

    data = prepared(tmp_path / "data", raw=str(raw), horizon=4)

    found = {key: value["units"][-1] for key, value in series_rows(data)}
    assert found == {key_of("a", "1"): 1, key_of("a", "2"): 2} and schema_of(data).has_stores


def test_the_same_sales_have_the_same_fingerprint_and_other_ones_another(tmp_path: Path) -> None:
    raw = str(sales_file(tmp_path / "s.csv", {"a": counting()}))
    other = str(sales_file(tmp_path / "o.csv", {"a": [*counting()[:-1], 7]}))

    first, again, changed = (
        schema_of(prepared(tmp_path / name, raw=path, horizon=5))
        for name, path in (("1", raw), ("2", raw), ("3", other))
    )

    assert first == again and first.fingerprint != changed.fingerprint
    assert schema_of(prepared(tmp_path / "4", raw=raw, horizon=6)).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("units", "settings", "message"),
    [
        ({"a": [3]}, {}, r"sales of one day only, 2024-01-01"),
        ({"a": [0] * 60}, {"horizon": 5}, "no product has ever sold"),
        ({"a": [1] * 30}, {"horizon": 10}, r"30 days of sales.*needs 40.*--horizon 7"),
        ({"a": [1] * 30}, {"horizon": 3, "min_sold": 31}, "1 fewer than 31 periods with sales; lower --min-sold"),
        ({"a": [-1] * 60}, {"horizon": 5}, "no product has ever sold.*60 rows are returns"),
    ],
)
def test_sales_that_cannot_be_forecast_are_refused(
    tmp_path: Path, units: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataRejected, match=message):
        prepared(tmp_path / "data", raw=str(sales_file(tmp_path / "s.csv", units)), gaps="zero", **settings)


def test_a_model_of_days_is_not_evaluated_on_weeks(tmp_path: Path) -> None:
    raw = str(sales_file(tmp_path / "s.csv", {"a": counting()}))
    days = schema_of(prepared(tmp_path / "days", raw=raw, horizon=5))
    weeks = prepared(tmp_path / "weeks", raw=raw, horizon=1, period="week")

    with pytest.raises(ValueError, match="the model forecasts days and the prepared data have weeks"):
        dataset(weeks, "test", [0], schema=days, config=resolve(Config(), days), epoch=0)


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(ValueError, match="--horizon is -1"):
        PrepareConfig(raw="x", horizon=-1)


@pytest.mark.real
def test_car_parts_are_those_of_the_published_comparison(shared_data: Path, tmp_path: Path) -> None:
    raw = shared_data / "car_parts" / "car_parts.parquet"

    data = prepared(tmp_path / "data", raw=str(raw), columns="product_id=part", min_sold=16, horizon=3)

    test = windows(data, "test")
    loss = 0.5 * np.concatenate([window.target[window.target_status == KNOWN] for window in test])
    assert len(test) == 857
    assert loss.mean() == pytest.approx(0.2865, abs=5e-5)  # the published QL(0.5) of zero


def test_a_model_is_not_evaluated_on_sales_of_another_time_zone(tmp_path: Path) -> None:
    raw = str(sales_file(tmp_path / "s.csv", {"a": counting()}))
    utc = schema_of(prepared(tmp_path / "utc", raw=raw, horizon=5))
    london = prepared(tmp_path / "london", raw=raw, horizon=5, time_zone="Europe/London")

    assert schema_of(london).fingerprint != utc.fingerprint
    with pytest.raises(ValueError, match=r"days begin in UTC.*in Europe/London; prepare with --time-zone UTC"):
        dataset(london, "test", [0], schema=utc, config=resolve(Config(), utc), epoch=0)
