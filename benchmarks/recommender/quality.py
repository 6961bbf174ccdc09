"""Quality: NDCG@10 and HR@10 on the test split, full ranking, seen items filtered and unfiltered, over seeds.

Ours is trained on the training events, its best epoch and its blend weight are chosen on validation, and the test
split is used once. implicit's ALS and BPR are fitted on training and validation events together, which favours
them, with 64 factors and otherwise their defaults. All systems are evaluated by the same definition: the rank of the
one held-out item among all items; equal scores rank by index. The median over seeds, [lowest, highest].
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from pathlib import Path

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page

SCORES = ("ndcg_at_10", "hit_rate_at_10", "ndcg_at_10_unfiltered", "hit_rate_at_10_unfiltered")
HEADER = ("system", "NDCG@10", "HR@10", "NDCG@10 unfiltered", "HR@10 unfiltered", "val NDCG@10", "core-s to fit", "n")


def main() -> None:
    """Train everything on every file and write the page after each."""
    parser = measure.flags(__doc__, several=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=["transformer", "gru", "transitions"])
    parser.add_argument("--models", nargs="*", default=["als", "bpr"], choices=("als", "bpr"), help="implicit's")
    parser.add_argument("--settings", default="{}", help="JSON: arguments of implicit's models")
    parser.add_argument("--attributes", nargs="*", default=[], help="S3Rec's item2attributes.json.gz of each --data")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.seeds, arguments.settings = [0, 1], '{"iterations": 3}'
        arguments.config = [*arguments.config, "epochs=1"]
    tables: list[Table] = []
    measured: dict[str, dict[str, list[Answer]]] = {}
    for raw, attributes in itertools.zip_longest(arguments.data, arguments.attributes):
        with measure.workspace(arguments) as work:
            data = measure.prepared(raw, arguments, work, more=item_table(attributes, work) if attributes else {})
            found = evaluated(data, arguments, work)
        tables.append(tabulate(raw, found))
        measured[measure.label(raw)] = found
        # After each file, so that a long run that ends early has results.
        write_page("quality", __doc__, arguments, tables, {"measured": measured})


def item_table(attributes: str, work: Path) -> dict[str, str]:
    """Settings of `prepare` for an item table, which is made from a JSON object of attribute numbers by item."""
    with gzip.open(attributes, "rt", encoding="utf-8") as file:
        by_item = json.load(file)
    table = work / "items.jsonl"
    rows = [{"item_id": item, "attributes": [f"a{number}" for number in numbers]} for item, numbers in by_item.items()]
    table.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return {"items": str(table)}


def evaluated(data: Path, arguments: argparse.Namespace, work: Path) -> dict[str, list[Answer]]:
    """Metrics of each system with each seed on prepared data."""
    found: dict[str, list[Answer]] = {}
    for network in arguments.networks:
        for seed in arguments.seeds:
            config = [f"network={network}", *arguments.config, f"seed={seed}"]
            command = measure.shopkeeper("fit", data, work / f"{network}-{seed}", config=config)
            worker = Worker(f"ours {network}", command, threads=arguments.threads)
            said = list(worker.answers())
            worker.close()
            if not said or not said[-1].get("done"):
                raise RuntimeError(f"the training of {network} failed; its messages are above")
            found.setdefault(worker.name, []).append(said[-1])
    events = measure.export(data, work / "events.npz")
    for model in arguments.models if arguments.peers else []:
        more = ["--model", model, "--settings", json.dumps(json.loads(arguments.settings))]
        worker = Worker(
            f"implicit {model.upper()}",
            measure.peer("implicit", arguments.peers, "quality", events, more),
            threads=arguments.threads,
        )
        worker.answer()
        found[worker.name] = [flattened(worker.ask({"seed": seed})) for seed in arguments.seeds]
        worker.close()
    return found


def flattened(answer: Answer) -> Answer:
    """A peer's answer under our names."""
    return {**answer["fit"], **{f"test_{name}": value for name, value in answer["metrics"].items()}}


def tabulate(raw: str, found: dict[str, list[Answer]]) -> Table:
    """A row for each system."""
    rows = []
    for name, answers in found.items():
        cells = [Spread.of(answer[f"test_{score}"] for answer in answers).text(".4f") for score in SCORES]
        validated = [answer["best_val"] for answer in answers if "best_val" in answer]
        cells.append(Spread.of(validated).text(".4f") if validated else "-")
        cells.append(Spread.of(answer["cpu_s"] for answer in answers).text(",.0f"))
        rows.append([name, *cells, str(len(answers))])
    return Table(measure.label(raw), HEADER, rows)


if __name__ == "__main__":
    main()
