"""Training rate: trained targets per core-second of our networks and of RecBole's, alternating in one run.

A trained target is one (history, next item) pair that a gradient is computed for. Ours trains at every position of a
row; RecBole makes an example of every prefix. Both use cross-entropy over all items. Data loading is part of the time,
validation is not. Core-seconds are the processor time of the process.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page

OURS = {"transformer": ["network=transformer"], "gru": ["network=gru"]}
# The prior is not trained; it would only be counted before.
OURS_FIXED = ["dim=64", "num_blocks=2", "max_length=200", "blend=false", "spectral_start=false"]
RECBOLE = {"SASRec L50": ("SASRec", 50), "SASRec L200": ("SASRec", 200), "GRU4Rec L200": ("GRU4Rec", 200)}
QUICK_ROWS = 64


def main() -> None:
    """Measure and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a RecBole measurement; ours is one epoch")
    parser.add_argument("--networks", nargs="+", default=list(OURS), help="ours")
    parser.add_argument("--models", nargs="+", default=list(RECBOLE), choices=RECBOLE, help="RecBole's")
    parser.add_argument("--batch-size", type=int, default=2048, help="RecBole's; 2048 is its default")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.batch_size = 2, 0.5, 64
    with measure.workspace(arguments) as work:
        workers, settings = measure.ready(start(arguments, work))
        found = measure.alternate(workers, arguments.repeats)
        for worker in workers:
            worker.close()
    table = tabulate(found, arguments)
    write_page("training-rate", __doc__, arguments, [table], {"settings": settings, "measured": found})


def start(arguments: argparse.Namespace, work: Path) -> Iterator[Worker]:
    """All systems; each has loaded its data when it answers."""
    data = measure.prepared(arguments.data, arguments, work)
    for network in arguments.networks:
        config = [*OURS.get(network, [f"network={network}"]), *OURS_FIXED, *arguments.config]
        rows = ["--rows", str(QUICK_ROWS)] if arguments.quick else []
        command = measure.shopkeeper("train", data, work / network, config=config, more=rows)
        yield Worker(f"ours {network}", command, threads=arguments.threads)
    if arguments.peers is None:
        return
    events = measure.export(data, work / "events.npz")
    for name in arguments.models:
        model, length = RECBOLE[name]
        more = ["--work", str(work / name.replace(" ", "-")), "--model", model, "--length", str(length)]
        more += ["--seconds", str(arguments.seconds), "--batch-size", str(arguments.batch_size)]
        command = measure.peer("recbole", arguments.peers, "train", events, more)
        yield Worker(f"RecBole {name}", command, threads=arguments.threads)


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each system; ratios are against the first of ours, round by round."""
    first = next(iter(found))
    rows = []
    for name, answers in found.items():
        ratios = [rate(ours) / rate(theirs) for ours, theirs in zip(found[first], answers, strict=True)]
        rows.append(
            [
                name,
                Spread.of(rate(answer) for answer in answers).text(),
                Spread.of(answer["targets"] / answer["wall_s"] for answer in answers).text(),
                Spread.of(ratios).text(",.1f"),
                str(len(answers)),
                f"{sum(answer['steps'] for answer in answers):,}",
                f"{max(answer['peak_rss_mb'] for answer in answers):,}",
            ]
        )
    header = ["system", "targets / core-s", "targets / s of wall time", f"{first} is x times it", "n", "steps"]
    return Table(f"{measure.label(arguments.data)}, d64, 2 layers", [*header, "peak memory, MB"], rows)


def rate(answer: dict[str, Any]) -> float:
    """Targets per core-second."""
    return float(answer["targets"] / answer["cpu_s"])


if __name__ == "__main__":
    main()
