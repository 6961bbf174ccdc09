"""Preparing sales for prices: splits by time, demand groups, costs, and sales that prices cannot be learnt from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import DataRejected
from models.prepared import Prepared
from models.pricing.config import Config
from models.pricing.data import dataset, half_of, in_split, member_weights, stored_offers
from models.pricing.prepare.groups import demand_groups
from models.pricing.prepare.settings import PrepareConfig
from models.pricing.sample import ABOVE, FIXED, write_sample
from models.pricing.states import OfferState
from models.pricing.tables import Rows, recoded
from models.pricing.weeks import alternating_halves
from tests.models.pricing.kit import prepared, prepared_shop, schema_of, weekly

WEEKS = 60


def day(week: int) -> str:
    return (date(2024, 1, 1) + timedelta(weeks=week)).isoformat()


def sales(
    path: Path,
    price: Callable[[str, int], object] = lambda product, week: 2 + week % 3,
    *,
    products: tuple[str, ...] = ("a", "b"),
    weeks: int = WEEKS,
    units: Callable[[str, int], object] = lambda product, week: 20 - 2 * (week % 3),
) -> Path:
    rows = [f"{name},{day(week)},{units(name, week)},{price(name, week)}" for week in range(weeks) for name in products]
    return weekly(path / "sales.csv", rows)


def rows_of(data: Prepared) -> Rows:
    return Rows.joined([Rows.open(data.shard(number)) for number in range(data.num_shards)])


def offers_of(data: Prepared) -> dict[str, OfferState]:
    return {offer.product: offer for offer in stored_offers(data)}


def table(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_last_weeks_are_tested_on_and_those_before_validate(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", raw=str(sales(tmp_path)))
    schema, rows = schema_of(data), rows_of(data)

    assert (schema.train_end, schema.test_from, schema.num_periods) == (42, 48, 60)
    assert {name: int(in_split(rows, name, schema).sum()) for name in ("train", "val", "test")} == schema.num_examples
    assert schema.num_examples == {"train": 84, "val": 12, "test": 24}
    assert data.card()["splits_from"] == {"val": day(42), "test": day(48)}


def test_usual_prices_and_levels_know_nothing_of_validation_and_test(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "one", raw=str(sales(tmp_path / "s1")))
    other = sales(
        tmp_path / "s2",
        lambda _, week: 2 + week % 3 if week < 42 else 7,
        units=lambda _, week: 20 - 2 * (week % 3) if week < 42 else 400,
    )
    changed = prepared(tmp_path / "two", raw=str(other))

    one, two = (rows_of(data) for data in (plain, changed))

    assert np.array_equal(one.usual, two.usual) and np.array_equal(one.level, two.level)


def test_the_offers_are_those_of_the_week_after_the_sales_at_the_last_price(tmp_path: Path) -> None:
    products = table(tmp_path / "p.csv", "product_id,cost,stock,size,brand\na,1.5,40,2 l,Own\nb,,,,\n")
    data = prepared(tmp_path / "data", raw=str(sales(tmp_path)), products=products)

    offers = offers_of(data)

    assert offers["a"].price == 2 + 59 % 3 and offers["a"].cost == 1.5 and offers["a"].stock == 40
    assert offers["a"].size == 2 and offers["a"].brand == "Own"
    assert offers["b"].cost is None and offers["b"].stock is None
    assert offers["a"].seen == offers["b"].seen == (2, 4)
    lag = schema_of(data).context.index("units, lag 1")
    assert offers["a"].context[lag] == pytest.approx(np.log(20 - 2 * (59 % 3)) - offers["a"].level, abs=1e-5)
    assert any(note.startswith("NO COST is known for 1 offers") for note in data.card()["notes"])


def test_an_assumed_cost_is_a_share_of_the_usual_price_and_said_loudly(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", raw=str(sales(tmp_path)), cost_share=0.6)

    offer = offers_of(data)["a"]

    assert offer.cost == pytest.approx(0.6 * np.exp(offer.usual), rel=1e-5)
    assert any(note.startswith("COSTS ARE ASSUMED") for note in data.card()["notes"])


def test_a_week_without_sales_has_the_price_of_the_last_one_and_is_counted(tmp_path: Path) -> None:
    rows = [f"a,{day(week)},{10 + week % 4},{3 + week % 2}" for week in range(WEEKS) if week not in (20, 21)]
    data = prepared(tmp_path / "data", raw=str(weekly(tmp_path / "s.csv", rows)))

    found = rows_of(data)
    gap = np.flatnonzero((found.period == 20) | (found.period == 21))

    assert found.units[gap].tolist() == [0, 0]
    assert np.exp(found.own[gap] + found.usual[gap]) == pytest.approx([3 + 19 % 2] * 2)
    assert data.card()["prices"]["carried"] == 2


def test_sales_without_a_price_are_told_apart_from_weeks_without_sales(tmp_path: Path) -> None:
    rows = [
        f"a,{day(week)},{10 + week % 4},{'' if week in (30, 31, 32) else 3 + week % 2}"
        for week in range(WEEKS)
        if week not in (20, 21)
    ]
    data = prepared(tmp_path / "data", raw=str(weekly(tmp_path / "s.csv", rows)))

    prices = data.card()["prices"]

    assert (prices["carried"], prices["guessed"]) == (2, 3)
    assert any(note.startswith("in 3 rows with sales no price is known") for note in data.card()["notes"])


def test_a_product_of_one_price_is_kept_and_flagged_and_so_is_a_cost_above_the_price(tmp_path: Path) -> None:
    data = prepared_shop(write_sample(tmp_path / "shop"), tmp_path / "data")
    card, flagged = data.card(), {each.id: each.flags for each in schema_of(data).products if each.flags}

    assert [name for name, _ in flagged[FIXED]] == ["one price"] and set(flagged) == {FIXED}
    assert card["costs"] == {"above_price": 2, "unknown": 0}
    assert any(f"such as {ABOVE} in north" in note for note in card["notes"])
    assert card["demand_groups"] == {"by": "category", "number": 3, "largest": 4}
    assert card["bad"]["zero_price"] > 0


def test_large_groups_are_cut_into_products_of_similar_prices() -> None:
    names = [f"p{number}" for number in range(7)]
    prices = np.array([5.0, 1, 6, 2, 7, 3, 4])

    found, by = demand_groups(names, {"category": ["tea"] * 6 + [""]}, prices, max_group=3)

    assert by == "category"
    assert found[6] == "only p6"
    parts = [{names[place] for place in range(7) if found[place] == name} for name in sorted(set(found[:6]))]
    assert parts == [{"p1", "p3", "p5"}, {"p0", "p2", "p4"}]


def test_without_attributes_each_product_is_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", raw=str(sales(tmp_path)))

    assert schema_of(data).num_rivals == 1
    assert any("each product alone" in note for note in data.card()["notes"])


def test_costs_and_signals_of_the_sales_are_read(tmp_path: Path) -> None:
    rows = [f"a,{day(week)},{10 + week % 4},{3 + week % 2},{1 + week // 30},{100 + week}" for week in range(WEEKS)]
    raw = weekly(tmp_path / "s.csv", rows, columns="product_id,week,units,price,cost,views")

    data = prepared(tmp_path / "data", raw=str(raw))

    assert offers_of(data)["a"].cost == 2
    assert schema_of(data).signals == ("views",) and "signal 0, lag 1" in schema_of(data).context


def test_a_cost_that_cannot_be_is_a_bad_row_whose_week_is_unknown(tmp_path: Path) -> None:
    costs = {30: "-1", 31: "much"}
    rows = [f"a,{day(week)},{10 + week % 4},{3 + week % 2},{costs.get(week, '1.5')}" for week in range(WEEKS)]
    raw = weekly(tmp_path / "s.csv", rows, columns="product_id,week,units,price,cost")

    data = prepared(tmp_path / "data", raw=str(raw), max_bad_fraction=0.1)

    assert data.card()["bad"] == {"bad_cost": 1, "negative_cost": 1}
    assert not {30, 31} & set(rows_of(data).period.tolist())


def test_sold_out_weeks_are_trained_on_as_lower_bounds_and_not_evaluated(tmp_path: Path) -> None:
    rows = [f"a,{day(week)},{10 + week % 4},{3 + week % 2},{int(week in (20, 55))}" for week in range(WEEKS)]
    raw = weekly(tmp_path / "s.csv", rows, columns="product_id,week,units,price,stock_out")
    data = prepared(tmp_path / "data", raw=str(raw))

    found = rows_of(data)

    assert sorted(found.period[found.censored].tolist()) == [20, 55]
    assert schema_of(data).num_examples == {"train": 42, "val": 6, "test": 11}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weeks": 1}, "has 1 weeks of sales, .* prices need 16: give a longer history"),
        ({"weeks": 18}, "leaves 12 to train on"),
        ({"units": lambda _product, _week: 0}, "no product has ever sold"),
        ({"price": lambda _product, week: 0 if week % 2 else 3}, "zero_price"),
        ({"price": lambda _product, week: -3}, "negative_price"),
        ({"price": lambda _product, _week: ""}, "has no prices: name the column"),
        ({"price": lambda _product, _week: "", "units": lambda _product, _week: 0}, "no product has ever sold"),
    ],
)
def test_sales_that_prices_cannot_be_learnt_from_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataRejected, match=message):
        prepared(tmp_path / "data", raw=str(sales(tmp_path, **change)))


def test_sales_of_single_days_are_refused_as_weeks(tmp_path: Path) -> None:
    rows = [
        f"a,{2020 + month // 12}-{month % 12 + 1:02d}-01,{10 + month % 4},{3 + month % 2}" for month in range(WEEKS)
    ]

    with pytest.raises(DataRejected, match=r"sales in 23% of the weeks: .* --period month"):
        prepared(tmp_path / "data", raw=str(weekly(tmp_path / "s.csv", rows)))
    data = prepared(tmp_path / "months", raw=str(tmp_path / "s.csv"), period="month")

    assert schema_of(data).period == "month" and schema_of(data).block == 3


def test_several_currencies_and_a_product_table_of_others_are_refused(tmp_path: Path) -> None:
    rows = [f"a,{day(week)},5,{3 + week % 2},{'GBP' if week % 2 else 'EUR'}" for week in range(WEEKS)]
    raw = weekly(tmp_path / "s.csv", rows, columns="product_id,week,units,price,currency")
    products = table(tmp_path / "p.csv", "product_id,cost\nx,1\n")

    with pytest.raises(DataRejected, match=r"prices in EUR .* GBP"):
        prepared(tmp_path / "one", raw=str(raw))
    with pytest.raises(DataRejected, match=r"no id of the sales .* product table"):
        prepared(tmp_path / "two", raw=str(sales(tmp_path)), products=products)


def test_shards_have_whole_groups_in_a_store(tmp_path: Path) -> None:
    data = prepared_shop(write_sample(tmp_path / "shop"), tmp_path / "data")

    homes: dict[tuple[int, int], set[int]] = {}
    for number in range(data.num_shards):
        rows = Rows.open(data.shard(number))
        for place in set(zip(rows.group.tolist(), rows.store.tolist(), strict=True)):
            homes.setdefault(place, set()).add(number)

    assert len(homes) == 6 and all(len(found) == 1 for found in homes.values())


def test_even_members_never_count_a_row_of_odd_blocks(tmp_path: Path) -> None:
    schema = schema_of(prepared(tmp_path / "data", raw=str(sales(tmp_path))))
    weights = member_weights(Config(members=4), schema)
    periods = np.arange(schema.train_end)

    even, odd = alternating_halves(periods, length=schema.block)

    assert np.array_equal(half_of(periods, schema) == 0, even)
    assert not weights[0::2][:, odd].any() and not weights[1::2][:, even].any()
    assert weights.mean(1) == pytest.approx([1.0] * 4, abs=0.35)
    assert not np.array_equal(weights[0], weights[2])


def test_a_model_reads_later_sales_with_its_own_numbers(tmp_path: Path) -> None:
    one = schema_of(prepared_shop(write_sample(tmp_path / "shop"), tmp_path / "one"))
    later = prepared_shop(
        write_sample(tmp_path / "shop"), tmp_path / "two", exclude_products=("tea-0", "coffee-1"), max_bad_fraction=1.0
    )
    own = schema_of(later)
    table = Rows.open(later.shard(0))

    found = recoded(table, own, one)

    names = [own.products[place].id for place in table.product]
    assert [one.products[place].id for place in found.product] == names
    assert found.rivals.shape[1] == one.num_rivals
    assert np.allclose(np.sort(found.rivals, 1).sum(1), table.rivals.sum(1), atol=1e-6)
    assert found.has_rival.sum() == table.has_rival.sum()


def test_a_model_of_weeks_refuses_months(tmp_path: Path) -> None:
    schema = schema_of(prepared(tmp_path / "data", raw=str(sales(tmp_path))))
    months = schema.model_copy(update={"period": "month"})

    with pytest.raises(ValueError, match="prepare with --period month"):
        dataset(Prepared(tmp_path / "data"), "test", [0], schema=months, config=Config(), epoch=0)


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(ValueError, match="--cost-share is 1"):
        PrepareConfig(raw="x", cost_share=1.0)
