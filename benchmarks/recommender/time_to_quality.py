"""Time to quality: core-seconds of training until NDCG@10 passes a threshold, full ranking, seen items filtered.

The learning-rate schedule depends on the number of epochs, so every epoch budget is a separate training run. The time
is all processor time from the start of the training loop: counting the prior, the spectral initialisation, every step,
every validation and every checkpoint. Preparing the data, starting Python and evaluation on the test split are
excluded. Each run is evaluated at its best epoch on validation; the threshold is checked on validation and on test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page

METRIC = "ndcg_at_10"


def main() -> None:
    """Train with every budget and seed, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--mark", type=float, default=0.17, help="NDCG@10 to reach")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 3, 4, 6, 10], help="budgets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.epochs, arguments.seeds, arguments.mark = [1, 2], [0], 0.01
    found: dict[int, list[list[Answer]]] = {epochs: [] for epochs in arguments.epochs}
    with measure.workspace(arguments) as work:
        data = measure.prepared(arguments.data, arguments, work)
        for seed in arguments.seeds:
            for epochs in arguments.epochs:
                found[epochs].append(trained(data, work / f"{seed}-{epochs}", epochs, seed, arguments))
    tables = [answer_table(found, arguments), budget_table(found), epoch_table(found)]
    write_page("time-to-quality", __doc__, arguments, tables, {"measured": found})


def trained(data: Path, work: Path, epochs: int, seed: int, arguments: argparse.Namespace) -> list[Answer]:
    """The messages of a training run after each epoch, from epoch 0."""
    config = [*arguments.config, f"epochs={epochs}", f"seed={seed}", "patience=0"]
    command = measure.shopkeeper("fit", data, work, config=config, more=["--test-each-epoch"])
    worker = Worker(f"{epochs} epochs", command, threads=arguments.threads)
    said = list(worker.answers())
    worker.close()
    if not said or not said[-1].get("done"):
        raise RuntimeError(f"the training with {epochs} epochs failed; its messages are above")
    return [answer for answer in said if "epoch" in answer]


def answer_table(found: dict[int, list[list[Answer]]], arguments: argparse.Namespace) -> Table:
    """For each split the least time, over budgets, after which the threshold is reached with every seed."""
    rows = []
    for split in ("val", "test"):
        reached = {}
        for epochs, runs in found.items():
            times = [first_time(run, f"{split}_{METRIC}", arguments.mark) for run in runs]
            if all(time is not None for time in times):
                reached[epochs] = Spread.of(time for time in times if time is not None)
        best = min(reached, key=lambda epochs: reached[epochs].median, default=None)
        if best is None:
            rows.append([split, "not reached with every seed", "-", str(len(arguments.seeds))])
        else:
            rows.append([split, reached[best].text(".1f"), str(best), str(len(arguments.seeds))])
    return Table(f"Core-seconds to NDCG@10 {arguments.mark}", ["split", "core-s", "budget of epochs", "n"], rows)


def first_time(run: list[Answer], metric: str, mark: float) -> float | None:
    """Core-seconds at the first epoch that passes the threshold."""
    return next((answer["cpu_s"] for answer in run if answer[metric] >= mark), None)


def budget_table(found: dict[int, list[list[Answer]]]) -> Table:
    """Quality of each budget at its best epoch on validation."""
    rows = []
    for epochs, runs in found.items():
        best = [max(run, key=lambda answer: float(answer[f"val_{METRIC}"])) for run in runs]
        scores = (f"val_{METRIC}", f"test_{METRIC}", f"test_{METRIC}_unfiltered", "test_hit_rate_at_10")
        cells = [Spread.of(answer[name] for answer in best).text(".4f") for name in scores]
        rows.append([str(epochs), Spread.of(run[-1]["cpu_s"] for run in runs).text(".1f"), *cells, str(len(runs))])
    header = ["epochs", "core-s in all", "val NDCG@10", "test NDCG@10", "test NDCG@10 unfiltered", "test HR@10", "n"]
    return Table("Quality by budget", header, rows)


def epoch_table(found: dict[int, list[list[Answer]]]) -> Table:
    """The curve of each budget, median over seeds; epoch 0 is the prior and the spectral initialisation alone."""
    rows = []
    for epochs, runs in found.items():
        for places in zip(*runs, strict=True):
            numbers = [
                Spread.of(answer[name] for answer in places) for name in ("cpu_s", f"val_{METRIC}", f"test_{METRIC}")
            ]
            texts = [f"{spread.median:{form}}" for spread, form in zip(numbers, (".1f", ".4f", ".4f"), strict=True)]
            rows.append([str(epochs), str(places[0]["epoch"]), *texts])
    return Table("Curves (medians)", ["budget", "epoch", "core-s", "val NDCG@10", "test NDCG@10"], rows)


if __name__ == "__main__":
    main()
