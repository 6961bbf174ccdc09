"""Large catalogues: full against sampled cross-entropy with 50,000 synthetic items, and the cost of a million items.

The logs are synthetic (benchmarks/kit/synthetic_log.py): topics, five successors of each item, favourite topics of each
user. The ideal predictor knows this generating process and the favourites. Leave-one-out; NDCG@10 on the validation
events of the first users of each shard, ranked among all items, seen items filtered. Unless stated otherwise, networks
are evaluated without the prior, which would hide the difference between losses. Core-seconds are processor time of the
process. One system trains for more epochs, for about the core-seconds of the full loss; each has a full schedule of the
learning rate.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.kit.synthetic_log import write_log
from models.prepared import Prepared
from models.recommender.schema import Schema

SAMPLED = ["loss=sampled", "num_negatives=4096"]
RATE_FIXED = ["blend=false", "spectral_start=false"]
LOSSES = {
    "full": (["loss=full"], 1),
    "sampled, 4,096 negatives": (SAMPLED, 1),
    "sampled, 4,096 negatives, longer": (SAMPLED, 3),
    "sampled, 1,024 negatives": (["loss=sampled", "num_negatives=1024"], 1),
    "sampled, 16,384 negatives": (["loss=sampled", "num_negatives=16384"], 1),
}
"""Name -> fields of Config, and the multiple of --epochs to train for."""
MILLION = {
    "sampled, prior, random start": ["blend=true", "spectral_start=false"],
    "sampled, random start": ["blend=false", "spectral_start=false"],
}
"""Name -> fields of Config; spectral_start=true would take minutes for the initialisation alone."""
EVENTS_PER_USER = 20


def main() -> None:
    """Measure one part and write its page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--part", choices=("rates", "losses", "million"), required=True)
    parser.add_argument(
        "--items", type=int, nargs="+", help="items to generate; of a million about a fifth never occurs"
    )
    parser.add_argument("--users", type=int, help="users with 20 events each")
    parser.add_argument("--validated", type=int, default=128, help="users of each of the 32 shards to validate on")
    parser.add_argument("--epochs", type=int, help="2 by default, 1 with a million items")
    parser.add_argument("--at-once", type=int, default=1, help="losses and million: concurrent training runs")
    parser.add_argument("--repeats", type=int, default=3, help="of a rate")
    parser.add_argument("--rows", type=int, help="of the epoch whose rate is measured; a step has 32")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.items, arguments.users, arguments.epochs = [2000], 1000, 1
        arguments.repeats, arguments.rows = 2, 32
    with measure.workspace(arguments) as work:
        tables, raw = {"rates": rates, "losses": losses, "million": million}[arguments.part](arguments, work)
    arguments.suffix = "-".join(filter(None, [arguments.part, arguments.suffix]))
    write_page("large-catalogue", __doc__, arguments, tables, raw)


def rates(arguments: argparse.Namespace, work: Path) -> tuple[list[Table], Answer]:
    """Full and sampled loss, alternating, by size of the catalogue."""
    rows, measured, settings = [], {}, {}
    for num_items in arguments.items or [5_000, 10_000, 20_000, 50_000, 100_000]:
        data, _ = synthetic_data(arguments, work, num_items, arguments.users or num_items)
        workers = []
        for name, loss in {"full": ["loss=full"], "sampled": SAMPLED}.items():
            config = [*loss, *RATE_FIXED, *arguments.config]
            more = ["--rows", str(arguments.rows or 320)]
            command = measure.shopkeeper("train", data, work / f"{name}-{num_items}", config=config, more=more)
            workers.append(Worker(f"{num_items:,} items, {name}", command, threads=arguments.threads))
        settings |= {worker.name: worker.answer() for worker in workers}
        found = measure.alternate(workers, arguments.repeats)
        for worker in workers:
            worker.close()
        rows.append(rate_row(num_items, *found.values()))
        measured |= found
    header = ["items generated", "full, targets / core-s", "sampled, targets / core-s", "sampled is x times full", "n"]
    header += ["peak memory full, MB", "sampled"]
    return [Table("Trained targets, transformer d64, 4,096 negatives", header, rows)], {
        "settings": settings,
        "measured": measured,
    }


def rate_row(num_items: int, full: list[Answer], sampled: list[Answer]) -> list[str]:
    """One size of the catalogue; ratios are taken round by round."""
    found = [[answer["targets"] / answer["cpu_s"] for answer in answers] for answers in (full, sampled)]
    return [
        f"{num_items:,}",
        *(Spread.of(one).text() for one in found),
        Spread.of(b / a for a, b in zip(*found, strict=True)).text(".2f"),
        str(len(full)),
        *(f"{max(answer['peak_rss_mb'] for answer in answers):,}" for answers in (full, sampled)),
    ]


