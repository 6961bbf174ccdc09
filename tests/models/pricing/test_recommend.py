"""Recommended prices: what is recommended, what is not and why, in parts or at all; given prices and curves."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.pricing.constraints import Shop as RuleShop
from models.pricing.constraints import requirements_of
from models.pricing.crossfit import CrossFitted, cross_fit, parts_of, significant_parts
from models.pricing.design import Design
from models.pricing.expected import explain, whatif
from models.pricing.fitted import Fitted
from models.pricing.ladder import ladders
from models.pricing.offers import Offers
from models.pricing.optimise import RulesConflict, Settings
from models.pricing.panel import Floats
from models.pricing.recommend import Recommendation, recommend
from models.pricing.rules import parse_rules
from models.pricing.trust import Flag
from tests.models.pricing.fitted_shop import USUAL, fitted_to, offers_at, panel_with
from tests.models.pricing.shops import calendar

RULES = "ladder: {step: 0.1}\nlargest_change: {share: 0.1}\n"
FLAG = Flag("few prices", "it was sold at 2 prices; 5 or more are needed")
Shop = tuple[Offers, Design, Fitted]


def shop(elasticity: list[float], *, noise: float = 0.2, cost: float = 1.6) -> Shop:
    panel = panel_with(np.array(elasticity), noise=noise)
    fitted, state = fitted_to(panel)
    num = len(elasticity)
    return offers_at(state, np.full(num, USUAL), np.full(num, cost)), state, fitted


@pytest.fixture(scope="module")
def clear() -> Shop:
    """The first two should be dearer, the others cheaper: margins of 47 % against 77 % and 25 % that earn most."""
    return shop([-1.3, -1.3, -4.0, -4.0])


@pytest.fixture(scope="module")
def noisy() -> Shop:
    """Prices that are about the best already, so that only noise says otherwise."""
    return shop([-2.1, -2.2], noise=1.5)


def ask(of: Shop, text: str = "", flags: dict[int, list[Flag]] | None = None, **changed: Any) -> Recommendation:
    offers, state, fitted = of
    offers = dataclasses.replace(offers, **changed)
    found = [(flags or {}).get(index, []) for index in range(len(offers))]
    rules = parse_rules(RULES + text, Path("rules.yaml"))
    return recommend(offers, state, fitted, rules, calendar=calendar(), settings=Settings(), flags=found)


def test_prices_move_the_way_that_known_demand_earns_more(clear: Shop) -> None:
    found = ask(clear)

    assert found.verdict == "recommended" and found.claim is not None and found.claim.low > 0
    assert [np.sign(row.new - row.old) for row in found.rows] == [1, 1, -1, -1]
    assert found.profit.mean > found.profit_today.mean
    truth = np.array([-1.3, -1.3, -4.0, -4.0])
    new = np.array([row.new for row in found.rows])
    gain = ((new - 1.6) * (new / USUAL) ** truth).sum() / (4 * 1.4) - 1
    assert found.claim.reestimated == pytest.approx(gain, abs=0.05)
    for row, value in zip(found.rows, truth, strict=True):
        assert row.elasticity.mean == pytest.approx(value, abs=0.6)
        assert row.today.units.mean == pytest.approx(100, rel=0.15)
        assert row.effect is not None and row.effect.mean > 0


def test_every_new_price_says_why(clear: Shop) -> None:
    raised, _, lowered, _ = ask(clear).rows

    assert raised.reason.startswith("raised: demand is less elastic than its margin needs: with elasticity -1.")
    assert "47% is below it" in raised.reason
    assert lowered.reason.startswith("lowered: demand is more elastic than its margin needs")
    assert "47% is above it" in lowered.reason


def test_inelastic_demand_is_a_reason_to_raise_a_price() -> None:
    (row,) = ask(shop([-0.4])).rows

    assert row.new > row.old and row.reason.startswith("raised: demand is inelastic: elasticity -0.")


def test_a_gain_that_noise_could_explain_is_not_recommended_and_all_prices_stay(noisy: Shop) -> None:
    found = ask(noisy)

    assert found.verdict == "none" and found.claim is not None and found.claim.low <= 0
    assert found.reason.startswith("no recommendation: the model claims")
    assert [row.new for row in found.rows] == [USUAL, USUAL]
    assert all(row.reason.startswith("unchanged: ") for row in found.rows)
    assert any("not certain enough" in row.reason for row in found.rows)
    assert found.profit == found.profit_today


@pytest.mark.parametrize(
    ("changed", "flags", "said"),
    [
        ({}, {0: [FLAG]}, "its demand is not to be trusted: it was sold at 2 prices"),
        ({"cost": np.array([np.nan, 1.6, 1.6, 1.6])}, {}, "its cost is not known"),
        ({"cost": np.array([3.2, 1.6, 1.6, 1.6])}, {}, "its cost of 3.20 is not below its price of 3.00"),
    ],
)
def test_offers_that_cannot_be_priced_stay_and_say_why(
    clear: Shop, changed: dict[str, Any], flags: dict[int, list[Flag]], said: str
) -> None:
    found = ask(clear, flags=flags, **changed)

    assert found.verdict == "recommended"
    assert found.rows[0].new == found.rows[0].old
    assert found.rows[0].reason.startswith(f"unchanged: {said}")
    assert found.rows[1].new > found.rows[1].old


def test_if_no_offer_can_be_priced_nothing_is_recommended(clear: Shop) -> None:
    found = ask(clear, cost=np.full(4, np.nan))

    assert found.verdict == "none" and "none of the offers can be priced" in found.reason
    assert found.claim is None and not any(row.is_changed for row in found.rows)


def test_rules_hold_for_offers_that_stay_too(clear: Shop) -> None:
    text = "brand_order: {cheaper: Own, dearer: Best}\n"
    brands = {"brands": ("Own", "Best", "", ""), "categories": ("a", "a", "b", "b"), "size": np.ones(4)}

    found = ask(clear, text, flags={1: [FLAG]}, **brands)

    assert found.rows[0].new == found.rows[0].old
    assert "would earn more, but the rule brand_order (rules.yaml:3) holds it" in found.rows[0].reason


def test_what_todays_price_of_an_offer_that_stays_breaks_is_told_and_is_no_conflict(clear: Shop) -> None:
    cost = np.array([2.9, 1.6, 1.6, 1.6])

    found = ask(clear, "margin_floor: {share: 0.2}\n", flags={0: [FLAG]}, cost=cost)

    assert found.verdict == "recommended"
    assert found.broken == ("margin_floor (rules.yaml:3): product p0 costs at least 3.62",)


def test_a_conflict_with_an_offer_that_stays_names_it(clear: Shop) -> None:
    text = "brand_order: {cheaper: Own, dearer: Best, gap: 0.4}\n"
    brands = {"brands": ("Own", "Best", "", ""), "categories": ("a", "a", "b", "b"), "size": np.ones(4)}

    with pytest.raises(RulesConflict) as caught:
        ask(clear, text, flags={1: [FLAG]}, **brands)

    assert "held (whatever the rules say): product p1 stays at 3.00, since its demand is not to be trusted" in str(
        caught.value
    )


def test_a_rule_that_moves_a_price_is_its_reason(clear: Shop) -> None:
    found = ask(clear, "sell_through: {share: 1.0, by: 2026-11-15}\n", stock=np.array([215.0, *[np.inf] * 3]))

    assert found.rows[0].new < found.rows[0].old
    assert found.rows[0].reason.startswith("lowered: the rule sell_through (rules.yaml:3) asks for it: product p0")


@pytest.fixture(scope="module")
def mixed() -> Shop:
    """One product whose price is far from the best and known well; several whose sales are noise at high margins."""
    elasticity = np.array([-0.5, -2.2, -2.2, -2.2])
    panel = panel_with(elasticity, noise=0.15)
    draw = np.random.default_rng(5)
    noise = np.where(panel.row_product > 0, draw.normal(0, 4.0, len(panel.row_units)), 0.0)
    fitted, state = fitted_to(dataclasses.replace(panel, row_units=panel.row_units * np.exp(noise)))
    return offers_at(state, np.full(4, USUAL), np.full(4, 1.6)), state, fitted


def test_the_part_whose_own_gain_is_certain_is_recommended_alone(mixed: Shop) -> None:
    found = ask(mixed)

    assert found.verdict == "in part"
    assert found.rows[0].new > found.rows[0].old
    assert not any(row.is_changed for row in found.rows[1:])
    assert found.left_out and all("which may be nothing" in text for text in found.left_out)
    assert found.claim is not None and found.claim.is_recommended
    assert "for all offers, no recommendation" in found.reason


def test_rules_that_couple_all_groups_allow_no_part(mixed: Shop) -> None:
    found = ask(mixed, "mean_price: {at_least: 0.9, at_most: 1.1}\n")

    assert found.verdict == "none" and "the rules couple all demand groups" in found.reason


def test_the_claim_is_that_of_each_half_by_the_evaluators_of_the_other(clear: Shop) -> None:
    offers, state, fitted = clear
    prices = (np.array([3.3, 3.0, 3.0, 3.0]), np.array([3.0, 3.0, 2.7, 3.0]))

    found = cross_fit(prices, offers, state, fitted)

    def change(models: Any, price: Floats, index: int) -> Floats:
        units = models.at(state).units(np.stack([offers.price, price]))[:, :, index]
        return np.asarray((price[index] - 1.6) * units[:, 1] - 1.4 * units[:, 0])

    assert found.reestimated[0, :, 0] == pytest.approx(change(fitted.evaluators[1], prices[0], 0))
    assert found.reestimated[1, :, 2] == pytest.approx(change(fitted.evaluators[0], prices[1], 2))
    assert found.claimed[1, 2] == pytest.approx(change(fitted.halves[1], prices[1], 2).mean())
    assert not found.reestimated[0, :, 1:].any()


def test_evaluators_of_the_same_class_are_refused(clear: Shop) -> None:
    offers, state, fitted = clear
    same = dataclasses.replace(fitted, evaluators=fitted.halves)

    with pytest.raises(ValueError, match="LogLog cannot evaluate its own claim"):
        ask((offers, state, same))


def test_holms_procedure_keeps_fewer_parts_than_a_level_for_each() -> None:
    draw = np.random.default_rng(0)
    empty = draw.normal(0, 1, (2, 12, 200)) + draw.normal(0, 1, (1, 1, 200))
    found = CrossFitted(np.zeros((2, 200)), np.ones(2), empty, np.ones((2, 12)))

    parts = significant_parts(found, np.arange(200), np.ones(200, bool))

    assert sum(part.p_value < 0.05 for part in parts) > 20
    assert sum(part.is_kept for part in parts) < sum(part.p_value < 0.05 for part in parts) / 2


def test_parts_without_a_change_are_not_tested() -> None:
    found = CrossFitted(np.zeros((2, 2)), np.ones(2), np.ones((2, 12, 2)), np.ones((2, 12)))

    first, second = significant_parts(found, np.array([0, 1]), np.array([True, False]))

    assert first.is_kept and not second.is_kept and np.isnan(second.p_value)


def test_zones_couple_the_demand_groups_of_their_stores() -> None:
    offers, *_ = shop([-2.0, -2.0, -2.0])
    offers = dataclasses.replace(offers, products=("a", "a", "b"), stores=("1", "2", "1"))

    rules = parse_rules(RULES + 'zones: {stores: ["1", "2"]}\nmax_changes: {number: 1}\n', Path("r.yaml"))
    asked = requirements_of(rules, RuleShop(offers, ladders(offers, rules), offers.price, calendar()))

    assert parts_of(offers, asked).tolist() == [0, 0, 1]


def test_the_same_question_has_the_same_answer_from_several_threads(clear: Shop) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: ask(clear), range(3)))

    assert found[0] == found[1] == found[2]


def test_given_prices_are_claimed_and_re_estimated(clear: Shop) -> None:
    offers, state, fitted = clear

    better = whatif(offers, state, fitted, np.array([3.3, 3.3, 2.7, 2.7]))
    worse = whatif(offers, state, fitted, np.array([2.7, 2.7, 3.3, 3.3]))

    assert better.claim is not None and worse.claim is not None
    assert better.claim.low > 0 > worse.claim.high
    assert better.profit_change.low > 0 > worse.profit_change.high
    assert better.planned[0].units.mean < better.today[0].units.mean
    assert whatif(offers, state, fitted, offers.price).claim is None


@pytest.mark.parametrize(
    ("prices", "said"),
    [([3.0, 3.0], "2 prices for 4 offers"), ([3.0, 0.0, 3.0, 3.0], "the price of product p1 is 0; it must be above")],
)
def test_impossible_prices_are_named(clear: Shop, prices: list[float], said: str) -> None:
    offers, state, fitted = clear
    with pytest.raises(ValueError, match=said):
        whatif(offers, state, fitted, np.array(prices))


def test_a_curve_falls_and_says_what_it_rests_on(clear: Shop) -> None:
    offers, state, fitted = clear
    prices = np.linspace(2.7, 3.3, 5)

    found = explain(offers, state, fitted, 2, prices=prices, flags=[FLAG])

    units = [one.units.mean for one in found.curve]
    assert units == sorted(units, reverse=True)
    assert all(one.units.low <= one.units.mean <= one.units.high for one in found.curve)
    assert found.elasticity.mean == pytest.approx(-4, abs=0.6)
    assert found.flags == (FLAG,) and found.rivals == ()
    assert found.usual_price == pytest.approx(float(np.exp(state.usual[2])))
