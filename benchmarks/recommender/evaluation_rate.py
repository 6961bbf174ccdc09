"""Evaluation: core-seconds to rank all items for every test event, compared with RecBole and implicit.

What each system does in that time: ours encodes every history and gives the exact rank of the target with seen
items filtered and unfiltered, NDCG, hit rate and MRR at 5, 10, 20 and 50, labels of slices and the lists for coverage
("evaluate", what the verb does); "validate" is what the training loop does after an epoch, on the validation split,
with the choice of the blend weight. RecBole's full-sort evaluation of a sequential model encodes every history, does
not filter seen items, and gives NDCG@10 and hit@10 from a top 10. implicit's ranking_metrics_at_k has no histories to
encode, filters seen items, and gives NDCG@10 from a top 10. The time does not depend on how well a model is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page

OURS = {
    "transformer with prior": ["network=transformer", "blend=true"],
    "transformer alone": ["network=transformer", "blend=false"],
    "gru with prior": ["network=gru", "blend=true"],
    "transitions": ["network=transitions"],
}
RECBOLE = {"SASRec L50": ("SASRec", 50), "SASRec L200": ("SASRec", 200), "GRU4Rec L200": ("GRU4Rec", 200)}


def main() -> None:
    """Measure and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ours", nargs="+", default=list(OURS), choices=OURS)
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats = 2
    with measure.workspace(arguments) as work:
        workers, settings = measure.ready(start(arguments, work))
        found = measure.alternate(workers, arguments.repeats)
        for worker in workers:
            worker.close()
    for name in [name for name in found if name.startswith("ours")]:
        found[f"{name}, validate"] = [{**answer, **answer["validate"]} for answer in found[name]]
    table = tabulate(found, arguments)
    write_page("evaluation-rate", __doc__, arguments, [table], {"settings": settings, "measured": found})


def start(arguments: argparse.Namespace, work: Path) -> Iterator[Worker]:
    """All systems; each has loaded its data and built its model when it answers."""
    data = measure.prepared(arguments.data, arguments, work)
    commands = {}
    for name in arguments.ours:
        config = [*OURS[name], *arguments.config]
        commands[f"ours {name}"] = measure.shopkeeper("evaluate", data, work / name.replace(" ", "-"), config=config)
    if arguments.peers is not None:
        events = measure.export(data, work / "events.npz")
        for name, (model, length) in RECBOLE.items():
            more = ["--work", str(work / name.replace(" ", "-")), "--model", model, "--length", str(length)]
            commands[f"RecBole {name}"] = measure.peer("recbole", arguments.peers, "evaluate", events, more)
        more = ["--model", "als"]
        commands["implicit ALS"] = measure.peer("implicit", arguments.peers, "evaluate", events, more)
    for name, command in commands.items():
        yield Worker(name, command, threads=arguments.threads)


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each system; ratios are against the first of ours, round by round."""
    first = next(iter(found))
    rows = []
    for name, answers in found.items():
        ratios = [theirs["cpu_s"] / ours["cpu_s"] for ours, theirs in zip(found[first], answers, strict=True)]
        rows.append(
            [
                name,
                Spread.of(answer["cpu_s"] for answer in answers).text(".2f"),
                Spread.of(answer["wall_s"] for answer in answers).text(".2f"),
                Spread.of(answer["users"] / answer["cpu_s"] for answer in answers).text(),
                Spread.of(ratios).text(",.1f"),
                str(len(answers)),
                f"{max(answer['peak_rss_mb'] for answer in answers):,}",
            ]
        )
    header = ["system", "core-s", "wall s", "users / core-s", f"times {first}", "n", "peak memory, MB"]
    return Table(f"{measure.label(arguments.data)}, {found[first][0]['users']:,} test events", header, rows)


if __name__ == "__main__":
    main()
