"""The monotone network: demand never rises with the own price, counts and sold-out rows, and what it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from models.pricing.blend import r2
from models.pricing.demand import slopes
from models.pricing.design import Design, design_of
from models.pricing.panel import panel_of
from models.pricing.training import NetworkDemand, TrainingSettings, batch_of, fit_network, network_for
from tests.models.pricing.test_panel_and_design import panel, whole

QUICK = TrainingSettings(epochs=12, batch_size=64, learning_rate=0.01, dropout=0.0)


def market(seed: int = 0, *, level: float = 4.0, poisson: bool = False) -> Design:
    """Two substitutes in one store with elasticity -2 and cross elasticity +0.8, over 300 periods."""
    draw = np.random.default_rng(seed)
    change = draw.choice([-0.4, -0.2, 0.0, 0.1], (2, 1, 300))
    log_mean = level - 2 * change + 0.8 * change[::-1]
    units = (
        draw.poisson(np.exp(log_mean)).astype(float)
        if poisson
        else np.exp(log_mean + draw.normal(0, 0.05, (2, 1, 300)))
    )
    made = panel_of(["a", "b"], ["shop"], units=units, prices=2 * np.exp(change), costs=np.ones(1))
    return whole(made)


@pytest.mark.parametrize("seed", range(3))
def test_demand_never_rises_with_the_own_price_whatever_the_weights(seed: int) -> None:
    design = whole(panel(seed))
    torch.manual_seed(seed)
    network = network_for(design, TrainingSettings()).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(3 * torch.randn_like(parameter))
    network.eval()
    batch = batch_of(design, np.arange(len(design.own)), dtype=torch.float64)
    with torch.no_grad():
        grid = torch.linspace(-1.5, 1.0, 60, dtype=torch.float64)
        curves = torch.stack([network(dataclasses.replace(batch, own=torch.full_like(batch.own, one))) for one in grid])

    assert (curves.diff(dim=0) <= 1e-9).all()
    assert (curves.diff(dim=0) < 0).any()


def test_the_analytic_elasticity_is_the_slope_of_the_network() -> None:
    design = whole(panel())
    network = network_for(design, TrainingSettings()).double().eval()
    batch = batch_of(design, np.arange(len(design.own)), dtype=torch.float64)
    own = batch.own.clone().requires_grad_()
    network(dataclasses.replace(batch, own=own)).sum().backward()
    assert own.grad is not None

    assert torch.allclose(network.elasticity(batch), own.grad, atol=1e-9)


def test_a_network_learns_own_and_cross_effects() -> None:
    design = market()
    model = fit_network(design, QUICK)

    raised = design.at(design.own, design.rivals + 0.1 * design.has_rival)
    cross = (model.log_units(raised) - model.log_units(design)) / 0.1

    assert r2(design.log_units, model.log_units(design)) > 0.9
    assert slopes(model, design, step=0.01).mean() == pytest.approx(-2, abs=0.3)
    assert cross.mean() == pytest.approx(0.8, abs=0.3)


def test_a_count_head_learns_the_demand_of_slow_movers() -> None:
    design = market(level=-0.5, poisson=True)
    assert (design.units == 0).mean() > 0.3

    model = fit_network(design, dataclasses.replace(QUICK, counts=True, epochs=8))

    expected = np.exp(model.log_units(design))
    assert expected.mean() == pytest.approx(design.units.mean(), rel=0.1)
    cheap = design.own < np.quantile(design.own, 0.3)
    assert expected[cheap].mean() == pytest.approx(design.units[cheap].mean(), rel=0.2)


@pytest.mark.parametrize("counts", [False, True])
def test_sold_out_rows_are_lower_bounds_of_demand(counts: bool) -> None:
    design = market(level=2.0, poisson=True)
    limit = np.random.default_rng(1).choice([4.0, 12.0, 40.0], len(design.units))
    cut = dataclasses.replace(design, units=np.minimum(design.units, limit), censored=design.units >= limit)
    settings = dataclasses.replace(QUICK, counts=counts, epochs=8)

    naive = fit_network(dataclasses.replace(cut, censored=np.zeros_like(cut.censored)), settings)
    aware = fit_network(cut, settings)

    def mean_of(model: NetworkDemand) -> float:
        return float(np.exp(model.log_units(design)).mean())

    truth = float(design.units.mean())
    assert mean_of(naive) < 0.85 * truth
    assert abs(mean_of(aware) - truth) < 0.6 * abs(mean_of(naive) - truth)


def test_training_is_reproducible_and_weights_repeat_rows() -> None:
    design = market()
    quick = dataclasses.replace(QUICK, epochs=1)
    first_half = design.period < 150

    one, other = (fit_network(design, quick).log_units(design) for _ in range(2))
    by_weight = fit_network(design, quick, weights=first_half.astype(float)).log_units(design)
    by_rows = fit_network(design.rows(first_half), quick).log_units(design)

    assert np.array_equal(one, other)
    assert np.array_equal(by_weight, by_rows)


def test_a_design_of_unknown_products_is_predicted_at_their_level() -> None:
    of = panel()
    train = of.row_product != 1
    design = design_of(of, train)
    model = fit_network(design.rows(train), dataclasses.replace(QUICK, epochs=1))

    assert np.isfinite(model.log_units(design.rows(~train))).all()
