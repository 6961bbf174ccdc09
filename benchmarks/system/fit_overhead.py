"""What Ray costs: `fit()` with one worker against the bare training loop, and two workers against one.

The seconds of an epoch are wall time between the reports of the first and of the last epoch, over the epochs between:
steps, validation, checkpoint and report are in it. The start-up, from the call to the report of epoch 0, stands
apart. Every process has one thread. Two bare loops at the same time show what the machine itself allows: memory
bandwidth and clock are shared, so two workers cannot gain more than that. The Ray cluster is up, and idle, while the
bare loop runs.
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

BARE, ONE, TWO, BOTH = "bare loop", "fit(), 1 worker", "fit(), 2 workers", "two bare loops at once"
Times = list[float]
"""Epoch seconds of the clock: the start, then the report of each epoch from 0."""


def main() -> None:
    """Train in each way, alternating, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--family", default="recommender", choices=FAMILIES, help="of image with --prepare and no value"
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
            place = work / str(repeat)
            found[BARE] += bare(data, place / "bare", arguments, num=1)
            found[ONE].append(fitted(data, place / "one", arguments, num=1))
            found[TWO].append(fitted(data, place / "two", arguments, num=2))
            found[BOTH] += bare(data, place / "both", arguments, num=2)
        ray.shutdown()
    write_page("fit-overhead", __doc__, arguments, [tabulate(found)], {"measured": found})


def settings(arguments: argparse.Namespace) -> list[str]:
    """The config of all."""
    return [*arguments.config, f"epochs={arguments.epochs}", "patience=0"]


def bare(data: Path, work: Path, arguments: argparse.Namespace, *, num: int) -> list[Times]:
    """The loop in a process of its own, or in several at once that know nothing of each other."""
    started = time.time()
    workers = []
    for place in range(num):
        command = measure.shopkeeper(
            "fit", data, work / str(place), config=settings(arguments), family_name=arguments.family
        )
        workers.append(Worker(f"{BARE} {place}", command, threads=arguments.threads))
    found = []
    for worker in workers:
        found.append([started, *(answer["at"] for answer in worker.answers() if "epoch" in answer)])
        worker.close()
    return found


def fitted(data: Path, work: Path, arguments: argparse.Namespace, *, num: int) -> Times:
    """`fit()` on the cluster, with a clock where Ray collects the reports."""
    from ray.train import UserCallback

    from jobs.training.fit import TrainingResources, fit

    class Clock(UserCallback):  # type: ignore[misc]
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
    """Seconds of an epoch after the first."""
    return (times[-1] - times[2]) / (len(times) - 3)


def tabulate(found: dict[str, list[Times]]) -> Table:
    """A row for each way."""
    seconds = {name: [epoch_s(times) for times in runs] for name, runs in found.items()}
    both = [max(pair) for pair in zip(seconds[BOTH][::2], seconds[BOTH][1::2], strict=True)]
    compared = {
        BARE: ("1", [1.0] * len(seconds[BARE])),
        ONE: ("of the bare loop's speed", [a / b for a, b in zip(seconds[BARE], seconds[ONE], strict=True)]),
        TWO: ("times one worker", [a / b for a, b in zip(seconds[ONE], seconds[TWO], strict=True)]),
        BOTH: ("times one bare loop: the most there is", [2 * a / b for a, b in zip(seconds[BARE], both, strict=True)]),
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
