"""A shop with known elasticities whose prices follow demand: what naive estimates get wrong and others must not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.pricing.panel import Floats, Panel, panel_of


@dataclass(frozen=True)
class Simulation:
    """A panel of one store with the elasticities [P] that made it, and the shift of log demand of each row [N]."""

    panel: Panel
    elasticity: Floats
    shift: Floats


@dataclass(frozen=True)
class SimulatedDemand:
    """Known demand of offers: units = base * (price / usual) ** elasticity, never rising with the own price."""

    base: Floats
    usual: Floats
    elasticity: Floats

    def units(self, prices: Floats) -> Floats:
        """Units a period [1, M, I]."""
        result: Floats = (self.base * np.exp(self.elasticity * np.log(prices / self.usual)))[None]
        return result


def simulate(
    seed: int,
    *,
    num_products: int = 50,
    num_periods: int = 156,
    confounding: float = 0.32,
    price_noise: float = 0.29,
    demand_noise: float = 0.38,
) -> Simulation:
    """Products whose prices rise with two observed drivers of demand, one of them in a curved way.

    The drivers, a season and a trend of interest, are columns of the panel's promotion, so that a model may use them.
    Log units are elasticity * log price + shift + noise, log prices `confounding` * shift + noise.
    """
    draw = np.random.default_rng(seed)
    elasticity = np.clip(draw.normal(-2.5, 0.7, num_products), -4.5, -0.8)
    season = draw.normal(size=(num_products, num_periods))
    interest = draw.uniform(-1.5, 1.5, (num_products, num_periods))
    shift = 0.8 * season + 0.6 * (interest**2 - 0.75) + 0.2 * np.sin(2 * season) * interest
    usual = draw.uniform(2, 20, (num_products, 1))
    noise = draw.normal(size=(2, num_products, num_periods))
    log_price = np.log(usual) + confounding * shift + price_noise * noise[0]
    level = draw.uniform(3, 6, (num_products, 1))
    log_units = level + elasticity[:, None] * (log_price - np.log(usual)) + shift + demand_noise * noise[1]
    panel = panel_of(
        [f"product {number}" for number in range(num_products)],
        ["shop"],
        units=np.exp(log_units)[:, None],
        prices=np.exp(log_price)[:, None],
        costs=(0.55 * usual)[:, None],
        promotion=np.stack([season, interest], axis=-1)[:, None],
        groups=list(range(num_products)),
    )
    return Simulation(panel, elasticity, shift.ravel())
