"""The panel refuses what cannot be; the design has the own price once and nothing of the future."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.pricing.design import Design, design_of
from models.pricing.panel import Panel, panel_of
from models.pricing.weeks import alternating_halves, block_of, bootstrap_weights, folds


def panel(seed: int = 0, *, periods: int = 12, products: int = 3) -> Panel:
    draw = np.random.default_rng(seed)
    shape = (products, 2, periods)
    return panel_of(
        [f"p{number}" for number in range(products)],
        ["north", "south"],
        units=draw.integers(1, 50, shape).astype(float),
        prices=draw.uniform(1, 3, shape),
        costs=np.ones(1),
        promotion=draw.integers(0, 2, (*shape, 1)).astype(float),
        groups=[0] * (products - 1) + [1],
    )


def whole(of: Panel) -> Design:
    return design_of(of, np.ones(len(of.row_units), bool))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row_price": 0.0}, r"price of product p0 is 0 in period 3; prices must be above zero"),
        ({"row_price": -2.0}, r"price of product p0 is -2 in period 3"),
        ({"row_price": np.nan}, r"row_price has values that are not finite"),
        ({"row_units": -1.0}, r"units of product p0 is -1 in period 3; take returns out"),
        ({"row_period": 4}, r"two rows in the same store and period"),
    ],
)
def test_a_panel_refuses_values_that_cannot_be_with_product_and_period(change: dict[str, float], said: str) -> None:
    good = panel()
    (name, value), *_ = change.items()
    column = getattr(good, name).copy()
    column[3] = value

    with pytest.raises(ValueError, match=said):
        dataclasses.replace(good, **{name: column})


def test_an_empty_panel_and_uneven_columns_are_refused() -> None:
    good = panel()
    with pytest.raises(ValueError, match="no rows"):
        good.rows(np.zeros(len(good.row_units), bool))
    with pytest.raises(ValueError, match="row_units has 1 entries instead of 72"):
        dataclasses.replace(good, row_units=np.ones(1))


def test_the_own_price_of_the_period_is_in_own_and_nowhere_else() -> None:
    before = panel()
    row = 7
    prices = before.row_price.copy()
    prices[row] *= 1.3
    after = dataclasses.replace(before, row_price=prices)
    train = before.row_period != before.row_period[row]

    one, other = design_of(before, train), design_of(after, train)

    assert other.own[row] == pytest.approx(one.own[row] + np.log(1.3))
    for name in ("rivals", "context", "level", "usual"):
        assert np.array_equal(getattr(one, name)[row], getattr(other, name)[row])


def test_rivals_are_the_same_group_store_and_period_in_the_order_of_the_group() -> None:
    of = panel()
    design = whole(of)
    row = int(np.flatnonzero((of.row_product == 1) & (of.row_store == 1) & (of.row_period == 5))[0])
    rival = int(np.flatnonzero((of.row_product == 0) & (of.row_store == 1) & (of.row_period == 5))[0])
    alone = of.row_product == 2

    assert design.rivals[row].tolist() == [design.own[rival], 0.0]
    assert design.has_rival[row].tolist() == [True, False]
    assert not design.rivals[alone].any() and not design.has_rival[alone].any()


def test_nothing_of_a_period_or_later_changes_its_context() -> None:
    before = panel()
    late = before.row_period >= 8
    changed = dataclasses.replace(before, row_units=np.where(late, before.row_units * 5, before.row_units))
    train = before.row_period < 8

    one, other = design_of(before, train), design_of(changed, train)

    known = before.row_period <= 8
    assert np.array_equal(one.context[known], other.context[known])
    assert not np.array_equal(one.context[~known], other.context[~known])


def test_usual_price_and_level_are_of_training_rows_and_leave_out_sold_out_ones() -> None:
    of = panel()
    train = of.row_period < 6
    stock = np.where(of.row_period == 0, of.row_units, np.inf)
    design = design_of(dataclasses.replace(of, row_stock=stock), train)

    own = (of.row_product == 0) & (of.row_store == 0)
    assert design.usual[own] == pytest.approx(np.log(of.row_price[own & train]).mean())
    assert design.level[own] == pytest.approx(np.log(of.row_units[own & train & (of.row_period > 0)]).mean())
    assert design.censored.tolist() == (of.row_period == 0).tolist()


def test_season_and_time_are_read_from_two_years_on_only() -> None:
    assert "time" not in whole(panel(periods=100)).names
    assert "time" in whole(panel(periods=104)).names


def test_signals_are_read_one_period_later() -> None:
    before = panel()
    views = np.random.default_rng(1).uniform(0, 100, (len(before.row_units), 1))
    of = dataclasses.replace(before, row_signals=views)
    design = whole(of)
    row = int(np.flatnonzero((of.row_product == 1) & (of.row_store == 0) & (of.row_period == 5))[0])
    logs = np.log1p(views[:, 0])
    usual = logs[(of.row_product == 1) & (of.row_store == 0)].mean()

    assert design.context[row, design.names.index("signal 0, lag 1")] == pytest.approx(logs[row - 1] - usual)


def test_a_series_of_one_period_has_a_design() -> None:
    design = whole(panel(periods=1))

    assert np.isfinite(design.context).all() and not design.own.any()


def test_blocks_keep_neighbouring_periods_together() -> None:
    periods = np.arange(5, 25)
    even, odd = alternating_halves(periods)

    assert block_of(periods)[:5].tolist() == [0, 0, 0, 0, 1]
    assert not (even & odd).any() and (even | odd).all() and even[:4].all() and odd[4:8].all()
    assert len({*folds(periods, num_folds=2)[:4]}) == 1
    weights = bootstrap_weights(periods, np.random.default_rng(0))
    assert weights.sum() == len(periods)
    assert all(len({*weights[block_of(periods) == block]}) == 1 for block in range(5))
