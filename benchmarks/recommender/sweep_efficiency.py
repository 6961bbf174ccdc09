"""Sweep efficiency: the best validation score by core-seconds, our sweep against random search, with the same budget.

Ours is the verb `sweep`: ASHA stops bad trials early and Optuna proposes settings, the first trial being the
defaults. Random search samples the same space and trains every sample to its last epoch. Both run the same training
loop with the same number of trials at a time and threads each. The sweep goes first and sets the budget: the core-
seconds of its epochs (training, validation, and epoch 0 of each trial). The overhead of Ray and Python is in
neither, and shown separately.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kit import measure
from benchmarks.kit.measure import Worker
from benchmarks.kit.page import Spread, Table, write_page
from models import FAMILIES
from models.bundle import config_from_dict
from models.config import Choice, LogUniform, Range

FAMILY = FAMILIES["recommender"]
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
Curve = list[tuple[float, float]]
"""(core-seconds spent, best validation score until then), one point for each epoch of any trial."""


def main() -> None:
    """Run both searches with every seed, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=9, help="of a trial that is not stopped")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at the same time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.trials, arguments.epochs, arguments.seeds = 3, 3, [0]
    measure.use_environment()
    arguments.threads = max(1, (os.cpu_count() or 1) // arguments.concurrent)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "random search": []}
    with measure.workspace(arguments) as work:
        data = measure.prepared(arguments.data, arguments, work)
        for seed in arguments.seeds:
            given = {"epochs": arguments.epochs, **measure.overrides(arguments.config), "seed": seed}
            config = config_from_dict(FAMILY.Config, given)
            ours = swept(config, data.parents[2], arguments)
            found["ours"].append(ours)
            budget_s = ours["curve"][-1][0]
            found["random search"].append(searched(config, data, work / str(seed), arguments, budget_s=budget_s))
    tables = [by_share(found), speed_up(found)]
    write_page("sweep-efficiency", __doc__, arguments, tables, {"measured": found})


def swept(config: Any, store: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The verb `sweep` on the prepared data of a store."""
    import ray

    from jobs import sweep
    from jobs.cli.context import Context, Store
    from jobs.training import checkpoints, trials

    started = time.monotonic()
    context = Context(store=Store(store))
    options = sweep.Options(trials=arguments.trials, concurrent=arguments.concurrent)
    outcome = sweep.run(context, FAMILY, options, config)
    wall_s = time.monotonic() - started
    ray.shutdown()
    assert outcome.run_id is not None
    directory = context.store.run_directory(FAMILY.name, outcome.run_id)
    epochs = []
    seen: set[tuple[str, int]] = set()
    for line in map(json.loads, (directory / trials.HISTORY).read_text(encoding="utf-8").splitlines()):
        place = (line["trial_id"], line["epoch"])
        reports = checkpoints.read_reports(trials.directory_of(directory, line["trial_id"]))
        if place not in seen and line["epoch"] < len(reports):
            seen.add(place)
            epochs.append(reports[line["epoch"]])
    num_trials = len({trial_id for trial_id, _ in seen})
    return {"curve": curve_of(epochs, arguments.threads), "wall_s": wall_s, "trials": num_trials}


def searched(config: Any, data: Path, work: Path, arguments: argparse.Namespace, *, budget_s: float) -> dict[str, Any]:
    """Random search without early stopping until the budget is spent."""
    from jobs.training.search_space import search_space

    space, config = search_space(FAMILY, config, ())
    samples = enumerate(drawn(space, config.seed))
    epochs: list[dict[str, Any]] = []
    lock = threading.Lock()

    def spent_s() -> float:
        return float(arguments.threads * sum(epoch["seconds"] for epoch in epochs))

    def search() -> None:
        while spent_s() < budget_s:
            with lock:
                number, sample = next(samples)
            settings = {**dataclasses.asdict(config), **sample, "patience": 0}
            pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
            command = measure.shopkeeper("fit", data, work / str(number), config=pairs)
            worker = Worker(f"trial {number}", command, threads=arguments.threads)
            for answer in worker.answers():
                if "epoch" in answer:
                    epochs.append(answer)
                if spent_s() >= budget_s:
                    break
            worker.stop()

    started = time.monotonic()
    threads = [threading.Thread(target=search) for _ in range(arguments.concurrent)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = sum(epoch["epoch"] == 0 for epoch in epochs)
    curve = [point for point in curve_of(epochs, arguments.threads) if point[0] <= budget_s * 1.05]
    return {"curve": curve, "wall_s": time.monotonic() - started, "trials": trials}


def drawn(space: Mapping[str, Range], seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of random settings."""
    draw = np.random.default_rng(seed)
    for _ in itertools.count():
        sample: dict[str, Any] = {}
        for name, dimension in space.items():
            if isinstance(dimension, Choice):
                sample[name] = dimension.options[int(draw.integers(len(dimension.options)))]
            elif isinstance(dimension, LogUniform):
                sample[name] = float(np.exp(draw.uniform(np.log(dimension.low), np.log(dimension.high))))
            else:
                sample[name] = float(draw.uniform(dimension.low, dimension.high))
        yield sample


def curve_of(epochs: Sequence[Mapping[str, float]], threads: int) -> Curve:
    """Core-seconds and best score after each epoch, in the order in which they ended."""
    curve: Curve = []
    spent_s = 0.0
    for epoch in epochs:
        spent_s += threads * epoch["seconds"]
        score = float(epoch[f"val_{FAMILY.metric.name}"])
        curve.append((spent_s, max(score, curve[-1][1]) if curve else score))
    return curve


def best_at(curve: Curve, spent_s: float) -> float:
    """The best score within a budget; 0 before the first."""
    return max((score for spent, score in curve if spent <= spent_s), default=0.0)


def by_share(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """The best score of each search at shares of the budget."""
    budgets = [run["curve"][-1][0] for run in found["ours"]]
    rows = []
    for name, runs in found.items():
        cells = [
            Spread.of(best_at(run["curve"], share * budget) for run, budget in zip(runs, budgets, strict=True))
            for share in SHARES
        ]
        trials = Spread.of(run["trials"] for run in runs).text(".0f")
        wall = Spread.of(run["wall_s"] for run in runs).text(".0f")
        rows.append([name, *(cell.text(".4f") for cell in cells), trials, wall, str(len(runs))])
    header = ["search", *(f"{share:.0%} of the budget" for share in SHARES), "trials", "wall s, all included", "n"]
    return Table(f"Best validation NDCG@10; budget {Spread.of(budgets).text()} core-s", header, rows)


def speed_up(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """What each search needs to reach the best score of random search."""
    rows = []
    pairs = list(zip(found["ours"], found["random search"], strict=True))
    for place, (ours, random) in enumerate(pairs):
        mark = random["curve"][-1][1]
        times = [next((spent for spent, score in run["curve"] if score >= mark), None) for run in (ours, random)]
        cells = ["not reached" if time is None else f"{time:.0f}" for time in times]
        ratio = f"{times[1] / times[0]:.1f}" if times[0] and times[1] else "-"
        rows.append([str(place), f"{mark:.4f}", *cells, ratio])
    header = ["seed", "best of random search", "ours, core-s", "random search, core-s", "times"]
    return Table("Core-seconds to the best score of random search", header, rows)


if __name__ == "__main__":
    main()
