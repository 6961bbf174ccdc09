"""Fitted demand at any prices, the check of a claim, and reasons not to trust an elasticity."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from models.pricing.blend import Blend
from models.pricing.claims import check_claim
from models.pricing.demand import FittedDemand, curve, ensemble, fitted_demand, offers_of, slopes
from models.pricing.design import Design, design_of
from models.pricing.dml import Elasticities, double_ml
from models.pricing.loglog import fit_loglog
from models.pricing.optimise import optimise
from models.pricing.panel import Panel, panel_of
from models.pricing.rules import parse_rules
from models.pricing.simulator import SimulatedDemand, simulate
from models.pricing.training import TrainingSettings, fit_network
from models.pricing.tree import TreeSettings, fit_tree
from models.pricing.trust import estimate_flags, flags_of_estimates, history_flags, support_of
from models.pricing.weeks import alternating_halves
from tests.models.pricing.shops import calendar
from tests.models.pricing.test_panel_and_design import whole

STORES = ["north", "south"]


def two_stores(seed: int = 0, *, noise: float = 0.1, periods: int = 120, elasticity: float = -2.5) -> Panel:
    """Three products in two stores; the first two are substitutes, the third is alone. Prices are random."""
    draw = np.random.default_rng(seed)
    change = draw.choice([-0.3, -0.15, 0.0, 0.1], (3, 2, periods))
    cross = 0.7 * np.stack([change[1], change[0], np.zeros_like(change[0])])
    level = np.log([100.0, 60.0, 30.0])[:, None, None]
    units = np.exp(level + elasticity * change + cross + draw.normal(0, noise, change.shape))
    return panel_of(
        ["a", "b", "c"], STORES, units=units, prices=3 * np.exp(change), costs=np.array(1.6), groups=[0, 0, 1]
    )


def last_period(design: Design) -> Design:
    return design.rows(design.period == design.period.max())


def demand_of(design: Design, *, members: int = 1) -> FittedDemand:
    fitted = ensemble(lambda rows, weights, _: fit_loglog(rows, weights=weights), design, num_members=members)
    return fitted_demand(fitted, design, last_period(design))


def test_demand_answers_price_lists_with_own_and_cross_effects_in_each_store() -> None:
    design = whole(two_stores())
    demand = demand_of(design)
    today = np.full(6, 3.0)
    dearer = today.copy()
    dearer[0] *= 1.1

    units = demand.units(np.stack([today, dearer]))

    assert units.shape == (1, 2, 6)
    ratio = units[0, 1] / units[0, 0]
    assert ratio[0] == pytest.approx(1.1**-2.5, rel=0.02)
    assert ratio[2] == pytest.approx(1.1**0.7, rel=0.02)
    assert ratio[[1, 3, 4, 5]] == pytest.approx(1.0)
    names = (("a", "b", "c"), tuple(STORES))
    offers = offers_of(demand.state, names, price=today, cost=np.ones(6))
    assert (offers.name(0), offers.name(2)) == ("product a in store north", "product b in store north")
    assert offers.group[0] == offers.group[2] != offers.group[4] and offers.group[0] != offers.group[1]


def test_expected_units_are_means_though_models_fit_logarithms() -> None:
    panel = two_stores(noise=1.0, periods=400)
    design = whole(panel)
    demand = demand_of(design)
    model = demand.members[0]

    expected = np.exp(model.log_units(design)) * demand.smearing[0, design.product]

    for product in range(3):
        own = design.product == product
        assert expected[own].mean() == pytest.approx(design.units[own].mean())
    assert np.exp(model.log_units(design)).mean() < 0.8 * design.units.mean()


def test_a_curve_falls_within_its_band_and_the_band_holds_the_truth() -> None:
    design = whole(two_stores(noise=0.4))
    demand = demand_of(design, members=20)
    prices = np.linspace(2.5, 3.5, 9)

    low, mean, high = curve(demand, 4, prices, np.full(6, 3.0))

    assert (np.diff(mean) < 0).all() and (low <= mean).all() and (mean <= high).all()
    truth = 30 * np.exp(0.08) * (prices / 3) ** -2.5
    assert ((low < 1.1 * truth) & (truth < 1.1 * high)).all()


def check(panel: Panel, price: float, *, num_evaluators: int = 30) -> tuple[float, float, float, bool]:
    """The claim of a network about one price for all, re-estimated by log-log on the other half of the weeks."""
    even, odd = alternating_halves(panel.row_period)
    claiming, evaluating = design_of(panel, even), design_of(panel, odd)
    settings = TrainingSettings(epochs=20, batch_size=64, learning_rate=0.01, dropout=0.0)
    claims = fitted_demand([fit_network(claiming.rows(even), settings)], claiming.rows(even), last_period(claiming))
    evaluators = ensemble(
        lambda rows, weights, _: fit_loglog(rows, weights=weights), evaluating.rows(odd), num_members=num_evaluators
    )
    evaluator = fitted_demand(evaluators, evaluating.rows(odd), last_period(evaluating))
    offers = offers_of(claims.state, (panel.products, panel.stores), price=np.full(6, 3.0), cost=np.full(6, 2.2))
    claim = check_claim(np.full(6, price), offers, claims=claims, evaluator=evaluator)
    return claim.reestimated, claim.low, claim.high, claim.is_recommended


def true_gain(price: float) -> float:
    """Of the same price for all: the first two products have elasticity -2.5 + 0.7, the third -2.5."""
    units = np.array([100.0, 60.0, 30.0])
    ratio = (price / 3) ** np.array([-1.8, -1.8, -2.5])
    return float(((price - 2.2) * units * ratio).sum() / (0.8 * units.sum()) - 1)


def test_a_true_gain_is_recommended_and_a_loss_is_not() -> None:
    panel = two_stores(noise=0.2)
    assert true_gain(3.3) > 0.1 > 0 > true_gain(2.4)

    reestimated, low, high, is_recommended = check(panel, 3.3)

    assert is_recommended and 0 < low < reestimated < high
    assert reestimated == pytest.approx(true_gain(3.3), abs=0.03)
    assert not check(panel, 2.4)[-1]


def test_a_gain_that_noise_could_explain_is_not_recommended() -> None:
    reestimated, low, _, is_recommended = check(two_stores(noise=2.5), 3.3)

    assert low < 0 and not is_recommended
    assert reestimated > low


def test_a_model_must_not_evaluate_its_own_claim_and_an_evaluator_needs_members() -> None:
    design = whole(two_stores(periods=60))
    demand, few = demand_of(design), demand_of(design, members=2)
    offers = offers_of(demand.state, (("a", "b", "c"), STORES), price=np.full(6, 3.0), cost=np.ones(6))
    tree = fitted_demand([fit_tree(design, TreeSettings(num_trees=5))], design, last_period(design))

    with pytest.raises(ValueError, match="LogLog cannot evaluate its own claim"):
        check_claim(offers.price, offers, claims=demand, evaluator=demand)
    mixed = dataclasses.replace(demand, members=[Blend([demand.members[0], tree.members[0]], [0.5, 0.5])])
    with pytest.raises(ValueError, match="LogLog cannot evaluate its own claim"):
        check_claim(offers.price, offers, claims=mixed, evaluator=demand)
    with pytest.raises(ValueError, match="the evaluator has 2 bootstrap members; it needs 10"):
        check_claim(offers.price, offers, claims=tree, evaluator=few)


def test_today_without_profit_has_no_relative_gain() -> None:
    design = whole(two_stores())
    demand = demand_of(design, members=10)
    offers = offers_of(demand.state, (("a", "b", "c"), STORES), price=np.full(6, 3.0), cost=np.full(6, 5.0))
    tree = fitted_demand([fit_tree(design, TreeSettings(num_trees=5))], design, last_period(design))

    with pytest.raises(ValueError, match="no profit"):
        check_claim(np.full(6, 6.0), offers, claims=tree, evaluator=demand)


def test_prices_from_a_fitted_model_earn_more_in_the_shop_that_made_the_data() -> None:
    panel = two_stores(noise=0.2)
    design = whole(panel)
    demand = demand_of(design, members=8)
    offers = offers_of(demand.state, (panel.products, panel.stores), price=np.full(6, 3.0), cost=np.full(6, 1.6))
    rules = parse_rules("ladder: {step: 0.1}\nlargest_change: {share: 0.15}", Path("r.yaml"))

    plan = optimise(offers, demand, rules, calendar=calendar())

    alone = SimulatedDemand(np.full(2, 30.0), np.full(2, 3.0), np.full(2, -2.5))
    new, old = (((price - 1.6) * alone.units(price[None])[0, 0]).sum() for price in (plan.price[4:], np.full(2, 3.0)))
    assert new >= old
    assert plan.gain.shape == (8,) and plan.gain.mean() > 0


def flag_names(panel: Panel, found: Elasticities | None = None) -> list[set[str]]:
    num = len(panel.products)
    known = found or Elasticities(np.full(num, -2.0), np.full(num, 0.1), np.ones(num), np.ones(num))
    of_history = [history_flags(support) for support in support_of(panel)]
    return [
        {flag.name for flag in (*one, *two)} for one, two in zip(of_history, flags_of_estimates(known), strict=True)
    ]


def test_each_weakness_of_a_price_history_has_its_flag() -> None:
    periods = 60
    draw = np.random.default_rng(0)
    on = draw.integers(0, 2, periods).astype(float)
    prices = np.ones((7, 1, periods))
    prices[0] = np.exp(draw.normal(0, 0.2, periods))
    prices[2, 0, 30:] = 1.2
    prices[3, 0, ::2] = 1.1
    prices[4] = 1 - 0.2 * on
    prices[5, 0, 5] = 1.3
    prices[6] = prices[0]
    promotion = np.zeros((7, 1, periods, 1))
    promotion[4, 0, :, 0] = on
    panel = panel_of(
        list("abcdefg"),
        ["s"],
        units=np.full((7, 1, periods), 5.0),
        prices=prices,
        costs=np.ones(1) / 2,
        promotion=promotion,
    )
    panel = dataclasses.replace(panel, row_stock=np.where(panel.row_product == 6, 5.0, np.inf))

    good, still, once, two, promoted, rare, sold_out = flag_names(panel)

    assert good == set()
    assert still == {"one price"}
    assert once == {"few prices", "few changes"}
    assert two == {"few prices"}
    assert promoted == {"few prices", "promotion only"}
    assert rare == {"few prices", "few changes", "rarely off price"}
    assert sold_out == {"often sold out"}
    assert "short" in flag_names(panel.rows(panel.row_period < 20))[0]
    assert support_of(panel)[3].num_changes == periods - 1


def test_each_weakness_of_an_estimate_has_its_flag_with_the_numbers() -> None:
    def named(**given: object) -> dict[str, str]:
        return {flag.name: flag.text for flag in estimate_flags(**{"value": -2.0, "error": 0.1, **given})}  # type: ignore[arg-type]

    assert named() == {}
    assert named(value=0.4) == {"rises with price": "demand seems to rise with the price: elasticity +0.40"}
    assert "the 90 % band is 3.3 wide" in named(error=1.0)["wide band"]
    assert set(named(explained=0.004)) == {"explains little"}
    assert "-1.00 and -3.00" in named(halves=((-1.0, 0.2), (-3.0, 0.2)))["halves disagree"]
    assert named(halves=((-1.0, 2.0), (-3.0, 2.0))) == {}
    assert set(named(value=np.nan, error=np.nan)) == {"not estimated"}


def test_a_product_whose_elasticity_changed_is_flagged_by_its_halves() -> None:
    panel = simulate(0, num_products=4, num_periods=160, demand_noise=0.1).panel
    even, _ = alternating_halves(panel.row_period)
    change = np.where(even & (panel.row_product == 2), panel.row_price / 5, 1.0) ** 2.5
    broken = dataclasses.replace(panel, row_units=panel.row_units * change)

    def estimate(of: Panel) -> Elasticities:
        return double_ml(whole(of), num_folds=3)

    first, second = (estimate(broken.rows(half)) for half in alternating_halves(broken.row_period))
    flags = flags_of_estimates(estimate(broken), (first, second))

    assert ["halves disagree" in {flag.name for flag in one} for one in flags] == [False, False, True, False]


def test_slopes_of_a_log_log_model_are_its_elasticities() -> None:
    design = whole(two_stores())
    model = fit_loglog(design)

    assert slopes(model, design) == pytest.approx(model.elasticity[design.product])
