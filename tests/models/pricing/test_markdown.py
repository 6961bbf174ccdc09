"""Markdowns against all falling paths, and the stock that must be sold."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest

from models.pricing.markdown import StockTooLarge, plan_markdown

POINTS = np.array([4.0, 5.0, 6.0, 8.0])


def expected_units(seed: int, periods: int = 5) -> np.ndarray:
    """Demand with elasticity -1.6 that fades."""
    draw = np.random.default_rng(seed)
    base = 20 * 0.8 ** np.arange(periods) * draw.uniform(0.8, 1.2, periods)
    result: np.ndarray = base[:, None] * (POINTS / 8) ** -1.6
    return result


def best_by_hand(units: np.ndarray, stock: float, share: float, value_left: float) -> float:
    """The highest proceeds of all falling paths; each sells at its highest prices first, which is best."""
    best = -np.inf
    for path in combinations_with_replacement(range(len(POINTS) - 1, -1, -1), len(units)):
        left, proceeds = stock, 0.0
        for period, point in enumerate(path):
            sold = min(left, units[period, point]) if POINTS[point] > value_left else 0.0
            left, proceeds = left - sold, proceeds + POINTS[point] * sold
        if stock - left >= share * stock - 1e-9:
            best = max(best, proceeds + value_left * left)
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("stock", "share", "value_left"), [(60, 0, 0), (120, 0.9, 0), (150, 0, 3), (100, 1, -2), (1e4, 0, 0)]
)
def test_no_falling_path_brings_in_more(seed: int, stock: float, share: float, value_left: float) -> None:
    units = expected_units(seed)
    best = best_by_hand(units, stock, share, value_left)
    if not np.isfinite(best):
        with pytest.raises(StockTooLarge):
            plan_markdown(POINTS, units, stock=stock, share=share, value_left=value_left)
        return

    found = plan_markdown(POINTS, units, stock=stock, share=share, value_left=value_left)

    assert found.proceeds == pytest.approx(best, rel=1e-4) and found.is_optimal
    assert (np.diff(found.price) <= 1e-6).all()
    assert found.sold.sum() >= share * stock - 1e-6 and found.sold.sum() + found.left == pytest.approx(stock)
    assert (found.sold <= units[np.arange(5), np.searchsorted(POINTS, found.price)] + 1e-6).all()


def test_a_share_that_forces_lower_prices_costs_proceeds() -> None:
    units = expected_units(0)
    free, forced = (plan_markdown(POINTS, units, stock=170, share=share, value_left=4.5) for share in (0.0, 0.98))

    assert forced.proceeds < free.proceeds and forced.sold.sum() > free.sold.sum()


def test_a_stock_that_no_price_sells_is_said_with_what_can_be_sold() -> None:
    with pytest.raises(StockTooLarge, match=r"of 1000 are sold in 5 periods, not 90%; lower the share"):
        plan_markdown(POINTS, expected_units(0), stock=1000, share=0.9)


@pytest.mark.parametrize(
    ("points", "stock", "said"),
    [(POINTS[::-1], 10, "rising prices"), (POINTS[:2], 10, "rising"), (POINTS, 0, "stock is 0")],
)
def test_a_wrong_ladder_or_stock_is_refused(points: np.ndarray, stock: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_markdown(points, expected_units(0), stock=stock)


def test_one_period_takes_the_best_price() -> None:
    units = expected_units(0, periods=1)

    found = plan_markdown(POINTS, units, stock=1e6)

    assert found.price[0] == POINTS[(POINTS * units[0]).argmax()]
