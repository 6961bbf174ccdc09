"""The optimiser against brute force, every rule by what it forbids, and conflicts by name."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.pricing.blocks import money
from models.pricing.constraints import Shop, requirements_of
from models.pricing.ladder import ladders
from models.pricing.offers import Offers
from models.pricing.optimise import NoPlanFound, Plan, RulesConflict, Settings, optimise
from models.pricing.rules import Rules, parse_rules
from tests.models.pricing.shops import LogLogDemand, brute_force, calendar, random_shop

LADDER = "ladder: {endings: [0.29, 0.49, 0.79, 0.99], most_points: 5}\n"
MANY = """\
margin_floor: {share: 0.1}
largest_change: {share: 0.2}
max_changes: {number: 3}
brand_order: {cheaper: Own, dearer: Best}
mean_price: {at_least: 0.97, at_most: 1.03}
revenue: {at_least: 0.97}
"""


def rules(text: str, ladder: str = LADDER) -> Rules:
    return parse_rules(ladder + text, Path("rules.yaml"))


def best(offers: Offers, demand: LogLogDemand, wanted: Rules, settings: Settings | None = None) -> Plan:
    return optimise(offers, demand, wanted, calendar=calendar(), settings=settings)


@pytest.mark.parametrize("seed", range(12))
def test_small_shops_get_the_prices_that_brute_force_finds(seed: int) -> None:
    offers, demand = random_shop(seed, 5, group_size=1 + seed % 3)
    wanted = rules("largest_change: {share: 0.2}" if seed % 4 == 3 else MANY)
    points = ladders(offers, wanted)
    shop = Shop(offers, points, money(demand, offers, offers.price).revenue, calendar())
    profit, price = brute_force(offers, demand, points, requirements_of(wanted, shop))

    if price is None:
        with pytest.raises(RulesConflict):
            best(offers, demand, wanted)
        return
    plan = best(offers, demand, wanted)

    assert plan.exact and plan.is_optimal
    assert plan.planned.profit.mean() == pytest.approx(profit, rel=2e-4)


@pytest.mark.parametrize("seed", range(6))
def test_large_groups_come_within_one_percent_of_brute_force_though_they_are_approximated(seed: int) -> None:
    offers, demand = random_shop(seed, 5, group_size=5)
    wanted = rules("largest_change: {share: 0.2}\nmean_price: {at_most: 1.0}\nrevenue: {at_least: 0.95}")
    points = ladders(offers, wanted)
    shop = Shop(offers, points, money(demand, offers, offers.price).revenue, calendar())
    profit, price = brute_force(offers, demand, points, requirements_of(wanted, shop))
    assert price is not None

    plan = best(offers, demand, wanted, Settings(max_combinations=10))

    assert not plan.exact
    assert profit * 0.99 <= plan.planned.profit.mean() <= profit * (1 + 1e-9)
    assert plan.planned.revenue.sum() >= 0.95 * plan.today.revenue.sum() * (1 - 1e-6)


def test_every_rule_holds_in_a_larger_shop() -> None:
    offers, demand = random_shop(3, 24, group_size=2)
    offers = dataclasses.replace(offers, stock=np.where(np.arange(24) == 0, 100.0, np.inf))
    text = MANY.replace("number: 3", "number: 7") + "fixed: {only: {products: [p5]}}\n"
    text += "sell_through: {share: 0.9, by: 2026-11-15}"

    plan = best(offers, demand, rules(text))

    changed = ~np.isclose(plan.price, offers.price)
    assert 0 < changed.sum() <= 7 and not changed[5]
    assert (np.abs(plan.price / offers.price - 1) <= 0.2 + 1e-9).all()
    assert ((plan.price - offers.cost) / plan.price >= 0.1 - 1e-9).all()
    assert 0.97 <= plan.price.mean() / offers.price.mean() <= 1.03
    assert plan.planned.revenue.sum() >= 0.97 * plan.today.revenue.sum() * (1 - 1e-9)
    for first in range(0, 24, 4):
        for size in (0, 1):
            assert plan.price[first + size] <= plan.price[first + size + 2] + 1e-6
    assert plan.planned.units[0] * 2 >= 0.9 * 100
    assert plan.planned.profit.mean() > plan.today.profit.mean()


def test_new_prices_have_the_endings_of_the_ladder() -> None:
    offers, demand = random_shop(0, 8, group_size=1)

    plan = best(offers, demand, rules("largest_change: {share: 0.3}"))

    new = plan.price[~np.isclose(plan.price, offers.price)]
    assert len(new) and set(np.round(new % 1, 2)) <= {0.29, 0.49, 0.79, 0.99}


def test_stores_of_a_zone_share_a_price_though_they_differ_today() -> None:
    offers, demand = random_shop(1, 3, group_size=1)
    offers = dataclasses.replace(
        offers, products=("a", "a", "a"), stores=("1", "2", "3"), price=np.array([3.0, 3.2, 3.4]), cost=np.full(3, 1.0)
    )

    plan = best(offers, demand, rules('zones: {stores: ["1", "3"]}'))

    assert plan.price[0] == plan.price[2]


def test_larger_packs_cost_no_less_and_no_more_per_unit() -> None:
    offers, demand = random_shop(2, 4, group_size=1)
    offers = dataclasses.replace(
        offers,
        price=np.array([3.0, 6.0, 9.5, 5.0]),
        cost=np.array([1.0, 5.0, 9.0, 1.0]),
        size=np.array([1.0, 2.0, 3.0, 3.0]),
        brands=("Own", "Own", "Own", ""),
    )

    plan, loose = (best(offers, demand, rules(f"size_order: {{unit_price: {one}}}")) for one in ("true", "false"))

    for found in (plan, loose):
        assert all(one <= other + 1e-6 for one, other in pairwise(found.price[:3]))
    assert all(one >= other - 1e-6 for one, other in pairwise(plan.price[:3] / offers.size[:3]))
    assert not all(one >= other - 1e-6 for one, other in pairwise(loose.price[:3] / offers.size[:3]))


@pytest.mark.parametrize("seed", range(4))
def test_a_floor_holds_under_the_joint_demand_though_the_program_only_approximates_it(seed: int) -> None:
    offers, demand = random_shop(seed, 12, group_size=6)
    strong = dataclasses.replace(demand, elasticity=demand.elasticity * np.where(demand.elasticity > 0, 1.5, 1.0))
    offers = dataclasses.replace(offers, cost=offers.price * 0.75)
    wanted = rules("revenue: {at_least: 1.0}", "ladder: {step: 0.05, most_points: 9}\n")

    plan = best(offers, strong, wanted, Settings(max_combinations=10))

    assert not plan.exact
    assert plan.planned.revenue.sum() >= plan.today.revenue.sum() * (1 - 1e-6)
    assert plan.planned.profit.sum() > plan.today.profit.sum()


def test_profit_counts_no_more_units_than_the_stock() -> None:
    offers, _ = random_shop(4, 1, group_size=1)
    steep = LogLogDemand(np.array([100.0]), offers.price, np.full((1, 1, 1), -4.0))
    few = dataclasses.replace(offers, cost=offers.price * 0.1, stock=np.array([100.0]))

    plenty = best(dataclasses.replace(few, stock=np.array([np.inf])), steep, rules(""))

    assert plenty.price[0] < offers.price[0]
    assert best(few, steep, rules("")).price[0] >= offers.price[0]


def test_caution_keeps_prices_whose_gain_the_members_do_not_agree_on() -> None:
    offers, _ = random_shop(5, 1, group_size=1)
    offers = dataclasses.replace(offers, price=np.array([3.0]), cost=np.array([2.0]))
    split = LogLogDemand(np.array([100.0]), offers.price, np.array([-0.5, -4.9])[:, None, None])

    bold, careful = (best(offers, split, rules(""), Settings(caution=caution)) for caution in (0.0, 3.0))

    assert bold.price[0] != 3.0
    assert careful.price[0] == 3.0


def test_a_conflict_names_an_irreducible_set_of_rules_with_their_lines() -> None:
    offers, demand = random_shop(6, 6, group_size=2)
    offers = dataclasses.replace(offers, cost=np.where(np.arange(6) == 4, offers.price * 1.4, offers.cost))
    text = (
        "max_changes: {number: 4}\nmargin_floor: {share: 0.05}\nlargest_change: {share: 0.1}\nrevenue: {at_least: 0.5}"
    )

    with pytest.raises(RulesConflict) as caught:
        best(offers, demand, rules(text))

    assert [(one.kind, one.source) for one in caught.value.requirements] == [
        ("margin_floor", "rules.yaml:3"),
        ("largest_change", "rules.yaml:4"),
    ]
    assert "margin_floor (rules.yaml:3): product p4 costs at least" in str(caught.value)
    assert "loosen one of them" in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_every_part_of_a_conflict_can_be_kept(seed: int) -> None:
    offers, demand = random_shop(seed, 4, group_size=2)
    wanted = rules(
        "margin_floor: {share: 0.05}\nlargest_change: {share: 0.2}\nmax_changes: {number: 2}\n"
        "mean_price: {at_least: 1.15}\nrevenue: {at_least: 1.1}"
    )
    with pytest.raises(RulesConflict) as caught:
        best(offers, demand, wanted)
    points = ladders(offers, wanted, wide=True)
    conflict = list(caught.value.requirements)

    assert brute_force(offers, demand, points, conflict)[1] is None
    for left_out in range(len(conflict)):
        rest = conflict[:left_out] + conflict[left_out + 1 :]
        assert brute_force(offers, demand, points, rest)[1] is not None


def test_a_margin_floor_far_above_the_price_is_reached_where_no_rule_limits_the_change() -> None:
    offers, demand = random_shop(7, 2, group_size=1)
    offers = dataclasses.replace(offers, cost=offers.price * 2)

    plan = best(offers, demand, rules("margin_floor: {share: 0.1}"))

    assert ((plan.price - offers.cost) / plan.price >= 0.1 - 1e-9).all()


def test_a_date_that_has_passed_conflicts_alone() -> None:
    offers, demand = random_shop(8, 2, group_size=1)
    offers = dataclasses.replace(offers, stock=np.array([50.0, np.inf]))

    with pytest.raises(RulesConflict, match=r"sell_through.*product p0 sells 90% of its stock of 50") as caught:
        best(offers, demand, rules("sell_through: {share: 0.9, by: 2026-10-01}\nmax_changes: {number: 1}"))

    assert len(caught.value.requirements) == 1


def test_no_time_leaves_todays_prices_if_they_keep_the_rules_and_else_is_an_error_that_says_so() -> None:
    offers, demand = random_shop(9, 40, group_size=4)
    wanted, settings = MANY.replace("number: 3", "number: 9"), Settings(time_limit_s=1e-9, gap=0)

    kept = best(offers, demand, rules(wanted), settings)

    assert np.allclose(kept.price, offers.price) and not kept.is_optimal
    with pytest.raises(NoPlanFound, match="allow more time"):
        best(offers, demand, rules(wanted.replace("share: 0.1", "share: 0.3")), settings)


def test_a_ladder_of_millions_of_prices_is_thinned_without_listing_them() -> None:
    offers, _ = random_shop(9, 2, group_size=1)
    offers = dataclasses.replace(offers, price=offers.price * 1e7, cost=offers.cost * 1e7)

    for ladder in ("ladder: {step: 0.0001}", "ladder: {endings: [0.99, 0.49]}"):
        points = ladders(offers, rules("", ladder))
        assert all(len(one) <= 10 for one in points)
        assert all(one[0] < price < one[-1] for one, price in zip(points, offers.price, strict=True))


def test_prices_of_what_nobody_buys_do_not_change() -> None:
    offers, demand = random_shop(2, 4, group_size=2)
    nobody = dataclasses.replace(demand, base=np.zeros(4))

    assert np.allclose(best(offers, nobody, rules("max_changes: {number: 4}")).price, offers.price)


def test_a_demand_that_is_no_number_is_named() -> None:
    offers, demand = random_shop(2, 4, group_size=2)
    broken = dataclasses.replace(demand, base=np.array([1.0, np.nan, 1.0, 1.0]))

    with pytest.raises(ValueError, match=r"the demand for product p\d at today's price is nan"):
        best(offers, broken, rules(""))
    with pytest.raises(ValueError, match="the stock of product p1 is -1"):
        dataclasses.replace(offers, stock=np.array([1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="time_limit_s is nan"):
        Settings(time_limit_s=float("nan"))


def test_prices_stay_within_those_an_offer_was_sold_at_unless_the_rules_ask_for_others() -> None:
    offers, demand = random_shop(1, 4, group_size=1)
    seen = np.stack([offers.price * 0.97, offers.price * 1.02], 1)
    seen[3] = np.nan
    offers = dataclasses.replace(offers, seen=seen)
    ladder = "ladder: {step: 0.01, most_points: 100}\nlargest_change: {share: 0.4}\n"

    points = ladders(offers, rules("", ladder))

    assert all(seen[at, 0] <= points[at].min() and points[at].max() <= seen[at, 1] for at in range(3))
    assert np.ptp(points[3]) > 0.7 * offers.price[3]
    floor = 1 - offers.cost[0] / (offers.price[0] * 1.2)
    wanted = rules(f"margin_floor: {{share: {floor:.6f}, only: {{products: [p0]}}}}", ladder)
    assert best(offers, demand, wanted).price[0] >= 1.19 * offers.price[0]
