"""Lists of exploration: steps, chances, budget and rules; and what their outcome says of the prices of before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.price_lists.rows import PriceRow
from models.pricing.exploration import explore, outcome
from models.pricing.rules import Rules, parse_rules

LADDER = "ladder: {step: 0.1}\nlargest_change: {share: 0.3}\n"
NUM = 300


def rules(text: str = "") -> Rules:
    return parse_rules(LADDER + text, Path("rules.yaml"))


def shop(seed: int = 0, num: int = NUM) -> tuple[list[PriceRow], np.ndarray]:
    """Rows at today's price of 3, and the true elasticities, about which the rows are not certain."""
    draw = np.random.default_rng(seed)
    true = draw.normal(-2.2, 0.5, num)
    rows = [
        PriceRow(
            product=f"p{number}",
            old=3.0,
            new=3.3,
            cost=1.6,
            units_today=50.0,
            revenue_today=150.0,
            profit_today=70.0,
            elasticity=-2.2,
            elasticity_low=-3.0,
            elasticity_high=-1.4,
        )
        for number in range(num)
    ]
    return rows, true


def test_every_price_moves_one_step_at_most_with_its_chance() -> None:
    rows, _ = shop()

    found = explore(rows, rules(), loss_budget=1e9, seed=1)

    moves = np.round([(row.new - 3.0) / 0.1 for row in found.rows]).astype(int)
    assert set(moves.tolist()) == {-1, 0, 1}
    assert all(
        row.chance is not None and 0 < row.chance < 1 and "drawn with a chance" in row.reason for row in found.rows
    )
    kept = [row for row, move in zip(found.rows, moves, strict=True) if move == 0]
    assert all(row.chance == row.chance_of_today and row.new == row.old for row in kept)
    assert found == explore(rows, rules(), loss_budget=1e9, seed=1) != explore(rows, rules(), loss_budget=1e9, seed=2)


def test_the_expected_loss_is_within_the_budget() -> None:
    rows, _ = shop()
    free = explore(rows, rules(), loss_budget=1e9, seed=1).loss

    assert free > 0
    assert explore(rows, rules(), loss_budget=free / 3, seed=1).loss == pytest.approx(free / 3)


@pytest.mark.parametrize(("budget", "text"), [(0, ""), (1e9, "fixed: {only: {products: [p0, p1, p2]}}\n")])
def test_an_exploration_that_leaves_nothing_to_chance_is_refused(budget: float, text: str) -> None:
    with pytest.raises(ValueError, match=f"a budget of {budget:g} nothing is left to chance".replace("+", r"\+")):
        explore(shop(num=3)[0], rules(text), loss_budget=budget, seed=1)


def test_held_and_fixed_prices_and_margin_floors_are_kept() -> None:
    rows, _ = shop(num=40)
    rows[0] = rows[0].model_copy(update={"is_held": True, "reason": "unchanged: few prices"})
    rows[1] = rows[1].model_copy(update={"cost": None})
    text = "fixed: {only: {products: [p2]}}\nmargin_floor: {share: 0.46}\n"

    found = explore(rows, rules(text), loss_budget=1e9, seed=3).rows

    assert [(row.new, row.chance) for row in found[:3]] == [(3.0, 1.0), (3.0, 1.0), (3.0, 1.0)]
    assert found[0].reason == "unchanged: few prices"
    assert {round(row.new, 2) for row in found[3:]} == {3.0, 3.1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_changes: {number: 3}\n", r"rules.yaml:3: max_changes ties prices together"),
        ("fixed: {only: {brands: [Own]}}\n", r"rules.yaml:3: exploration knows products and stores only"),
    ],
)
def test_rules_that_single_steps_cannot_keep_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        explore(shop(num=3)[0], rules(text), loss_budget=1, seed=0)


def test_a_shop_in_which_nothing_can_be_explored_says_so() -> None:
    rows = [row.model_copy(update={"is_held": True}) for row in shop(num=3)[0]]
    with pytest.raises(ValueError, match="no offer can be explored"):
        explore(rows, rules(), loss_budget=1, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_outcome_says_what_the_prices_of_before_would_have_earned(seed: int) -> None:
    rows, true = shop(seed)
    found = explore(rows, rules(), loss_budget=1e9, seed=seed).rows
    draw = np.random.default_rng(seed + 100)
    level = draw.normal(1.3, 0.2, NUM)  # sales are above what the model expects
    units = {
        row.key: float(50 * shift * (row.new / 3) ** slope)
        for row, slope, shift in zip(found, true, level, strict=True)
    }

    told = outcome(found, units, num_periods=1)

    truth = float((1.4 * 50 * level).sum())
    assert abs(told.at_old_prices - truth) < 3 * told.error < 0.2 * truth
    assert told.earned == pytest.approx(sum((row.new - 1.6) * units[row.key] for row in found))
    assert 30 < told.effective_offers <= NUM == told.num_offers


def test_a_list_without_chances_has_no_outcome() -> None:
    with pytest.raises(ValueError, match="the list has no chances"):
        outcome(shop(num=3)[0], {}, num_periods=1)


def test_sales_of_other_offers_are_no_outcome() -> None:
    found = explore(shop()[0], rules(), loss_budget=1e9, seed=1).rows
    with pytest.raises(ValueError, match="the sales have none of the offers that were tried out"):
        outcome(found, {("p0", "north"): 40.0}, num_periods=1)
