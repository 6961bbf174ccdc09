"""Panels: sales of any shape become units by product, store and period, and what cannot be read says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import DataRejected
from models.raw.demand import CLASSES, demand_classes, price_support
from models.raw.panel import Panel, build_panel
from models.raw.panel_settings import PanelSettings
from models.raw.panel_tables import read_ahead, read_products

HEAD = "product_id,date,units"


@dataclass(frozen=True)
class Settings(PanelSettings):
    """Settings of a family without any of its own."""

    raw: str


def panel(tmp_path: Path, lines: Sequence[str], **settings: Any) -> Panel:
    """The panel of a CSV file with these lines."""
    return built(settings_of(tmp_path, lines, **settings), tmp_path)


def settings_of(tmp_path: Path, lines: Sequence[str], **settings: Any) -> Settings:
    raw = tmp_path / "sales.csv"
    raw.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Settings(raw=str(raw), **settings)


def built(settings: Settings, tmp_path: Path) -> Panel:
    with ThreadPoolExecutor(1) as executor:
        return build_panel(settings, tmp_path / "quarantine", executor)


def days(count: int, *, start: date = date(2024, 1, 1), step: int = 1) -> list[str]:
    return [(start + timedelta(days=step * number)).isoformat() for number in range(count)]


def test_units_of_a_period_are_summed_and_gaps_after_the_first_sale_are_zeros(tmp_path: Path) -> None:
    found = panel(tmp_path, [HEAD, "a,2024-01-01,1", "a,2024-01-01T10:00:00,2", "a,2024-01-04,3", "b,2024-01-02,5"])

    assert found.period == "day" and found.products == ["a", "b"] and found.date(0) == "2024-01-01"
    assert found.units.tolist() == [[3, 0, 0, 3], [0, 5, 0, 0]]
    assert found.is_known.tolist() == [[True] * 4, [False, True, True, True]]


def test_the_panel_depends_on_the_rows_and_not_on_their_order_or_files(tmp_path: Path) -> None:
    rows = [f"{product},{day},{number % 4}" for number, day in enumerate(days(30)) for product in "ab"]
    first = panel(tmp_path, [HEAD, *rows])
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in (("one.csv", rows[40:][::-1]), ("two.csv", rows[:40][::-1])):
        (folder / name).write_text("\n".join([HEAD, *part]) + "\n", encoding="utf-8")

    again = built(Settings(raw=str(folder)), tmp_path)

    assert again.digest() == first.digest()
    assert panel(tmp_path, [HEAD, *rows, "a,2024-01-01,9"]).digest() != first.digest()


def test_rows_that_agree_in_every_column_are_counted_once(tmp_path: Path) -> None:
    found = panel(
        tmp_path, ["product_id,date,units,customer", "a,2024-01-01,1,x", "a,2024-01-01,1,x", "a,2024-01-01,1,y"]
    )

    assert found.units.tolist() == [[2]] and found.card["duplicates"] == 1


def test_a_return_cancels_an_order_of_as_many_units_or_is_subtracted(tmp_path: Path) -> None:
    lines = [HEAD, "a,2024-01-01,80995", "a,2024-01-01T09:00:00,-80995", "a,2024-01-01,4", "a,2024-01-02,-3"]

    cancelled, net = panel(tmp_path, lines), panel(tmp_path, [*lines, "a,2024-01-02,5"], returns="net")

    assert cancelled.units.tolist() == [[4, 0]]
    assert cancelled.card["returns"] == 2 and cancelled.card["cancelled_orders"] == 1
    assert net.units.tolist() == [[4, 2]]


def test_periods_without_stock_are_censored_also_where_nothing_was_sold(tmp_path: Path) -> None:
    found = panel(
        tmp_path,
        ["product_id,date,units,stock,stock_out", "a,2024-01-01,3,0,0", "a,2024-01-02,0,5,1", "a,2024-01-03,2,5,0"],
        gaps="zero",
    )

    assert found.is_censored.tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("times", "period", "first"),
    [
        (days(40), "day", "2024-01-01"),
        (days(12, step=7, start=date(2024, 1, 3)), "week", "2024-01-01"),
        (["1998-01", "1998-02", "1998-04"], "month", "1998-01-01"),
        (["2024-W05", "2024-W07", "2024-W08"], "week", "2024-01-29"),
        (["2024-01-31", "2024-02-29", "2024-03-31"], "month", "2024-01-01"),
    ],
)
def test_the_period_is_that_of_the_dates(tmp_path: Path, times: list[str], period: str, first: str) -> None:
    found = panel(tmp_path, [HEAD, *(f"a,{time},1" for time in times)])

    assert (found.period, found.date(0)) == (period, first)


def test_numbers_of_periods_are_read_when_they_are_said_to_be(tmp_path: Path) -> None:
    lines = ["store_id,product_id,week,units", "2,a,40,7", "2,a,42,1", "5,a,41,2"]

    found = panel(tmp_path, lines, period="number")

    assert found.units.tolist() == [[7, 0, 1], [0, 2, 0]] and found.date(1) == "41"
    assert found.stores == ["2", "5"]
    with pytest.raises(DataRejected, match="--period number"):
        panel(tmp_path, lines)


def test_a_table_that_lists_zeros_has_unknown_gaps_unless_told(tmp_path: Path) -> None:
    lines = [HEAD, *(f"a,{day},{number % 2}" for number, day in enumerate(days(20)) if number != 7)]

    assert not panel(tmp_path, lines).is_known[0, 7]
    assert panel(tmp_path, lines, gaps="zero").is_known[0, 7]


def test_daily_and_weekly_series_together_are_refused_with_the_way_out(tmp_path: Path) -> None:
    daily = [f"a{number},{day},1" for number in range(3) for day in days(60)]
    weekly = [f"w,{day},7" for day in days(9, step=7)]

    with pytest.raises(DataRejected, match=r"1 of 4 series, such as 'w', .*--period week"):
        panel(tmp_path, [HEAD, *daily, *weekly])
    assert panel(tmp_path, [HEAD, *daily, *weekly], period="week").units[0, 0] == 7


def test_a_mix_of_currencies_is_refused_until_one_is_chosen(tmp_path: Path) -> None:
    lines = [f"{HEAD},price,currency", "a,2024-01-01,1,2.5,gbp", "a,2024-01-02,1,2.5,GBP", "a,2024-01-02,1,3,EUR"]

    with pytest.raises(DataRejected, match=r"GBP \(2 rows\), EUR \(1 rows\).*--currency GBP"):
        panel(tmp_path, lines)
    assert panel(tmp_path, lines, currency="gbp").units.tolist() == [[1, 1]]
    with pytest.raises(DataRejected, match="no prices in USD"):
        panel(tmp_path, lines, currency="USD")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",2024-01-02,1,1", "missing_product_id"),
        ("a,,1,1", "missing_timestamp"),
        ("a,soon,1,1", "bad_timestamp"),
        ("a,1911-01-02,1,1", "implausible_timestamp"),
        ("a,2024-01-02,many,1", "bad_units"),
        ("a,2024-01-02,,1", "missing_units"),
        ("a,2024-01-02,1,-1", "negative_price"),
        ("a,2024-01-02,1,0", "zero_price"),
        ("a,2024-01-02,1,1 EUR", "bad_price"),
        (f"{'x' * 300},2024-01-02,1,1", "too_long_product_id"),
        ("POST,2024-01-02,1,1", "excluded_product"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_its_reason(tmp_path: Path, row: str, reason: str) -> None:
    good = [f"a,{day},1,2" for day in days(5)]

    found = panel(tmp_path, [f"{HEAD},price", *good, row], max_bad_fraction=0.5, exclude_products=("POST",))

    assert found.card["bad"] == {reason: 1}
    (kept,) = pq.read_table(tmp_path / "quarantine").to_pylist()
    assert kept["reason"] == reason and found.units.sum() == 5


def test_too_many_bad_rows_are_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"1 of 2 rows.*negative_price, e\.g\. '-4'.*--max-bad-fraction"):
        panel(tmp_path, [f"{HEAD},price", "a,2024-01-01,1,1", "a,2024-01-02,1,-4"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["product_id,when,units", "a,2024-01-01,1"], "no column for 'timestamp'.*--columns"),
        ([HEAD], "is empty"),
        ([HEAD, "POST,2024-01-01,1"], "--exclude-products"),
    ],
)
def test_a_table_without_what_is_needed_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataRejected, match=message):
        panel(tmp_path, lines, exclude_products=("POST",))


def test_a_log_of_the_recommender_is_read_as_it_is(tmp_path: Path) -> None:
    found = panel(
        tmp_path,
        ["user_id,item_id,timestamp,quantity,price", "u,a,2024-01-01T08:00:00,2,3.5", "v,a,2024-01-01T09:00:00,2,4.5"],
    )

    assert found.units.tolist() == [[4]] and found.values["price"].tolist() == [[4.0]]
    assert found.values["revenue"].tolist() == [[16.0]]


def test_a_wide_table_has_a_period_in_each_column(tmp_path: Path) -> None:
    found = panel(tmp_path, ["sku,2024-01,2024-02,2024-03,2024-04", "a,1,,3,0", "b,0,2,2,2"])

    assert found.period == "month" and found.units.tolist() == [[1, 0, 3, 0], [0, 2, 2, 2]]
    assert not found.is_known[0, 1]


def test_products_are_joined_and_unknown_ones_are_named(tmp_path: Path) -> None:
    table = tmp_path / "products.csv"
    table.write_text("product_id,cost,category\na,2,tea\nz,1,cups\nb,-1,tea\n", encoding="utf-8")
    settings = settings_of(tmp_path, [HEAD, "a,2024-01-01,1", "b,2024-01-01,1"], products=str(table))

    products = read_products(settings, built(settings, tmp_path), tmp_path / "quarantine" / "products.parquet")

    assert products.texts == {"category": ["tea", ""]}
    assert products.numbers["cost"][0] == 2 and np.isnan(products.numbers["cost"][1])
    assert products.card["bad"] == {"product table: negative_cost": 1}
    assert "1 products of the product table have no sales" in products.notes


def test_a_product_table_of_other_ids_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "products.csv"
    table.write_text("product_id,cost\nP-1,2\n", encoding="utf-8")
    settings = settings_of(tmp_path, [HEAD, "1,2024-01-01,1"], products=str(table))

    with pytest.raises(DataRejected, match="no id of the sales"):
        read_products(settings, built(settings, tmp_path), tmp_path / "q.parquet")


def test_the_calendar_knows_promotions_of_a_product_and_holidays_of_all_also_ahead(tmp_path: Path) -> None:
    calendar = tmp_path / "calendar.csv"
    calendar.write_text(
        "date,product_id,promotion,holiday,name\n2024-01-02,a,1,,\n2024-01-04,,,true,New\nsoon,,1,,\n", encoding="utf-8"
    )
    settings = settings_of(
        tmp_path, [HEAD, *(f"{product},{day},1" for product in "ab" for day in days(3))], calendar=str(calendar)
    )

    ahead = read_ahead(settings, built(settings, tmp_path), tmp_path / "q.parquet", horizon=2)

    assert ahead.names == ["holiday", "promotion"]
    assert ahead.values[:, :, 1].tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert ahead.values[:, :, 0].tolist() == [[0, 0, 0, 1, 0]] * 2
    assert any("1 rows of the calendar are bad" in note for note in ahead.notes)


def test_rows_of_the_calendar_that_are_not_used_are_counted(tmp_path: Path) -> None:
    calendar = tmp_path / "calendar.csv"
    calendar.write_text(
        "date,promotion\n2024-01-02,1\n2019-01-01,1\n2030-01-01,1\n2024-01-03,1,one,too,many\n", encoding="utf-8"
    )
    settings = settings_of(tmp_path, [HEAD, *(f"a,{day},1" for day in days(3))], calendar=str(calendar))

    ahead = read_ahead(settings, built(settings, tmp_path), tmp_path / "q.parquet", horizon=2)

    assert ahead.values[0, :, 0].tolist() == [0, 1, 0, 0, 0]
    assert any(
        "2 rows of the calendar are not used: they are before 2024-01-01 or after 2024-01-05" in n for n in ahead.notes
    )
    assert any("1 rows of the calendar are bad" in note for note in ahead.notes)
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 1


def test_a_calendar_says_from_when_to_when_it_knows_and_what_contradicts(tmp_path: Path) -> None:
    calendar = tmp_path / "calendar.csv"
    calendar.write_text("date,promotion\n2024-01-02,0\n2024-01-02,1\n2024-01-03,1\n", encoding="utf-8")
    settings = settings_of(tmp_path, [HEAD, *(f"a,{day},1" for day in days(4))], calendar=str(calendar))

    notes = read_ahead(settings, built(settings, tmp_path), tmp_path / "q.parquet", horizon=2).notes

    assert any("known ahead: promotion, from 2024-01-02 to 2024-01-03; 0 in other periods" in note for note in notes)
    assert any("the calendar ends with 2024-01-03 and says nothing" in note for note in notes)
    assert any("1 rows of the calendar contradict another" in note for note in notes)


def test_dates_that_are_probably_mistakes_are_told(tmp_path: Path) -> None:
    early = panel(tmp_path, [HEAD, "a,1991-01-01,1", *(f"a,{day},1" for day in days(200))])
    monthly = panel(tmp_path, [HEAD, *(f"a,2023-{month:02d}-01,1" for month in range(1, 13))], period="day")
    usual = panel(tmp_path, [HEAD, *(f"a,{day},1" for day in days(200))])

    assert any("the first sales are of 1991-01-01, and 99 % of the rows are of 2024-01" in n for n in early.notes)
    assert any("all dates are one month apart" in note for note in monthly.notes)
    assert usual.notes == []


def test_excluded_products_without_rows_are_named(tmp_path: Path) -> None:
    found = panel(tmp_path, [HEAD, "a,2024-01-01,1", "b,2024-01-02,2"], exclude_products=("b", "nobody"))

    assert found.products == ["a"]
    assert any("'nobody' has no rows" in note and "'b'" not in note for note in found.notes)


def test_a_row_that_cannot_be_read_makes_its_period_unknown_and_not_one_without_sales(tmp_path: Path) -> None:
    rows = ["a,2024-01-01,1", "a,2024-01-02,many", "a,2024-01-03,2", "a,2024-01-03,few", "a,2024-01-05,4", "b,never,1"]
    found = panel(tmp_path, [HEAD, *rows], max_bad_fraction=0.9, period="day")

    assert found.is_known.tolist() == [[True, False, True, True, True]]
    assert found.units.tolist() == [[1, 0, 2, 0, 4]]
    assert any("in 1 periods the units are not known" in note for note in found.notes)


def test_numbers_that_no_shop_sells_go_to_quarantine(tmp_path: Path) -> None:
    found = panel(tmp_path, [HEAD, *(f"a,{day},1" for day in days(30)), "a,2024-02-01,1e12"], max_bad_fraction=0.5)

    assert found.card["bad"] == {"bad_units": 1}


def test_demand_is_classified_by_interval_and_variation() -> None:
    draw = np.random.default_rng(0)
    smooth, even_rare = np.full(60, 5.0), np.where(np.arange(60) % 4 == 0, 5.0, 0.0)
    erratic, lumpy = draw.lognormal(1, 1.2, 60), np.where(np.arange(60) % 4 == 0, draw.lognormal(1, 1.5, 60), 0.0)
    once = np.eye(60)[3]
    units = np.stack([smooth, erratic, even_rare, lumpy, once]).astype(np.float32)

    found = demand_classes(units, np.ones(units.shape, np.bool_))

    assert [CLASSES[each] for each in found] == ["smooth", "erratic", "intermittent", "lumpy", "new"]


def test_the_support_of_prices_counts_those_of_sales() -> None:
    prices = np.array([[2, 2, 3, np.nan, 9], [1, 1, 1, 1, 1]], np.float32)

    found = price_support(prices, np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], np.float32))

    assert found["distinct_prices"].tolist() == [2, 1]
    assert found["off_price_share"].tolist() == pytest.approx([1 / 3, 0])


@pytest.mark.real
def test_online_retail_is_read_as_it_is(shared_data: Path, tmp_path: Path) -> None:
    raw = shared_data / "online_retail_uci" / "online_retail.parquet"
    columns = "product_id=StockCode,timestamp=InvoiceDate,units=Quantity,price=UnitPrice"

    found = built(Settings(raw=str(raw), columns=columns, exclude_products=("POST", "DOT", "M")), tmp_path)

    assert found.period == "day" and found.num_periods == 374
    assert found.card["bad"] == {"excluded_product": 2537, "negative_price": 2, "zero_price": 2502}
    # An order of 80,995 that was cancelled 12 minutes later.
    assert found.units[found.products.index("23843")].sum() == 0


def test_a_panel_takes_a_part_of_its_series(tmp_path: Path) -> None:
    found = panel(tmp_path, [HEAD, "a,2024-01-01,1", "b,2024-01-01,2"])

    part = found.take([1])

    assert part.products == ["b"] and part.units.tolist() == [[2]]
    assert dataclasses.replace(found, products=["x", "y"]).digest() != found.digest()


def test_quarantine_has_no_column_that_is_not_read_such_as_who_bought(tmp_path: Path) -> None:
    panel(
        tmp_path,
        ["product_id,date,units,customer", "a,2024-01-01,1,ann", "a,2024-01-02,many,ann"],
        max_bad_fraction=0.5,
    )

    (kept,) = pq.read_table(tmp_path / "quarantine").to_pylist()
    assert "many" in kept["row"] and "ann" not in kept["row"]


def test_lists_beside_the_columns_that_are_read_do_no_harm(tmp_path: Path) -> None:
    table = pa.table({"product_id": ["a"], "date": ["2024-01-01"], "units": [1], "tags": [["x", "y"]]})
    pq.write_table(table, tmp_path / "sales.parquet")

    assert built(Settings(raw=str(tmp_path / "sales.parquet")), tmp_path).units.tolist() == [[1]]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    table = pa.table({"product_id": [1, 1], "date": [date(2024, 1, 1), date(2024, 1, 2)], "units": [1.0, 2.5]})
    pq.write_table(table, tmp_path / "sales.parquet")

    found = built(Settings(raw=str(tmp_path / "sales.parquet")), tmp_path)

    assert found.products == ["1"] and found.units.tolist() == [[1.0, 2.5]]
