"""Price experiments in a shop with known demand: gains, the loss budget, single steps, exact propensities."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from models.pricing.bandit import Beliefs, Decision, Ladders, decide, off_policy, prior
from models.pricing.simulator import SimulatedDemand

NOISE = 0.25
NUM = 40


@dataclass
class Experiment:
    """A shop in which prices are tried out for some periods; what was decided and earned is kept."""

    budget: float = np.inf
    seed: int = 0
    least: float = 0.02
    decisions: list[Decision] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    profits: list[np.ndarray] = field(default_factory=list)
    beliefs_of: list[Beliefs] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(self.seed)
        self.usual = draw.uniform(2, 8, NUM)
        self.truth = SimulatedDemand(draw.uniform(20, 100, NUM), self.usual, draw.uniform(-4.5, -1.5, NUM))
        points = [usual * np.linspace(0.8, 1.3, 11) for usual in self.usual]
        self.ladders = Ladders(points, self.usual, 0.6 * self.usual)
        self.at = np.full(NUM, 4)
        log_level = np.log(self.truth.base)
        self.beliefs = prior(log_level, np.full(NUM, -3.0), np.full(NUM, 1.0), level_error=0.2, noise=NOISE)
        self.draw = np.random.default_rng(self.seed + 100)

    def profit(self, at: np.ndarray) -> np.ndarray:
        prices = self.ladders.prices(at)
        result: np.ndarray = (prices - self.ladders.cost) * self.truth.units(prices[None])[0, 0]
        return result

    def run(self, periods: int) -> Experiment:
        for _ in range(periods):
            decision = decide(
                self.beliefs, self.ladders, self.at, loss_budget=self.budget, draw=self.draw, least=self.least
            )
            self.before.append(self.at)
            self.beliefs_of.append(self.beliefs)
            self.at = decision.points
            prices = self.ladders.prices(self.at)
            noise = np.exp(NOISE * self.draw.normal(size=NUM) - NOISE**2 / 2)
            units = self.truth.units(prices[None])[0, 0] * noise
            self.profits.append((prices - self.ladders.cost) * units)
            self.beliefs = self.beliefs.updated(np.log(prices / self.usual), np.log(units))
            self.decisions.append(decision)
        return self

    def optimum(self) -> float:
        every = np.stack([self.profit(np.full(NUM, point)) for point in range(11)])
        return float(every.max(0).sum())


def test_prices_find_most_of_the_gain_that_known_demand_allows() -> None:
    today, best, last = [], [], []
    for seed in range(3):
        shop = Experiment(seed=seed)
        today.append(shop.profit(shop.at).sum())
        best.append(shop.optimum())
        shop.run(100)
        last.append(np.mean([shop.profit(decision.points).sum() for decision in shop.decisions[-20:]]))

    possible = np.sum(best) - np.sum(today)
    assert possible > 0.05 * np.sum(today)
    assert np.sum(last) - np.sum(today) > 0.7 * possible


def test_beliefs_come_closer_to_the_truth() -> None:
    shop = Experiment()
    before = np.abs(shop.beliefs.mean[:, 1] - shop.truth.elasticity).mean()

    shop.run(100)

    assert np.abs(shop.beliefs.mean[:, 1] - shop.truth.elasticity).mean() < 0.6 * before
    error = np.sqrt(shop.beliefs.covariance[:, 1, 1])
    assert (np.abs(shop.beliefs.mean[:, 1] - shop.truth.elasticity) < 2 * error).mean() > 0.85


def test_a_price_moves_one_step_at_most_and_stays_on_the_ladder() -> None:
    shop = Experiment().run(60)
    path = np.stack([*shop.before, shop.at])

    assert np.abs(np.diff(path, axis=0)).max() == 1
    assert path.min() >= 0 and path.max() <= 10
    assert np.ptp(path, axis=0).max() > 3


def test_the_expected_loss_of_a_period_is_within_the_budget() -> None:
    free = Experiment().run(10)
    budget = 0.3 * free.decisions[0].loss

    bound = Experiment(budget=budget).run(10)

    assert all(decision.loss <= budget * (1 + 1e-9) for decision in bound.decisions)
    assert bound.decisions[0].loss == pytest.approx(budget)
    assert Experiment(budget=0.0).run(1).decisions[0].probability.max(1) == pytest.approx(1.0)


def test_moves_are_drawn_with_the_logged_propensities() -> None:
    shop = Experiment()
    decisions = [
        decide(shop.beliefs, shop.ladders, shop.at, loss_budget=np.inf, draw=np.random.default_rng(number))
        for number in range(600)
    ]

    drawn = np.stack([decision.move[:, None] == np.array([-1, 0, 1]) for decision in decisions]).mean(0)
    logged = np.mean([decision.probability for decision in decisions], 0)
    assert np.abs(drawn - logged).max() < 0.08
    assert logged.sum(1) == pytest.approx(1.0)
    assert (decisions[0].propensity > 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("doubly_robust", [False, True])
def test_off_policy_estimates_are_within_their_error_of_the_truth(seed: int, doubly_robust: bool) -> None:
    shop = Experiment(seed=seed, least=0.2).run(60)
    rows = range(len(shop.decisions))
    truth = np.concatenate([shop.profit(np.minimum(shop.before[row] + 1, 10)) for row in rows])
    target = np.concatenate([_raises(shop, row)[np.arange(NUM), shop.decisions[row].move + 1] for row in rows])
    model_chosen = np.concatenate([_model(shop, row, shop.decisions[row].points) for row in rows])
    model_target = np.concatenate([_model(shop, row, np.minimum(shop.before[row] + 1, 10)) for row in rows])

    found = off_policy(
        np.concatenate(shop.profits),
        np.concatenate([decision.propensity for decision in shop.decisions]),
        target,
        model_chosen=model_chosen if doubly_robust else None,
        model_target=model_target if doubly_robust else None,
    )

    assert abs(found.value - truth.mean()) < 3 * found.error
    assert found.error < 0.2 * truth.mean()
    assert 10 < found.effective_rows < len(target)


def test_a_log_without_propensities_is_refused() -> None:
    with pytest.raises(ValueError, match="propensities must be above 0"):
        off_policy(np.ones(3), np.array([0.5, 0.0, 1.0]), np.ones(3))
    with pytest.raises(ValueError, match="never makes a move of the log"):
        off_policy(np.ones(3), np.full(3, 0.5), np.zeros(3))


def test_a_period_without_a_sale_record_changes_no_belief() -> None:
    shop = Experiment()
    log_units = np.full(NUM, np.nan)
    log_units[0] = 3.0

    after = shop.beliefs.updated(np.full(NUM, 0.1), log_units)

    assert np.array_equal(after.mean[1:], shop.beliefs.mean[1:])
    assert not np.array_equal(after.mean[0], shop.beliefs.mean[0])


def _raises(shop: Experiment, row: int) -> np.ndarray:
    """The policy that raises every price by a step, or keeps it at the top of the ladder."""
    top = shop.before[row] == 10
    return np.where(top[:, None], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])


def _model(shop: Experiment, row: int, at: np.ndarray) -> np.ndarray:
    """What the beliefs of a period expect of points."""
    prices = shop.ladders.prices(at)
    units = shop.beliefs_of[row].expected_units(np.log(prices / shop.usual)[:, None])[:, 0]
    result: np.ndarray = (prices - shop.ladders.cost) * units
    return result
