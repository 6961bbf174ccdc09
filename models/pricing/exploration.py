"""Lists of prices that try something out: single steps drawn with known chances, and what their outcome says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.price_lists.rows import PriceRow
from models.pricing.bandit import Beliefs, Decision, Ladders, OffPolicy, decide, off_policy, prior
from models.pricing.dml import Z_90
from models.pricing.ladder import ladders
from models.pricing.offers import Offers
from models.pricing.panel import Floats
from models.pricing.rules import Rules

KEPT_RULES = ("ladder", "largest_change", "margin_floor", "fixed")
"""Kinds of rules that steps of single prices can keep."""
LEAST_CHANCE = 0.15
"""Of each move, before the budget: rare moves say little of what would have happened otherwise."""
LEVEL_ERROR, NOISE = 0.1, 0.3
"""Standard deviations of log units: of what is usual, and of a period around that."""
LEAST_ERROR = 0.3
"""Elasticities are taken as known no better than this: few members of an ensemble agree too well."""


@dataclass(frozen=True)
class Explored:
    """The rows with their chances, and the expected profit a period given up against the best move of each offer."""

    rows: list[PriceRow]
    loss: float


def explore(rows: Sequence[PriceRow], rules: Rules, *, loss_budget: float, seed: int) -> Explored:
    """Draw for each offer that may be priced one step of its ladder down, none or up, by `bandit.decide`.

    `rows` are those of a recommendation: today's prices with what is expected at them. Prices that are held stay, with
    a chance of 1. Raises ValueError for rules that tie several prices together, for a `only` by category or brand, if
    no offer can be priced, and if nothing is left to chance.
    """
    _check(rules, loss_budget)
    free = [row for row in rows if not row.is_held and row.cost is not None and row.units_today and row.elasticity]
    if not free:
        raise ValueError("no offer can be explored; the reasons of the recommendation say why")
    steps = _ladders(free, rules)
    at = np.array([int(np.argmin(np.abs(one - row.old))) for one, row in zip(steps.points, free, strict=True)])
    beliefs = _beliefs(free)
    draw = np.random.default_rng(seed)
    decision = decide(beliefs, steps, at, loss_budget=loss_budget, draw=draw, least=LEAST_CHANCE)
    if not _can_be_evaluated(decision):
        raise ValueError(
            f"with a budget of {loss_budget:g} nothing is left to chance: nobody could tell later what these steps "
            "brought; give a larger one, or propose without --explore"
        )
    drawn = dict(zip((row.key for row in free), _drawn(free, steps, decision, beliefs), strict=True))
    return Explored([drawn.get(row.key) or _stays(row) for row in rows], decision.loss)


@dataclass(frozen=True)
class Result:
    """What prices of an exploration earned, and what today's would have earned, in total over the sales.

    `error` is the standard error of `at_old_prices`; `effective_offers` is the number of offers that it rests on.
    """

    earned: float
    at_old_prices: float
    error: float
    effective_offers: float
    num_offers: int


def outcome(rows: Sequence[PriceRow], units: Mapping[tuple[str, str], float], *, num_periods: float) -> Result:
    """Estimate from logged chances what the prices of before would have earned; offers without units sold nothing.

    Doubly robust: what the models expect, corrected by what was sold where no change was drawn. Raises ValueError if
    no row has a chance.
    """
    tried = [row for row in rows if row.chance is not None and row.chance < 1 and row.cost is not None]
    if not tried:
        raise ValueError("the list has no chances: only lists of exploration can be evaluated in this way")
    if not {row.key for row in tried} & units.keys():
        raise ValueError(
            "the sales have none of the offers that were tried out: name products and stores as the rows of the list do"
        )
    rewards = np.array([(row.new - (row.cost or 0.0)) * units.get(row.key, 0.0) for row in tried])
    expected = np.array([[row.profit or 0.0, row.profit_today or 0.0] for row in tried]) * num_periods
    found: OffPolicy = off_policy(
        rewards,
        np.array([row.chance or 0.0 for row in tried]),
        np.array([0.0 if row.is_changed else 1.0 for row in tried]),
        model_chosen=expected[:, 0],
        model_target=expected[:, 1],
    )
    num = len(tried)
    return Result(float(rewards.sum()), found.value * num, found.error * num, found.effective_rows, num)


def _can_be_evaluated(decision: Decision) -> bool:
    """Whether some offer keeps its price by chance: what it sells would say what the prices of before had earned.

    A question of chances and not of what was drawn, which would change the chances that are written down.
    """
    stays = decision.probability[:, 1]
    return bool(((stays > 0) & (stays < 1)).any())


def _check(rules: Rules, loss_budget: float) -> None:
    if not loss_budget >= 0:
        raise ValueError(f"the budget of {loss_budget:g} is not an amount of profit a period; use more than 0")
    for kind, rule in rules.kinds():
        place = f"{rules.source}:{rule.line}"
        if kind not in KEPT_RULES:
            raise ValueError(
                f"{place}: {kind} ties prices together, which single steps cannot keep; exploration keeps "
                f"{', '.join(KEPT_RULES)}: use a file of rules with these only"
            )
        if rule.only.categories or rule.only.brands:
            raise ValueError(f"{place}: exploration knows products and stores only; name them in `only`")


def _ladders(rows: Sequence[PriceRow], rules: Rules) -> Ladders:
    num = len(rows)
    price, cost = np.array([row.old for row in rows]), np.array([row.cost or 0.0 for row in rows])
    offers = Offers(
        products=tuple(row.product for row in rows),
        stores=tuple(row.store for row in rows),
        price=price,
        cost=cost,
        stock=np.full(num, np.inf),
        size=np.full(num, np.nan),
        group=np.arange(num),
        categories=("",) * num,
        brands=("",) * num,
    )
    fixed = {index for rule in rules.fixed for index in rule.offers(offers)}
    floors = np.zeros(num)
    for rule in rules.margin_floor:
        for index in rule.offers(offers):
            floors[index] = max(floors[index], cost[index] / (1 - rule.share))
    points: list[Floats] = []
    for index, one in enumerate(ladders(offers, rules, held=fixed)):
        is_today = np.abs(one - price[index]) < 1e-5
        points.append(one[is_today | (one >= floors[index])])
    return Ladders(points, price, cost)


def _beliefs(rows: Sequence[PriceRow]) -> Beliefs:
    units = np.array([row.units_today or 0.0 for row in rows])
    bands = np.array([[row.elasticity or 0.0, row.elasticity_low or 0.0, row.elasticity_high or 0.0] for row in rows])
    error = np.maximum((bands[:, 2] - bands[:, 1]) / (2 * Z_90), LEAST_ERROR)
    log_level = np.log(units) - (LEVEL_ERROR**2 + NOISE**2) / 2
    return prior(log_level, bands[:, 0], error, level_error=LEVEL_ERROR, noise=NOISE)


def _drawn(rows: Sequence[PriceRow], steps: Ladders, decision: Decision, beliefs: Beliefs) -> list[PriceRow]:
    price = steps.prices(decision.points)
    price = np.where(decision.move == 0, steps.usual, price)
    units = beliefs.expected_units(np.log(price / steps.usual)[:, None])[:, 0]
    words = {-1: "lowered", 0: "kept", 1: "raised"}
    return [
        row.model_copy(
            update={
                "new": float(price[at]),
                "reason": f"exploration: {words[int(decision.move[at])]}, drawn with a chance of "
                f"{decision.propensity[at]:.1%}",
                "units": float(units[at]),
                "revenue": float(units[at] * price[at]),
                "profit": float(units[at] * (price[at] - steps.cost[at])),
                "profit_today": row.profit_today,
                "units_low": None,
                "units_high": None,
                "profit_low": None,
                "profit_high": None,
                "chance": float(decision.propensity[at]),
                "chance_of_today": float(decision.probability[at, 1]),
            }
        )
        for at, row in enumerate(rows)
    ]


def _stays(row: PriceRow) -> PriceRow:
    """A row that was not drawn for: today's price, with what is expected of it."""
    today = {"units": row.units_today, "revenue": row.revenue_today, "profit": row.profit_today}
    bounds = {"units_low": None, "units_high": None, "profit_low": None, "profit_high": None}
    reason = row.reason if row.is_held else "exploration: kept, since too little is known of its demand"
    return row.model_copy(
        update={"new": row.old, "reason": reason, **today, **bounds, "chance": 1.0, "chance_of_today": 1.0}
    )
