"""Elasticities in a confounded shop of 50 products whose elasticities are known: mean absolute error.

Prices follow two observed drivers of demand, one of them in a curved way, for 156 weeks. On seeds 0 to 2 the
simulator's noise was set so that least squares of log units on log prices has an error of about 1.59, with linear
controls about 0.55, and double machine learning with boosted trees about 0.12. Our settings were chosen on seeds 10 and
11. Nothing was set on the seeds of this page. "Known nuisance" is least squares with the true shift of demand taken
off: no estimator can be expected to be better without pooling. Coverage is that of 90 % intervals.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from models.pricing.design import Design, design_of
from models.pricing.dml import double_ml, shrunk
from models.pricing.loglog import fit_loglog
from models.pricing.panel import Floats
from models.pricing.simulator import simulate
from models.pricing.training import TrainingSettings, batch_of, train_network

NET = TrainingSettings(epochs=20, batch_size=256, learning_rate=3e-3, dropout=0.0)


def main() -> None:
    """Estimate with every method on every seed and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[Answer]] = {}
    for seed in arguments.seeds:
        for name, answer in with_seed(seed).items():
            found.setdefault(name, []).append(answer)
            print(name, answer, flush=True)
    write_page("pricing-elasticities", __doc__, arguments, [tabulate(found)], {"measured": found})


def with_seed(seed: int) -> dict[str, Answer]:
    """Mean absolute errors of all methods."""
    simulation = simulate(seed)
    design = design_of(simulation.panel, np.ones(len(simulation.panel.row_units), bool))
    pool = np.zeros(design.num_products, np.int64)
    methods = {
        "least squares": lambda: (_least_squares(design, np.zeros((len(design.own), 0))), None),
        "least squares, linear controls": lambda: (_least_squares(design, simulation.panel.row_promotion), None),
        "log-log with all context, shrunk": lambda: _pair(fit_loglog(design, shrink_by=pool)),
        "double ML, scikit-learn's trees as they are": lambda: _values(double_ml(design, learner=_plain)),
        "double ML, ours": lambda: _values(double_ml(design)),
        "double ML, ours, three rounds": lambda: _values(double_ml(design, num_rounds=3)),
        "the same, shrunk": lambda: _values(shrunk(double_ml(design, num_rounds=3), pool)),
        "monotone network, structural": lambda: (_network(design, seed), None),
        "known nuisance": lambda: (_least_squares(design, simulation.shift[:, None]), None),
    }
    answers: dict[str, Answer] = {}
    for name, method in methods.items():
        started = time.process_time()
        value, error = method()
        inside = None if error is None else float((np.abs(value - simulation.elasticity) < 1.645 * error).mean())
        mae = float(np.abs(value - simulation.elasticity).mean())
        answers[name] = {"mae": mae, "coverage": inside, "cpu_s": time.process_time() - started}
    return answers


def _plain(seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(random_state=seed)


def _pair(model: object) -> tuple[Floats, Floats]:
    return model.elasticity, model.elasticity_error  # type: ignore[attr-defined]


def _values(found: object) -> tuple[Floats, Floats]:
    return found.value, found.error  # type: ignore[attr-defined]


def _least_squares(design: Design, controls: Floats) -> Floats:
    """The coefficient of the own price by product."""
    found = []
    for product in range(design.num_products):
        own = design.product == product
        columns = np.column_stack([design.own[own], np.ones(own.sum()), controls[own]])
        found.append(np.linalg.lstsq(columns, (design.log_units - design.level)[own], rcond=None)[0][0])
    return np.array(found)


def _network(design: Design, seed: int) -> Floats:
    """The mean of each product's analytic elasticities."""
    network = train_network(design, TrainingSettings(**{**vars(NET), "seed": seed}))
    with torch.inference_mode():
        each = network.elasticity(batch_of(design, np.arange(len(design.own)))).double().numpy()
    return np.bincount(design.product, each) / np.bincount(design.product)


def tabulate(found: dict[str, list[Answer]]) -> Table:
    """A row for each method."""
    rows = []
    for name, answers in found.items():
        covered = [one["coverage"] for one in answers if one["coverage"] is not None]
        cells = [
            Spread.of(one["mae"] for one in answers).text(".3f"),
            Spread.of(covered).text(".0%") if covered else "",
        ]
        rows.append([name, *cells, Spread.of(one["cpu_s"] for one in answers).text(".1f"), str(len(answers))])
    return Table("50 products, 156 weeks", ["method", "MAE", "coverage", "core-s", "n"], rows)


if __name__ == "__main__":
    main()
