"""Claimed against re-estimated gains of new prices for orange juice: prices within 10 % of those of a week.

A model that is trained on every other block of four weeks chooses prices for all 11 brands in 83 stores and claims a
gain of profit; models of other classes, trained on the other weeks, estimate the gain again, each as an ensemble of
refits on bootstrap samples of blocks of weeks. The interval is the evaluator's, of 90 %. "Bounds" allows any price of a
ladder of 5 cents within 10 %; "held" keeps the mean price within 0.1 % and the expected revenue, too. Inflation is
claimed minus re-estimated gain. Numbers are over both directions of the split and the weeks; costs are those of the
data's margins. With --caution the model that claims is five bootstrap refits, and so many standard deviations of each
offer's gain are taken off when prices are chosen, not of the claim. The evaluators are models, too: what a shop would
really earn is not known.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.pricing.data import orange_juice
from models.pricing.blend import Predictor
from models.pricing.claims import check_claim
from models.pricing.constraints import Calendar
from models.pricing.demand import FittedDemand, ensemble, fitted_demand, offers_of
from models.pricing.design import Design, design_of
from models.pricing.loglog import fit_loglog
from models.pricing.optimise import Settings, optimise
from models.pricing.panel import Flags, Floats, Panel
from models.pricing.rules import parse_rules
from models.pricing.training import TrainingSettings, fit_network
from models.pricing.tree import TreeSettings, fit_tree
from models.pricing.weeks import alternating_halves

RULES = {
    "bounds": "ladder: {step: 0.05, most_points: 9}\nlargest_change: {share: 0.1}",
    "held": "ladder: {step: 0.05, most_points: 9}\nlargest_change: {share: 0.1}\n"
    "mean_price: {at_least: 0.999, at_most: 1.001}\nrevenue: {at_least: 1.0}",
}
CALENDAR = Calendar(datetime.date(1992, 1, 1))
Fit = Callable[[Design, Floats | None, int], Predictor]
MODELS: dict[str, Fit] = {
    "log-log": lambda rows, weights, seed: fit_loglog(rows, weights=weights),
    "tree": lambda rows, weights, seed: fit_tree(
        rows, TreeSettings(num_trees=200, columns_share=0.5, seed=seed), weights=weights
    ),
    "net": lambda rows, weights, seed: fit_network(rows, TrainingSettings(seed=seed), weights=weights),
}
CAUTIOUS_MEMBERS = 5
CLAIM_MEMBERS = {"log-log": 1, "tree": 1, "net": 3}


def main() -> None:
    """Claim and re-estimate gains in both directions and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--weeks", type=int, nargs="+", default=[60, 85, 110], help="numbers of weeks, from 0")
    parser.add_argument("--evaluators", type=int, default=10, help="bootstrap refits of each evaluator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--claims", nargs="+", choices=list(MODELS), default=list(MODELS), help="models that claim")
    parser.add_argument("--caution", type=float, default=0.0, help="with 5 bootstrap refits of the model that claims")
    arguments = measure.read(parser)
    torch.set_num_threads(arguments.threads)
    panel = orange_juice(Path(arguments.data))
    found: dict[str, list[Answer]] = {}
    for fits in alternating_halves(panel.row_period):
        for key, answer in one_direction(panel, fits, arguments):
            found.setdefault(key, []).append(answer)
            print(key, answer, flush=True)
    write_page("pricing-claims", __doc__, arguments, [tabulate(found)], {"measured": found})


def one_direction(panel: Panel, fits: Flags, arguments: argparse.Namespace) -> list[tuple[str, Answer]]:
    """What models of the rows in `fits` claim, and models of the others expect."""
    halves = {"claim": (design_of(panel, fits), fits), "evaluator": (design_of(panel, ~fits), ~fits)}
    trained, seed = {}, arguments.seed
    for role, (design, rows) in halves.items():
        for name, fit in MODELS.items():
            if role == "evaluator":
                trained[role, name] = ensemble(fit, design.rows(rows), num_members=arguments.evaluators, seed=seed)
            elif name in arguments.claims and arguments.caution:
                trained[role, name] = ensemble(fit, design.rows(rows), num_members=CAUTIOUS_MEMBERS, seed=seed + 1)
            elif name in arguments.claims:
                members = range(CLAIM_MEMBERS[name])
                trained[role, name] = [fit(design.rows(rows), None, 100 * seed + number) for number in members]
    found = []
    for week in arguments.weeks:
        demands = {
            (role, name): fitted_demand(
                members, halves[role][0].rows(halves[role][1]), _state(panel, halves[role][0], week)
            )
            for (role, name), members in trained.items()
        }
        for rule in RULES:
            found += [
                _reestimated(panel, week, rule, demands, claiming, arguments.caution) for claiming in arguments.claims
            ]
    return [pair for part in found for pair in part]


def _state(panel: Panel, design: Design, week: int) -> Design:
    return design.rows(panel.row_period == week)


def _reestimated(
    panel: Panel, week: int, rule: str, demands: dict[tuple[str, str], FittedDemand], claiming: str, caution: float
) -> list[tuple[str, Answer]]:
    rows = panel.row_period == week
    claims = demands["claim", claiming]
    names = (panel.products, panel.stores)
    offers = offers_of(claims.state, names, price=panel.row_price[rows], cost=np.maximum(panel.row_cost[rows], 0.0))
    rules = parse_rules(RULES[rule], Path("rules.yaml"))
    plan = optimise(offers, claims, rules, calendar=CALENDAR, settings=Settings(time_limit_s=60, caution=caution))
    answers = []
    for evaluating in MODELS:
        if evaluating != claiming:
            claim = check_claim(plan.price, offers, claims=claims, evaluator=demands["evaluator", evaluating])
            answer = {
                "claimed": claim.claimed,
                "reestimated": claim.reestimated,
                "low": claim.low,
                "high": claim.high,
                "inflation": claim.inflation,
                "recommended": claim.is_recommended,
                "mean_price": float(plan.price.mean() / offers.price.mean() - 1),
                "week": week,
            }
            answers.append((f"{rule}|{claiming}|{evaluating}", answer))
    return answers


def tabulate(found: dict[str, list[Answer]]) -> Table:
    """A row for each rule, claiming model and evaluator."""
    rows = []
    for key, answers in found.items():
        cells = [Spread.of(one[name] for one in answers).text(".1%") for name in ("claimed", "reestimated", "low")]
        mean = float(np.mean([one["inflation"] for one in answers]))
        inflation = f"{mean:.1f}; " + Spread.of(one["inflation"] for one in answers).text(".1f")
        recommended = f"{sum(one['recommended'] for one in answers)} of {len(answers)}"
        rows.append([*key.split("|"), *cells, inflation, recommended])
    header = [
        "rules",
        "claims",
        "evaluators",
        "claimed",
        "re-estimated",
        "its lower bound",
        "inflation: mean; median",
        "above 0",
    ]
    return Table("Gain of profit", header, rows)


if __name__ == "__main__":
    main()
