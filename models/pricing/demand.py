"""Fitted models as demand at any prices: what the optimiser, the check of its claim, and curves ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.pricing.blend import Predictor
from models.pricing.design import Design
from models.pricing.offers import Offers
from models.pricing.panel import Floats, Ints
from models.pricing.weeks import bootstrap_weights

MAX_LOG = 40.0
ELASTICITY_STEP = 0.05


@dataclass(frozen=True)
class FittedDemand:
    """Expected units of offers in one state of the shop, by members of an ensemble [S].

    `state` has a row for each offer: its lags, promotions, level and usual price. `rival_rows` [I, R] names the offer
    in each rival's place, -1 for none. `smearing` [S, P] are the means of units by expected ones in training rows,
    since a mean of logarithms is not the logarithm of a mean (Duan, 1983).
    """

    members: Sequence[Predictor]
    state: Design
    rival_rows: Ints
    smearing: Floats

    def units(self, prices: Floats) -> Floats:
        """Units a period [S, M, I] for M price lists [M, I]."""
        shape = prices.shape
        asked = self.asked(prices)
        logs = [np.minimum(one.log_units(asked), MAX_LOG).reshape(shape) for one in self.members]
        units: Floats = np.exp(np.stack(logs)) * self.smearing[:, None, self.state.product]
        return units

    def asked(self, prices: Floats) -> Design:
        """The rows [M * I] that the members are asked for, of M price lists [M, I]."""
        num_lists, num_offers = prices.shape
        own = np.log(prices) - self.state.usual
        padded = np.concatenate([own, np.zeros((num_lists, 1))], axis=1)
        rivals = padded[:, self.rival_rows]
        repeated = self.state.rows(np.tile(np.arange(num_offers), num_lists))
        return repeated.at(own.ravel(), rivals.reshape(num_lists * num_offers, -1))


def fitted_demand(members: Sequence[Predictor], training: Design, state: Design) -> FittedDemand:
    """Demand of the offers that are the rows of `state`, by models that were trained on `training`.

    In `state` each product is in each store once, with the rivals of its group in the columns of `state.rivals`.
    """
    smearing = np.stack([smearing_of(one, training) for one in members])
    return FittedDemand(members, state, rival_rows(state), smearing)


def rival_rows(state: Design) -> Ints:
    """The row that stands in each rival's place [I, R], -1 where there is none."""
    slots = state.slot
    by_place = {
        (int(store), int(group), int(slot)): row
        for row, (store, group, slot) in enumerate(zip(state.store, state.group, slots, strict=True))
    }
    places = [
        [
            by_place.get((int(store), int(group), slot), -1) if slot != own else -1
            for slot in range(state.rivals.shape[1])
        ]
        for store, group, own in zip(state.store, state.group, slots, strict=True)
    ]
    return np.array(places, np.int64).reshape(len(state.own), state.rivals.shape[1])


def ensemble(
    fit: Callable[[Design, Floats, int], Predictor], training: Design, *, num_members: int, seed: int = 0
) -> list[Predictor]:
    """Models fitted to bootstrap samples of blocks of periods: the spread of their answers is the uncertainty.

    `fit` gets the rows, how often each counts [N], and the number of the member.
    """
    draw = np.random.default_rng(seed)
    return [fit(training, bootstrap_weights(training.period, draw), number) for number in range(num_members)]


def curve(demand: FittedDemand, index: int, prices: Floats, today: Floats, *, coverage: float = 0.9) -> Floats:
    """Units of one offer [3, K] at each of its prices, the others at today's: lower bound, mean, upper bound."""
    lists = np.tile(today, (len(prices), 1))
    lists[:, index] = prices
    units = demand.units(lists)[:, :, index]
    low, high = np.quantile(units, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
    return np.stack([low, units.mean(0), high])


def slopes(model: Predictor, design: Design, *, step: float = 1e-4) -> Floats:
    """The slope of log demand in the log own price of every row [N], by finite differences."""
    above, below = (model.log_units(design.at(design.own + change)) for change in (step, -step))
    slope: Floats = (above - below) / (2 * step)
    return slope


def elasticities(demand: FittedDemand, price: Floats, *, step: float = ELASTICITY_STEP) -> Floats:
    """The own-price elasticity [S, I] at prices [I], over a change of `step` each way: trees have no finer slopes."""
    asked = demand.asked(price[None])
    return np.stack([slopes(one, asked, step=step) for one in demand.members])


def offers_of(state: Design, names: tuple[Sequence[str], Sequence[str]], *, price: Floats, cost: Floats) -> Offers:
    """The offers that are the rows of a state; `names` are those of the panel's products and stores.

    Stock, sizes, categories and brands are left unknown. Groups are demand groups within a store.
    """
    products, stores = names
    num = len(price)
    return Offers(
        products=tuple(products[index] for index in state.product),
        stores=tuple(stores[index] for index in state.store),
        price=price,
        cost=cost,
        stock=np.full(num, np.inf),
        size=np.full(num, np.nan),
        group=state.group * state.num_stores + state.store,
        categories=("",) * num,
        brands=("",) * num,
    )


def smearing_of(model: Predictor, training: Design) -> Floats:
    """Units by expected units of each product [P]; of all for products without rows."""
    known = training.rows(~training.censored)
    expected = np.exp(np.minimum(model.log_units(known), MAX_LOG))
    sums = [np.bincount(known.product, values, training.num_products) for values in (known.units, expected)]
    overall = sums[0].sum() / max(sums[1].sum(), 1e-12)
    ratio: Floats = np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1e-12), overall)
    return ratio