def losses(arguments: argparse.Namespace, work: Path) -> tuple[list[Table], Answer]:
    """The quality of each loss at equal epochs and at equal core-seconds."""
    num_items = (arguments.items or [50_000])[0]
    data, ideal = synthetic_data(arguments, work, num_items, arguments.users or num_items)

    def fit(name: str) -> list[Answer]:
        fields, times = LOSSES[name]
        config = [*fields, "blend=false", f"epochs={times * (arguments.epochs or 2)}", "patience=0", *arguments.config]
        return fitted(name, data, work, config, arguments)

    with ThreadPoolExecutor(arguments.at_once) as pool:
        found = dict(zip(LOSSES, pool.map(fit, LOSSES), strict=True))
    rows = [fit_row(name, said) for name, said in found.items()]
    rows.append(["ideal predictor", "-", "-", "-", f"{ideal['ndcg_at_10']:.4f}", f"{ideal['hit_rate_at_10']:.4f}", "-"])
    return [Table(f"{num_items:,} synthetic items, transformer d64", FIT_HEADER, rows)], {
        "settings": {name: said[-1] for name, said in found.items()},
        "measured": found,
        "ideal": ideal,
    }


FIT_HEADER = ("loss", "epochs", "targets / core-s", "core-s in all", "NDCG@10", "HR@10", "peak memory, MB")


def fit_row(name: str, said: list[Answer]) -> list[str]:
    """The last epoch of a training; the rate is the median over its epochs."""
    epochs = said[1:-1]
    rate = Spread.of(said[-1]["targets"] / epoch["training"]["cpu_s"] for epoch in epochs)
    return [
        name,
        str(len(epochs)),
        rate.text(),
        f"{epochs[-1]['cpu_s']:,.0f}",
        f"{epochs[-1]['val_ndcg_at_10']:.4f}",
        f"{epochs[-1]['val_hit_rate_at_10']:.4f}",
        f"{said[-1]['peak_rss_mb']:,}",
    ]


def million(arguments: argparse.Namespace, work: Path) -> tuple[list[Table], Answer]:
    """The cost of training, evaluation and serving with a million items."""
    num_items = (arguments.items or [1_250_000])[0]
    data, ideal = synthetic_data(arguments, work, num_items, arguments.users or 250_000)

    def fit(name: str) -> list[Answer]:
        config = [*MILLION[name], f"epochs={arguments.epochs or 1}", "patience=0", *arguments.config]
        more = ["--asked", "33"] + (["--rows", str(arguments.rows)] if arguments.rows else [])
        return fitted(name, data, work, config, arguments, more=more)

    with ThreadPoolExecutor(arguments.at_once) as pool:
        found = dict(zip(MILLION, pool.map(fit, MILLION), strict=True))
    rows = [fit_row(name, said) for name, said in found.items()]
    rows.append(["ideal predictor", "-", "-", "-", f"{ideal['ndcg_at_10']:.4f}", f"{ideal['hit_rate_at_10']:.4f}", "-"])
    validated = 32 * arguments.validated
    title = f"{num_items:,} synthetic items, {ideal['items']:,} of them with events; NDCG@10 of {validated:,} users"
    if arguments.rows:
        title += f", after the first {arguments.rows:,} rows of an epoch: speed only"
    served = Table("The same models in use", SERVED_HEADER, [served_row(name, said) for name, said in found.items()])
    return [Table(title, FIT_HEADER, rows), served], {
        "settings": {name: said[-1] for name, said in found.items()},
        "measured": found,
        "ideal": ideal,
    }


SERVED_HEADER = (
    "system",
    "initialise, core-s",
    "validated before training, NDCG@10",
    "request, core-ms",
    "request, wall ms",
    "ranking a user, core-ms",
    "bundle, MB",
    "load, wall s",
)


def served_row(name: str, said: list[Answer]) -> list[str]:
    """The best model of a training run, loaded and queried."""
    last: dict[str, Any] = said[-1]
    return [
        name,
        f"{said[0]['initialise']['cpu_s']:,.0f}",
        f"{said[0]['val_ndcg_at_10']:.4f}",
        *(Spread.of(ms[clock] for ms in last["request_ms"]).text(".1f") for clock in ("cpu_s", "wall_s")),
        f"{1000 * last['evaluated']['cpu_s']:.1f}",
        f"{last['bundle_mb']:,.0f}",
        f"{last['load']['wall_s']:.1f}",
    ]


def fitted(
    name: str, data: Path, work: Path, config: list[str], arguments: argparse.Namespace, more: list[str] | None = None
) -> list[Answer]:
    """All messages of a training run: one for each epoch and one at the end."""
    directory = work / name.replace(" ", "-")
    flags = ["--validated", str(arguments.validated), *(more or [])]
    worker = Worker(
        name, measure.shopkeeper("fit", data, directory, config=config, more=flags), threads=arguments.threads
    )
    said = list(worker.answers())
    worker.close()
    if not said or not said[-1].get("done"):
        raise RuntimeError(f"the training with {name} failed; its messages are above")
    return said


def synthetic_data(arguments: argparse.Namespace, work: Path, num_items: int, num_users: int) -> tuple[Path, Answer]:
    """Prepared data of a synthetic log, and the metrics of the ideal predictor on it."""
    raw = work / f"synthetic-{num_items}.parquet"
    ideal = write_log(raw, num_items=num_items, num_users=num_users, events_per_user=EVENTS_PER_USER)
    data = measure.prepared(str(raw), arguments, work)
    return data, {**ideal, "items": Prepared(data).schema(Schema).num_items}


if __name__ == "__main__":
    main()
