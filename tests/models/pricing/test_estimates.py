"""Log-log, trees, blends and double machine learning, on data whose elasticities are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.pricing.blend import Blend, blend_weights, r2, wape
from models.pricing.demand import slopes
from models.pricing.design import Design, design_of
from models.pricing.dml import Elasticities, double_ml, shrunk
from models.pricing.loglog import fit_loglog
from models.pricing.panel import panel_of
from models.pricing.simulator import simulate
from models.pricing.tree import TreeSettings, fit_tree
from tests.models.pricing.test_networks import market
from tests.models.pricing.test_panel_and_design import whole


@pytest.fixture(scope="module")
def confounded() -> tuple[Design, np.ndarray]:
    simulation = simulate(0)
    return whole(simulation.panel), simulation.elasticity


def naive(design: Design) -> np.ndarray:
    """Least squares of log units on the log price alone, by product."""
    found = []
    for product in range(design.num_products):
        own = design.product == product
        columns = np.column_stack([design.own[own], np.ones(own.sum())])
        found.append(np.linalg.lstsq(columns, (design.log_units - design.level)[own], rcond=None)[0][0])
    return np.array(found)


def test_log_log_recovers_own_and_cross_elasticities_with_honest_errors() -> None:
    model = fit_loglog(market())

    assert model.elasticity == pytest.approx([-2, -2], abs=0.05)
    assert model.coefficients[0, 2] / model.scale[2] == pytest.approx(0.8, abs=0.05)
    assert (model.elasticity_error < 0.05).all() and (model.elasticity_error > 0.002).all()


def test_shrinkage_beats_least_squares_where_products_are_noisy() -> None:
    errors = []
    for seed in range(4):
        draw = np.random.default_rng(seed)
        truth = draw.normal(-2.5, 0.3, 30)
        change = draw.normal(0, 0.1, (30, 1, 80))
        units = np.exp(3 + truth[:, None, None] * change + draw.normal(0, 0.6, change.shape))
        made = panel_of(
            [str(number) for number in range(30)],
            ["shop"],
            units=units,
            prices=np.exp(change),
            costs=np.ones(1) / 2,
            groups=list(range(30)),
        )
        design = whole(made)
        plain, pooled = fit_loglog(design), fit_loglog(design, shrink_by=np.zeros(30, np.int64))
        errors.append([np.abs(model.elasticity - truth).mean() for model in (plain, pooled)])
        assert (pooled.elasticity_error < plain.elasticity_error).all()

    plain_error, pooled_error = np.mean(errors, 0)
    assert pooled_error < 0.75 * plain_error


def test_a_product_without_rows_has_the_elasticity_of_the_others() -> None:
    design = whole(simulate(1, num_products=5, num_periods=150).panel)
    rest = design.rows(design.product != 2)

    model = fit_loglog(rest, shrink_by=np.zeros(5, np.int64))

    assert np.isfinite(model.coefficients).all()
    assert model.elasticity[[0, 1, 3, 4]].min() < model.elasticity[2] < model.elasticity[[0, 1, 3, 4]].max()
    assert model.elasticity_error[2] > 0


def test_a_price_that_never_moved_has_no_elasticity_of_its_own() -> None:
    design = market()
    still = dataclasses.replace(design, own=np.where(design.product == 0, 0.0, design.own))

    found = double_ml(still)

    assert np.isnan(found.value[0]) and found.value[1] == pytest.approx(-2, abs=0.3)
    assert fit_loglog(still).elasticity[0] == 0 and fit_loglog(still).elasticity_error[0] > 5


def test_too_few_periods_for_least_squares_is_said() -> None:
    design = market()
    with pytest.raises(ValueError, match=r"no product has .* periods with stock, which least squares needs"):
        fit_loglog(design.rows(design.period < 5))


def test_sold_out_rows_do_not_pull_estimates_down() -> None:
    design = market()
    high = design.own < -0.2
    assert 0.1 < high.mean() < 0.5
    cut = dataclasses.replace(design, units=np.where(high, design.units * 0.5, design.units), censored=high)

    for fit in (fit_loglog, fit_tree):
        aware, blind = fit(cut), fit(dataclasses.replace(cut, censored=np.zeros_like(high)))
        middle = (design.own > -0.2) & (design.own < 0)
        truth = design.log_units[middle].mean()
        assert abs(aware.log_units(design)[middle].mean() - truth) < 0.05
        assert abs(aware.log_units(design)[middle].mean() - truth) < abs(blind.log_units(design)[middle].mean() - truth)


def test_the_simulator_is_as_confounded_as_it_should_be_and_double_ml_sees_through(
    confounded: tuple[Design, np.ndarray],
) -> None:
    design, truth = confounded
    found = double_ml(design)

    assert np.abs(naive(design) - truth).mean() == pytest.approx(1.59, abs=0.15)
    assert np.abs(found.value - truth).mean() < 0.14
    low, high = found.interval()
    assert ((low < truth) & (truth < high)).mean() > 0.75
    assert (found.variation > 0.1).all() and (found.variation < 0.7).all()
    assert found.explained.mean() > 0.5


def test_shrinking_elasticities_pulls_uncertain_ones_to_the_mean_and_fills_unknown_ones() -> None:
    found = Elasticities(
        np.array([-2.0, -2.2, -1.8, -6.0, np.nan]), np.array([0.1, 0.1, 0.1, 3.0, np.nan]), *np.ones((2, 5))
    )

    pooled = shrunk(found, np.zeros(5, np.int64))

    assert pooled.value[:3] == pytest.approx(found.value[:3], abs=0.15)
    assert pooled.value[3] == pytest.approx(-2.0, abs=0.3)
    assert pooled.value[4] == pytest.approx(-2.0, abs=0.2) and np.isfinite(pooled.error).all()


def test_trees_never_rise_with_the_own_price_on_any_row() -> None:
    draw = np.random.default_rng(0)
    design = market()
    noisy = dataclasses.replace(design, units=design.units * np.exp(draw.normal(0, 1, len(design.units))))
    model = fit_tree(noisy, TreeSettings(num_trees=60, min_rows_a_leaf=5))

    curves = np.stack([model.log_units(noisy.at(np.full(len(noisy.own), one))) for one in np.linspace(-0.6, 0.3, 40)])

    assert (np.diff(curves, axis=0) <= 1e-12).all()
    assert (np.diff(curves, axis=0) < 0).any(0).all()


def test_a_blend_has_the_weights_that_fit_best_and_beats_its_parts() -> None:
    design = market()
    draw = np.random.default_rng(0)
    parts = {
        name: design.log_units + draw.normal(0, spread, len(design.own)) for name, spread in [("a", 0.1), ("b", 0.2)]
    }
    parts["useless"] = parts["a"] + 5

    weights = blend_weights(parts, design.log_units)
    mixed = np.asarray(sum(weights[name] * parts[name] for name in parts))

    assert sum(weights.values()) == pytest.approx(1) and weights["useless"] == pytest.approx(0, abs=1e-3)
    assert weights["a"] == pytest.approx(0.8, abs=0.05)
    assert r2(design.log_units, mixed) > max(r2(design.log_units, one) for one in parts.values())
    assert wape(design.log_units, mixed) < wape(design.log_units, parts["a"])


def test_a_blend_of_falling_models_falls_and_is_their_weighted_mean() -> None:
    design = market()
    tree, line = fit_tree(design), fit_loglog(design)
    blend = Blend([tree, line], [0.25, 0.75])

    assert blend.log_units(design) == pytest.approx(0.25 * tree.log_units(design) + 0.75 * line.log_units(design))
    assert (slopes(blend, design, step=0.05) < 0).all()


def test_lags_do_not_see_the_validation_rows() -> None:
    panel = simulate(0, num_products=3, num_periods=40).panel
    design = design_of(panel, panel.row_period < 30)

    assert np.isfinite(design.context).all()


def test_prices_are_predicted_from_other_weeks_than_their_own() -> None:
    found = double_ml(whole(simulate(3, num_products=5, confounding=0.0).panel))

    assert (found.variation > 0.9).all()  # nothing predicts these prices but themselves


def test_where_products_are_too_short_elasticities_are_pooled_and_still_differ() -> None:
    draw = np.random.default_rng(0)
    truth = np.repeat([-3.5, -1.0], 10)
    change = draw.choice([-0.3, -0.15, 0.0, 0.1], (20, 1, 24))
    units = np.exp(4 + truth[:, None, None] * change + draw.normal(0, 0.2, change.shape))
    panel = panel_of(
        [f"p{number}" for number in range(20)],
        [""],
        units=units,
        prices=3 * np.exp(change),
        costs=np.array(1.0),
        groups=list(range(20)),
    )

    found = fit_loglog(whole(panel), shrink_by=np.zeros(20, np.int64))

    assert np.abs(found.elasticity - truth).mean() < 0.5
    assert np.array_equal(np.unique(found.coefficients[:, 2]).shape, (1,))
