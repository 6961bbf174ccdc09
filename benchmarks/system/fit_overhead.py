"""Overhead of Ray Train: `fit()` with one worker against the bare training loop, and two workers against one.

Seconds per epoch are wall time between the reports of the first and the last epoch, divided by the epochs between:
they include steps, validation, checkpoint and report. The start-up time, from the call to the report of epoch 0, is
reported separately. Every process has one thread. Two concurrent bare loops show the upper bound of the machine:
memory bandwidth and clock are shared, so two workers cannot gain more. The Ray cluster is running, but idle, during
the bare loop.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.kit import measure
from benchmarks.kit.measure import Worker
from benchmarks.kit.page import Spread, Table, write_page
from models import FAMILIES
from models.bundle import config_from_dict
from models.prepared import Prepared

BARE, ONE, TWO, BOTH = "bare loop", "fit(), 1 worker", "fit(), 2 workers", "two concurrent bare loops"
Times = list[float]
"""Unix times of the start, then of the report of each epoch from 0."""


def main() -> None:
    """Train in each way in turn, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--family", default="recommender", choices=FAMILIES, help="for image, give --prepare without a value"
    )
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats, arguments.epochs = 1, 3
    measure.use_environment()
    import ray

    from jobs.cli.context import Context, Store
    from jobs.cluster import connection

    found: dict[str, list[Times]] = {name: [] for name in (BARE, ONE, TWO, BOTH)}
    with measure.workspace(arguments) as work:
        data = measure.prepared(arguments.data, arguments, work, family_name=arguments.family)
        connection.connect(Context(store=Store(work / "store")))
        for repeat in range(arguments.repeats):
            directory = work / str(repeat)
            found[BARE] += bare(data, directory / "bare", arguments, num=1)
            found[ONE].append(fitted(data, directory / "one", arguments, num=1))
            found[TWO].append(fitted(data, directory / "two", arguments, num=2))
            found[BOTH] += bare(data, directory / "both", arguments, num=2)
        ray.shutdown()
    write_page("fit-overhead", __doc__, arguments, [tabulate(found)], {"measured": found})


def settings(arguments: argparse.Namespace) -> list[str]:
    """The config of every run."""
    return [*arguments.config, f"epochs={arguments.epochs}", "patience=0"]


def bare(data: Path, work: Path, arguments: argparse.Namespace, *, num: int) -> list[Times]:
    """The loop in its own process, or in several independent concurrent ones."""
    started = time.time()
    workers = []
    for index in range(num):
        command = measure.shopkeeper(
            "fit", data, work / str(index), config=settings(arguments), family_name=arguments.family
        )
        workers.append(Worker(f"{BARE} {index}", command, threads=arguments.threads))
    found = []
    for worker in workers:
        found.append([started, *(answer["at"] for answer in worker.answers() if "epoch" in answer)])
        worker.close()
    return found


def fitted(data: Path, work: Path, arguments: argparse.Namespace, *, num: int) -> Times:
    """`fit()` on the cluster, timed in the Train controller."""
    from ray.train import UserCallback

    from jobs.training.fit import fit
    from jobs.training.placement import TrainingResources

    class Clock(UserCallback):
        def __init__(self, path: str) -> None:
            self.path = path

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            with open(self.path, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(f"{time.time()}\n")

    family = FAMILIES[arguments.family]
    work.mkdir(parents=True)
    clock = work / "clock"
    started = time.time()
    fit(
        family,
        config=config_from_dict(family.Config, measure.overrides(settings(arguments))),
        data=Prepared(data),
        directory=work / "run",
        resources=TrainingResources(num_workers=num, cpus_per_worker=arguments.threads),
        callbacks=[Clock(str(clock))],
    )
    return [started, *map(float, clock.read_text(encoding="utf-8").split())]


def epoch_s(times: Times) -> float:
    """Mean seconds per epoch after the first."""
    return (times[-1] - times[2]) / (len(times) - 3)


def tabulate(found: dict[str, list[Times]]) -> Table:
    """A row per way of training."""
    seconds = {name: [epoch_s(times) for times in runs] for name, runs in found.items()}
    both = [max(pair) for pair in zip(seconds[BOTH][::2], seconds[BOTH][1::2], strict=True)]
    compared = {
        BARE: ("1", [1.0] * len(seconds[BARE])),
        ONE: ("relative to the bare loop", [a / b for a, b in zip(seconds[BARE], seconds[ONE], strict=True)]),
        TWO: ("relative to one worker", [a / b for a, b in zip(seconds[ONE], seconds[TWO], strict=True)]),
        BOTH: (
            "relative to a bare loop: upper bound",
            [2 * a / b for a, b in zip(seconds[BARE], both, strict=True)],
        ),
    }
    rows = []
    for name, runs in found.items():
        text, ratios = compared[name]
        starts = Spread.of(times[1] - times[0] for times in runs).text(".1f")
        cells = [Spread.of(seconds[name]).text(".2f"), Spread.of(ratios).text(".3f"), text, starts, str(len(runs))]
        rows.append([name, *cells])
    return Table("Wall time", ["way", "s an epoch", "ratio", "what", "start-up s", "n"], rows)


if __name__ == "__main__":
    main()
