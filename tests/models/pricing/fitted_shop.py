"""A shop with known demand, fitted as the family does: ensembles by half, evaluated by another class of model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.pricing.blend import Predictor
from models.pricing.demand import ensemble, fitted_demand
from models.pricing.design import Design, design_of
from models.pricing.fitted import Fitted, Models
from models.pricing.loglog import fit_loglog
from models.pricing.offers import Offers
from models.pricing.panel import Flags, Floats, Panel, panel_of
from models.pricing.weeks import alternating_halves

USUAL = 3.0


@dataclass(frozen=True)
class Quadratic:
    """Log units of a product = level + a polynomial [P, 3] of the own price: a class of model that takes no time."""

    coefficients: Floats

    def log_units(self, design: Design) -> Floats:
        result: Floats = design.level + (_powers(design) * self.coefficients[design.product]).sum(1)
        return result


def fit_quadratic(design: Design, *, weights: Floats) -> Quadratic:
    root, target = np.sqrt(weights), design.log_units - design.level
    rows = [np.flatnonzero(design.product == product) for product in range(design.num_products)]
    powers = _powers(design) * root[:, None]
    return Quadratic(np.stack([np.linalg.lstsq(powers[one], (root * target)[one], rcond=None)[0] for one in rows]))


def _powers(design: Design) -> Floats:
    return np.stack([np.ones_like(design.own), design.own, design.own**2], axis=1)


def panel_with(elasticity: Floats, *, noise: float, periods: int = 320, seed: int = 0) -> Panel:
    """Products of one store that are no rivals, sold at random prices around 3."""
    draw = np.random.default_rng(seed)
    change = draw.choice([-0.2, -0.1, 0.0, 0.1], (len(elasticity), 1, periods))
    units = np.exp(np.log(100.0) + elasticity[:, None, None] * change + draw.normal(0, noise, change.shape))
    return panel_of(
        [f"p{number}" for number in range(len(elasticity))],
        [""],
        units=units,
        prices=USUAL * np.exp(change),
        costs=np.array(1.6),
        groups=list(range(len(elasticity))),
    )


def fitted_to(panel: Panel, *, members: int = 2, refits: int = 12) -> tuple[Fitted, Design]:
    """What the panel taught, and the state of its last period."""
    design = design_of(panel, np.ones(len(panel.row_units), bool))
    even, odd = alternating_halves(panel.row_period)

    def models(rows: Flags, *, are_evaluators: bool, number: int) -> Models:
        def fit(of: Design, weights: Floats, seed: int) -> Predictor:
            return fit_quadratic(of, weights=weights) if are_evaluators else fit_loglog(of, weights=weights)

        found = ensemble(fit, design.rows(rows), num_members=number)
        demand = fitted_demand(found, design.rows(rows), design.rows(rows))
        return Models(found, demand.smearing)

    halves = (models(even, are_evaluators=False, number=members), models(odd, are_evaluators=False, number=members))
    evaluators = (models(even, are_evaluators=True, number=refits), models(odd, are_evaluators=True, number=refits))
    everything = Models(
        [*halves[0].members, *halves[1].members], np.concatenate([halves[0].smearing, halves[1].smearing])
    )
    return Fitted(everything, halves, evaluators), design.rows(design.period == design.period.max())


def offers_at(state: Design, price: Floats, cost: Floats) -> Offers:
    """The offers of a state, each in a demand group of its own."""
    num = len(price)
    return Offers(
        products=tuple(f"p{number}" for number in state.product),
        stores=("",) * num,
        price=price,
        cost=cost,
        stock=np.full(num, np.inf),
        size=np.full(num, np.nan),
        group=np.arange(num),
        categories=("a", "b") * (num // 2) + ("a",) * (num % 2),
        brands=("Own", "Best") * (num // 2) + ("Own",) * (num % 2),
    )
