"""Time to choose prices for 100 offers with 9 points each under every kind of rule, with HiGHS.

50 products in two stores: demand groups of five products in a store, which are too large to list all combinations (the
effects of single changes are added up, in rounds), or of two, which are exact; 20 members of the demand; all rules of
the file below at once. "Whole" is from demand curves to the plan, rounds and the asking of the demand included.
"Missed" is what the best of all single changes and 1,000 random double changes from the plan would add, of those that
keep all rules under the joint demand. Small shops are compared with brute force in the tests.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from models.pricing.blocks import money
from models.pricing.constraints import Calendar, Shop, requirements_of
from models.pricing.ladder import ladders
from models.pricing.offers import Offers
from models.pricing.optimise import Plan, Settings, optimise
from models.pricing.panel import Floats
from models.pricing.rules import Rules, parse_rules

RULES = """\
ladder: {endings: [0.09, 0.19, 0.29, 0.39, 0.49, 0.59, 0.69, 0.79, 0.89, 0.99], most_points: 9}
margin_floor: {share: 0.1}
largest_change: {share: 0.15}
max_changes: {number: 30}
fixed: {only: {products: [p3, p7]}}
zones: {stores: [north, south], only: {categories: [c0, c1, c2]}}
size_order: {}
brand_order: {cheaper: Own, dearer: Best, gap: 0.02}
mean_price: {at_least: 0.98, at_most: 1.0}
revenue: {at_least: 1.0}
sell_through: {share: 0.8, by: 2026-12-31}
"""
CALENDAR = Calendar(datetime.date(2026, 11, 27))


@dataclasses.dataclass(frozen=True)
class LogLogMarket:
    """Log-log demand with known elasticities [S, I, I]."""

    base: Floats
    today: Floats
    elasticity: Floats

    def units(self, prices: Floats) -> Floats:
        """Units [S, M, I]."""
        logs = np.einsum("sij,mj->smi", self.elasticity, np.log(prices / self.today), optimize=True)
        result: Floats = self.base * np.exp(logs)
        return result


def main() -> None:
    """Solve every shop and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    arguments = parser.parse_args()
    rules = parse_rules(RULES, Path("rules.yaml"))
    found: dict[str, list[Answer]] = {}
    for seed in arguments.seeds:
        for name, size in (("groups of 5, added up", 5), ("groups of 2, exact", 2)):
            offers, demand = shop(seed, group_size=size)
            started, started_cpu = time.perf_counter(), time.process_time()
            plan = optimise(offers, demand, rules, calendar=CALENDAR, settings=Settings(time_limit_s=60))
            spent = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - started_cpu}
            answer = {**described(plan, offers), **spent, "missed": missed(plan, offers, demand, rules)}
            found.setdefault(name, []).append(answer)
            print(name, answer, flush=True)
    write_page("pricing-optimiser", __doc__, arguments, [tabulate(found)], {"measured": found, "rules": RULES})


def shop(seed: int, *, group_size: int) -> tuple[Offers, LogLogMarket]:
    """100 offers that keep the orders of sizes and brands today."""
    draw = np.random.default_rng(seed)
    product = np.tile(np.arange(50), 2)
    store = np.repeat([0, 1], 50)
    is_own, is_large = product % 4 < 2, product % 2 == 1
    family = draw.uniform(2, 6, 13)[product // 4]
    price = np.round(family * np.where(is_own, 1.0, 1.25) * np.where(is_large, 1.6, 1.0), 1) - 0.01
    group = store * 50 + product // group_size
    related = (group[:, None] == group[None]) & ~np.eye(100, dtype=bool)
    mean = np.where(related, draw.uniform(0, 1.2 / group_size, (100, 100)), 0) - np.diag(draw.uniform(1.8, 4, 100))
    spread = np.where(mean != 0, 0.15, 0.0) * np.abs(mean)
    stock = np.where(draw.random(100) < 0.1, 300.0, np.inf)
    offers = Offers(
        products=tuple(f"p{number}" for number in product),
        stores=tuple(("north", "south")[number] for number in store),
        price=price,
        cost=np.round(price * draw.uniform(0.5, 0.8, 100), 2),
        stock=stock,
        size=np.where(is_large, 2.0, 1.0),
        group=group,
        categories=tuple(f"c{number // 4}" for number in product),
        brands=tuple("Own" if own else "Best" for own in is_own),
    )
    base = np.where(np.isfinite(stock), 70.0, draw.uniform(20, 200, 100))
    return offers, LogLogMarket(base, price, mean + spread * draw.normal(size=(20, 100, 100)))


def described(plan: Plan, offers: Offers) -> Answer:
    """What the plan says of itself."""
    changed = int((~np.isclose(plan.price, offers.price)).sum())
    gain = float(plan.planned.profit.mean() / plan.today.profit.mean() - 1)
    return {"gain": gain, "changed": changed, "rounds": plan.rounds, "optimal": plan.is_optimal, "gap": plan.gap}


def missed(plan: Plan, offers: Offers, demand: LogLogMarket, rules: Rules) -> float:
    """The share of profit that the best allowed single or double change from the plan would add, at least zero."""
    points = ladders(offers, rules)
    asked = requirements_of(rules, Shop(offers, points, plan.today.revenue, CALENDAR))
    best, profit = 0.0, float(plan.planned.profit.mean())
    singles = [(index, point) for index, one in enumerate(points) for point in range(len(one))]
    draw = np.random.default_rng(0)
    pairs = [*combinations(range(len(singles)), 2)]
    tried = [(one,) for one in range(len(singles))] + [pairs[at] for at in draw.choice(len(pairs), 1000, replace=False)]
    for changes in tried:
        price = plan.price.copy()
        for change in changes:
            index, point = singles[change]
            price[index] = points[index][point]
        reached = money(demand, offers, price)
        if float(reached.profit.mean()) > profit * (1 + best) and keeps(price, points, asked, reached):
            best = float(reached.profit.mean()) / profit - 1
    return best


def keeps(price: Floats, points: list[Floats], asked: list, reached: object) -> bool:
    """Whether prices keep all requirements under the joint demand."""
    at = {(index, int(np.argmin(np.abs(one - price[index])))) for index, one in enumerate(points)}
    for requirement in asked:
        for weights, low, high in requirement.rows:
            total = sum(weight for key, weight in weights.items() if key in at)
            if not low - 1e-6 <= total <= high + 1e-6:
                return False
        floor = requirement.floor
        if floor is not None and getattr(reached, floor.of)[floor.offers].sum() < floor.asked * (1 - 1e-6):
            return False
    return True


def tabulate(found: dict[str, list[Answer]]) -> Table:
    """A row for each kind of shop."""
    rows = []
    for name, answers in found.items():
        cells = [
            Spread.of(float(one[key]) for one in answers).text(form)
            for key, form in (
                ("wall_s", ".2f"),
                ("cpu_s", ".2f"),
                ("rounds", ".0f"),
                ("changed", ".0f"),
                ("gain", ".2%"),
                ("missed", ".3%"),
            )
        ]
        optimal = f"{sum(one['optimal'] for one in answers)} of {len(answers)}"
        rows.append([name, *cells, optimal])
    header = [
        "shop",
        "whole, s",
        "core-s",
        "rounds",
        "changed prices",
        "claimed gain",
        "missed by single and double changes",
        "optimal",
    ]
    return Table("100 offers, 9 points, all rules", header, rows)


if __name__ == "__main__":
    main()
