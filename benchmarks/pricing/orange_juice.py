"""Demand for orange juice: 11 brands in 83 stores, the last 20 % of weeks, one week ahead.

Each model is trained on the first 80 % of weeks and predicts the log of the units of every row of the last 20 %, given
that week's prices, deals and features of all brands, and what was sold until the week before. R2 is of log units, WAPE
of units. All settings, the number of trees and the weights of the blend among them, were chosen on two blocks of weeks
before the last 20 %: trained on weeks 0 to 63 and 0 to 79, compared on 64 to 79 and 80 to 96. "Rises" counts the rows,
of all weeks, in which demand rises with the own price anywhere between -40 % and +20 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.pricing.data import orange_juice
from models.pricing.blend import Blend, Predictor, r2, wape
from models.pricing.choice import choose
from models.pricing.design import Design
from models.pricing.loglog import fit_loglog
from models.pricing.panel import Panel
from models.pricing.training import NetworkDemand, TrainingSettings, fit_network
from models.pricing.tree import TreeSettings, fit_tree

TEST_FROM = 97
FOLDS = ((64, 80), (80, 97))
BLENDED = ("net", "log-log, shrunk", "tree")
NAMES = {
    "log-log": "log-log by product",
    "log-log, shrunk": "log-log, shrunk by empirical Bayes",
    "tree": "monotone tree",
}
GRID = np.log(np.linspace(0.6, 1.2, 7))


def main() -> None:
    """Train with every seed and write the page."""
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nets", type=int, default=1, help="networks whose mean is the net's prediction")
    arguments = measure.read(parser)
    torch.set_num_threads(arguments.threads)
    panel = orange_juice(Path(arguments.data))
    found: dict[str, list[Answer]] = {}
    for seed in arguments.seeds:
        for name, answer in with_seed(panel, seed, arguments.nets).items():
            found.setdefault(name, []).append(answer)
            print(name, answer)
    write_page("pricing-orange-juice", __doc__, arguments, [tabulate(found)], {"measured": found})


def with_seed(panel: Panel, seed: int, num_nets: int) -> dict[str, Answer]:
    """The scores of every model on the test weeks."""
    seconds: dict[str, float] = {}
    fits = {name: timed(name, fit, seconds) for name, fit in models(seed, num_nets).items()}
    choice = choose(panel, {name: fits[name] for name in BLENDED}, folds=FOLDS, end=TEST_FROM)
    design, is_test = choice.design, panel.row_period >= TEST_FROM
    train, test = design.rows(~is_test), design.rows(is_test)
    found = naive(panel, test)
    for name, fit in fits.items():
        model = choice.models[name] if name in BLENDED else fit(train)
        found[name] = {**scored(model, test, design), "cpu_s": seconds[name]}
    found["blend"] = {**scored(choice.chosen, test, design), "weights": dict(choice.weights)}
    found["blend"]["validation"] = dict(choice.validation)
    return found


def timed(name: str, fit: Callable[[Design], Predictor], seconds: dict[str, float]) -> Callable[[Design], Predictor]:
    """The same, noting the processor time of its last call."""

    def wrapped(train: Design) -> Predictor:
        started = time.process_time()
        model = fit(train)
        seconds[name] = time.process_time() - started
        return model

    return wrapped


def models(seed: int, num_nets: int) -> dict[str, Callable[[Design], Predictor]]:
    """What fits each model."""

    def nets(train: Design) -> Predictor:
        members = [fit_network(train, TrainingSettings(seed=100 * seed + number)) for number in range(num_nets)]
        return Blend(members, [1 / num_nets] * num_nets)

    return {
        "log-log": fit_loglog,
        "log-log, shrunk": lambda train: fit_loglog(train, shrink_by=np.zeros(train.num_products, np.int64)),
        "tree": lambda train: fit_tree(train, TreeSettings(columns_share=0.5, seed=seed)),
        "net": nets,
    }


def naive(panel: Panel, test: Design) -> dict[str, Answer]:
    """The units of the week before, and the mean of the last four weeks."""
    lag, mean = (test.names.index(name) for name in ("units, lag 1", "units, mean of the lags"))
    pairs = (("the week before", lag), ("mean of four weeks", mean))
    return {
        name: {"r2": r2(test.log_units, logs), "wape": wape(test.log_units, logs)}
        for name, column in pairs
        if len(logs := test.level + test.context[:, column])
    }


def scored(model: Predictor, test: Design, every: Design) -> Answer:
    """R2 and WAPE on test rows, and the number of rows with a rising curve."""
    predicted = model.log_units(test)
    before, rises = None, np.zeros(len(every.own), bool)
    exact = in_double(model)
    for change in GRID:
        logs = exact.log_units(every.at(every.own + change))
        rises |= before is not None and logs > before + 1e-9
        before = logs
    return {"r2": r2(test.log_units, predicted), "wape": wape(test.log_units, predicted), "rises": int(rises.sum())}


def in_double(model: Predictor) -> Predictor:
    """The model in double precision, so that rounding is not taken for a rise."""
    if isinstance(model, Blend):
        return Blend([in_double(one) for one in model.models], model.weights)
    return NetworkDemand(model.network.double()) if isinstance(model, NetworkDemand) else model


def tabulate(found: dict[str, list[Answer]]) -> Table:
    """A row for each model."""
    rows = []
    for name, answers in found.items():
        cells = [Spread.of(one[key] for one in answers).text(".4f") for key in ("r2", "wape")]
        rises = str(max(one["rises"] for one in answers)) if "rises" in answers[0] else ""
        cpu = Spread.of(one["cpu_s"] for one in answers).text(".1f") if "cpu_s" in answers[0] else ""
        rows.append([NAMES.get(name, name), *cells, rises, cpu, str(len(answers))])
    return Table("Last 20 % of weeks", ["model", "R2", "WAPE", "rises, of all rows", "core-s to train", "n"], rows)


if __name__ == "__main__":
    main()
