"""Sentiment of reviews against the best linear model, on texts, categories and shops that no one has trained on.

"random" is a split by text; "category=X" tests on a category none of whose texts are trained on, and "waimai" on the
reviews of another service, waimai_10k. Systems see the same texts: naive Bayes, two averaged logistic regressions of
n-grams ("linear"), and the networks of the family with every seed. Epochs, weight of the deep part and temperature are
chosen on validation. Differences to "linear" are paired by text, seeds averaged, with 95 % intervals from 2,000
bootstrap samples of the test texts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.models import scored, trained
from benchmarks.kit.page import Spread, Table, write_page
from jobs.evaluation.baselines import fitted
from models.evaluate import Scores
from models.prepared import Prepared
from models.reviews import FAMILY

BASELINES = ("naive Bayes", "linear")
SHOWN = ("accuracy", "macro_f1", "log_loss", "calibration_error", "unsure_share", "confident_accuracy")
OTHER = "waimai"
NUM_RESAMPLES = 2000
QUICK_STEP = 20


def main() -> None:
    """Score every system in every scenario and write the page."""
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--other", help="the table of waimai_10k, for the scenario waimai")
    parser.add_argument("--scenarios", nargs="+", default=["random"], help="random, category=NAME, waimai")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the networks")
    parser.add_argument("--networks", nargs="+", default=["wide-deep"])
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.seeds, arguments.config = [0], [*arguments.config, "epochs=1"]
    torch.set_num_threads(arguments.threads)
    tables, raw = [], {}
    with measure.workspace(arguments) as work:
        for scenario in arguments.scenarios:
            scores = measured(prepared(scenario, work, arguments), work, arguments)
            found = {system: [one.values(FAMILY.all_metrics) for one in runs] for system, runs in scores.items()}
            tables.append(tabulate(scenario, scores, found))
            raw[scenario] = found
    write_page("reviews-quality", __doc__, arguments, tables, raw)


def prepared(scenario: str, work: Path, arguments: argparse.Namespace) -> Prepared:
    """The data of a scenario; waimai is a category of its own beside the others."""
    table = only_table(arguments.data)
    table = pa.table({"category": table["cat"], "label": table["label"], "review": table["review"]})
    if scenario == OTHER:
        other = only_table(arguments.other)
        names = pa.array([OTHER] * other.num_rows)
        more = pa.table({"category": names, "label": other["label"], "review": other["review"]})
        table = pa.concat_tables([table, more.cast(table.schema)])
        scenario = f"category={OTHER}"
    if arguments.quick:
        table = table.take(np.arange(0, table.num_rows, QUICK_STEP))
    place = work / scenario.replace("=", "-")
    place.mkdir()
    pq.write_table(table, place / "reviews.parquet")
    more = {} if scenario == "random" else {"hold_out": scenario}
    raw = str(place / "reviews.parquet")
    return Prepared(Path(measure.prepared(raw, arguments, place, family_name="reviews", more=more)))


def only_table(path: str) -> pa.Table:
    """The table of a file, or of the one Parquet file of a folder."""
    given = Path(path)
    files = sorted(given.glob("*.parquet")) if given.is_dir() else [given]
    return pq.read_table(files[0])


def measured(data: Prepared, work: Path, arguments: argparse.Namespace) -> dict[str, list[Scores]]:
    """The test scores of the baselines and, for every seed, of the networks."""
    found = {name: [scored(fitted(FAMILY, FAMILY.baselines[name], data), data)] for name in BASELINES}
    for name in arguments.networks:
        for seed in arguments.seeds:
            settings: dict[str, Any] = {**measure.overrides(arguments.config), "network": name, "seed": seed}
            directory = work / f"{data.name}-{name}-{seed}"
            found.setdefault(name, []).append(scored(trained(FAMILY, FAMILY.Config(**settings), data, directory), data))
            print(f"{name}, seed {seed}: {found[name][-1].values(FAMILY.all_metrics)}", file=sys.stderr)
    return found


def tabulate(scenario: str, scores: dict[str, list[Scores]], found: dict[str, list[Answer]]) -> Table:
    """The metrics of every system, and the difference of its accuracy to that of the linear model."""
    is_right = {system: right(runs) for system, runs in scores.items()}
    rows = []
    for system, runs in found.items():
        known = ([run[metric] for run in runs if metric in run] for metric in SHOWN)
        cells = [Spread.of(values).text(".4f") if values else "" for values in known]
        rows.append([system, *cells, "" if system == "linear" else gain(is_right[system], is_right["linear"])])
    title = f"{scenario}: {len(is_right['linear']):,} texts"
    return Table(title, ["system", *SHOWN, "accuracy against linear"], rows)


def right(runs: list[Scores]) -> NDArray[np.float64]:
    """Of each text, the share of the runs that are right."""
    found: NDArray[np.float64] = np.mean([one.numerators["accuracy"] for one in runs], axis=0)
    return found


def gain(ours: NDArray[np.float64], linear: NDArray[np.float64]) -> str:
    """The mean difference, with a bootstrap interval over texts."""
    difference = ours - linear
    draw = np.random.default_rng(0)
    means = [difference[draw.integers(len(difference), size=len(difference))].mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
