"""Designs of a search, replayed on recorded learning curves: what each finds with the same core-seconds.

`--record 60` trains random settings of the family's space to their last epoch, one after the other, and appends each
curve (score and processor time of every epoch) to `--curves`; the first has the defaults, as the first of a sweep.
It goes on where it was stopped.

Without it the searches are replayed on those curves, 1,000 times in another order, on as many simulated processors as
`--concurrent`. A search that proposes settings itself gets the recorded ones that are nearest and unused. Every search
may spend the same core-seconds; what counts is the best validation score that it has seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import logging
import math
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.kit import measure
from benchmarks.kit.page import Table, write_page
from benchmarks.recommender.sweep_efficiency import drawn
from models import FAMILIES
from models.config import Choice, LogUniform, Range
from models.prepared import Prepared

FAMILY = FAMILIES["recommender"]
BUDGETS = (4, 8, 16)
"""Core-seconds that are spent, in trainings of average length."""


@dataclass(frozen=True)
class Curve:
    """A setting and what became of it."""

    sample: Mapping[str, Any]
    scores: Sequence[float]
    """Validation score after each epoch; the first is that of the model before training."""
    seconds: Sequence[float]
    """Processor time of each epoch."""

    @property
    def best(self) -> list[float]:
        """The best score up to each epoch."""
        return list(np.maximum.accumulate(self.scores))


@dataclass(frozen=True)
class Search:
    """A design: which setting comes next, and when a trial is stopped."""

    name: str
    rungs: tuple[int, ...] = ()
    """Epochs at which a trial may be stopped."""
    keep: float = 1.0
    """Share of the trials that go on at a rung."""
    guided: bool = False
    """Whether Optuna's TPE proposes settings, instead of chance."""
    default_first: bool = True


def main() -> None:
    """Record curves, or replay the searches on them and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--curves", type=Path, required=True, help="JSON lines, one for each recorded training")
    parser.add_argument("--record", type=int, default=0, help="number of settings to have in the file")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=2)
    arguments = measure.read(parser)
    if arguments.record:
        with measure.workspace(arguments) as work:
            record(arguments, measure.prepared(arguments.data, arguments, work), work)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = read(arguments.curves)
    tables = [compare(curves, arguments, budget) for budget in BUDGETS]
    write_page("sweep-replay", __doc__, arguments, [described(curves), *tables], {"curves": len(curves)})


def record(arguments: argparse.Namespace, data: Path, work: Path) -> None:
    """Append the curves that the file lacks."""
    import torch

    from jobs.training.distributed import WorkerContext
    from jobs.training.loop import run_training

    torch.set_num_threads(arguments.threads)
    logging.getLogger("shopkeeper").setLevel(logging.WARNING)
    prepared = Prepared(data)
    schema = prepared.schema(FAMILY.Schema, FAMILY.files)
    base = FAMILY.resolve(FAMILY.Config(epochs=arguments.epochs, patience=0), schema)
    default = {name: getattr(base, name) for name in FAMILY.space}
    done = len(arguments.curves.read_text().splitlines()) if arguments.curves.exists() else 0
    samples = drawn(FAMILY.space, seed=7)
    for number in range(arguments.record):
        sample = default if number == 0 else next(samples)
        if number < done:
            continue
        points: list[tuple[float, float]] = []
        started = [time.process_time()]

        def report(metrics: Mapping[str, Any], points: Any = points, started: Any = started) -> None:
            now = time.process_time()
            points.append((float(metrics[f"val_{FAMILY.metric.name}"]), now - started[0]))
            started[0] = now

        with tempfile.TemporaryDirectory(dir=work) as directory:
            config = dataclasses.replace(base, **sample)
            run_training(
                FAMILY,
                config=config,
                data=prepared,
                directory=Path(directory),
                worker=WorkerContext(device="cpu"),
                report=report,
            )
        with arguments.curves.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"sample": sample, "curve": points}) + "\n")


def read(path: Path) -> list[Curve]:
    """The curves of a file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Curve(line["sample"], [score for score, _ in line["curve"]], [seconds for _, seconds in line["curve"]])
        for line in lines
    ]


def designs(epochs: int) -> list[Search]:
    """The searches to compare."""
    third, ninth = max(1, epochs // 3), max(1, epochs // 9)
    found = [
        Search("random, every trial to its end", default_first=False),
        Search("random, the defaults first"),
        Search("TPE", guided=True),
    ]
    for title, rungs, keep in (
        ("ASHA at a ninth and a third, a third goes on", (ninth, third), 1 / 3),
        ("ASHA at a third, a third goes on", (third,), 1 / 3),
        ("ASHA at a ninth and both thirds, half goes on", (ninth, third, 2 * third), 1 / 2),
        ("ASHA at both thirds, half goes on", (third, 2 * third), 1 / 2),
    ):
        found += [Search(title, rungs, keep), Search(f"{title}, TPE", rungs, keep, guided=True)]
    return found


def compare(curves: Sequence[Curve], arguments: argparse.Namespace, budget: int) -> Table:
    """The result of each search within a budget, as differences from random search on the same draws."""
    limit_s = budget * float(np.mean([sum(curve.seconds) for curve in curves]))
    searches = designs(len(curves[0].scores) - 1)
    found = {
        search.name: np.array(
            [replay(curves, search, seed, limit_s, arguments.concurrent) for seed in range(arguments.replays)]
        )
        for search in searches
    }
    base = found[searches[0].name]
    top = max(max(curve.scores) for curve in curves)
    rows = []
    for name, scores in found.items():
        difference = scores - base
        error = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
        rows.append(
            [
                name,
                f"{scores.mean():.4f}",
                f"{difference.mean():+.4f} ± {error:.4f}",
                f"{float((scores > base).mean()):.0%} / {float((scores < base).mean()):.0%}",
                f"{float((scores >= top).mean()):.0%}",
            ]
        )
    title = f"Core-seconds of {budget} whole trainings ({limit_s:.0f} s), {arguments.concurrent} processors"
    header = ["search", "best score found", "over random", "better / worse", "finds the best of all"]
    return Table(title, header, rows)


def replay(curves: Sequence[Curve], search: Search, seed: int, limit_s: float, concurrent: int) -> float:
    """The best score that a search finds on the curves within a budget of core-seconds."""
    draw = random.Random(seed)
    order = list(range(len(curves)))
    draw.shuffle(order)
    if search.default_first:
        order.remove(0)
        order.insert(0, 0)
    proposals = Proposals(curves, order, seed) if search.guided else None
    waiting = iter(order)
    rungs: dict[int, list[float]] = {epoch: [] for epoch in search.rungs}
    running: list[tuple[float, int, int]] = []  # when the next epoch ends, trial, epoch
    spent, best, now = 0.0, -math.inf, 0.0

    def start() -> None:
        number = next(waiting, None) if proposals is None else proposals.next()
        if number is not None:
            heapq.heappush(running, (now + curves[number].seconds[0], number, 0))

    for _ in range(concurrent):
        start()
    while running:
        now, number, epoch = heapq.heappop(running)
        curve = curves[number]
        spent += curve.seconds[epoch]
        if spent > limit_s:
            break
        best = max(best, curve.scores[epoch])
        score, goes_on = curve.best[epoch], epoch + 1 < len(curve.scores)
        if goes_on and epoch in rungs:
            goes_on = not rungs[epoch] or score >= float(np.quantile(rungs[epoch], 1 - search.keep))
            rungs[epoch].append(score)
        if goes_on:
            heapq.heappush(running, (now + curve.seconds[epoch + 1], number, epoch + 1))
            continue
        if proposals is not None:
            proposals.tell(number, score)
        start()
    return best


class Proposals:
    """TPE on recorded settings: what it proposes is replaced by the nearest one that is unused."""

    def __init__(self, curves: Sequence[Curve], order: Sequence[int], seed: int) -> None:
        self._curves, self._unused = curves, list(order)
        self._space = {name: _distribution(dimension) for name, dimension in FAMILY.space.items()}
        self._places = np.array([_place(curve.sample) for curve in curves])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, len(order) // 6), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def next(self) -> int | None:
        """The number of the next curve; None if all are used."""
        if not self._unused:
            return None
        if not self._study.trials:
            number = self._unused[0]
        else:
            asked = _place(self._study.ask(self._space).params)
            left = np.array(self._unused)
            number = int(left[np.argmin(np.linalg.norm(self._places[left] - asked, axis=1))])
        self._unused.remove(number)
        return number

    def tell(self, number: int, score: float) -> None:
        """What a trial reached."""
        trial = optuna.trial.create_trial(
            params=dict(self._curves[number].sample), distributions=self._space, value=score
        )
        self._study.add_trial(trial)


def _distribution(dimension: Range) -> optuna.distributions.BaseDistribution:
    match dimension:
        case Choice(options):
            return optuna.distributions.CategoricalDistribution(options)
        case LogUniform(low, high):
            return optuna.distributions.FloatDistribution(low, high, log=True)
        case _:
            return optuna.distributions.FloatDistribution(dimension.low, dimension.high)


def _place(sample: Mapping[str, Any]) -> list[float]:
    """A setting as a point of which each dimension runs from 0 to 1; options are corners."""
    place: list[float] = []
    for name, dimension in FAMILY.space.items():
        value = sample[name]
        match dimension:
            case Choice(options):
                place += [float(value == option) for option in options]
            case LogUniform(low, high):
                place.append(math.log(value / low) / math.log(high / low))
            case _:
                place.append((value - dimension.low) / (dimension.high - dimension.low))
    return place


def described(curves: Sequence[Curve]) -> Table:
    """What the curves are like, by network, and how early an epoch tells the last."""
    rows = []
    for network in sorted({str(curve.sample["network"]) for curve in curves}):
        own = [curve for curve in curves if curve.sample["network"] == network]
        tops = [max(curve.scores) for curve in own]
        seconds = np.mean([sum(curve.seconds) for curve in own])
        rows.append([network, str(len(own)), f"{np.median(tops):.4f}", f"{max(tops):.4f}", f"{seconds:.0f}"])
    header = ["network", "settings", "median of the best scores", "best", "core-s a training"]
    return Table("The recorded trainings", header, rows)


if __name__ == "__main__":
    main()
