"""Made pictures of rare classes: does a recogniser get better when it also learns from what a gan made?

Of three classes almost all training pictures are taken away; the test split stays whole. The gan is trained on what is
left, and a tutorial network in three ways: on every picture as often (plain), on every class as often (balanced), and
balanced with half of the rare classes' pictures made by the gan. All have the same augmentation (mirrored, moved by up
to two pixels), network and number of epochs. Tail F1 is the mean F1 over the rare classes. Nothing is chosen on any
split: every network is taken after its last epoch. The rare classes were fixed before the first run; each seed draws
other pictures to keep, other starting weights and other made pictures.

FID and copies are in features of a classifier that the gan brings, trained on the same pictures, see
models/image/report/generated.py; they compare with the values of real pictures beside them, not with those of papers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.bundle import config_from_dict
from models.image import FAMILY
from models.image.data import collate, dataset
from models.image.networks.gan import Gan
from models.image.report.generated import made_classes
from models.image.schema import Schema
from models.prepared import Prepared

GAN = ("network=gan", "epochs=3", "batch_size=64")
RECOGNISER = ("network=cnn", "epochs=4")
WAYS = {"plain": 0.0, "balanced": 1.0, "balanced, with made pictures": 1.0}
BLOCK = 500


def main() -> None:
    """Train everything with every seed and write the page."""
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rare", type=int, nargs="+", default=[0, 4, 7], help="places of the classes to make rare")
    parser.add_argument("--kept", type=int, default=60, help="training pictures kept of each rare class")
    parser.add_argument("--made", type=int, default=600, help="pictures made of each rare class")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.seeds, arguments.config = arguments.seeds[:1], [*arguments.config, "epochs=1"]
    torch.set_num_threads(arguments.threads)
    found: list[Answer] = []
    with measure.workspace(arguments) as work:
        data = Prepared(measure.prepared(arguments.data, arguments, work, family_name="image"))
        for seed in arguments.seeds:
            found.append(measured(data, work / f"seed-{seed}", seed, arguments))
            print(found[-1], file=sys.stderr)
    write_page("image-gan", __doc__, arguments, tabulate(found, arguments), {"measured": found})


def measured(data: Prepared, work: Path, seed: int, arguments: argparse.Namespace) -> Answer:
    """What the gan's pictures are like with one seed, and what each way of training reaches."""
    few = write_few(data, data.schema(Schema), work / "few", seed, arguments)
    gan, cpu_s = trained(few, [*GAN, *arguments.config, f"seed={seed}"])
    own = few.schema(Schema)
    rare = {next(iter(own.heads.values()))[place] for place in arguments.rare}
    with torch.inference_mode():
        classes = made_classes(gan, few, "test", schema=own, seed=1000 * seed)
    numbers = {
        "FID": "distance",
        "FID of real ones": "distance_real",
        "recognised": "recognised",
        "recognised of real ones": "recognised_real",
        "copies": "copied",
    }
    pictures = {
        kind: {
            title: float(np.mean([getattr(one, name) for one in classes if (one.name in rare) == (kind == "rare")]))
            for title, name in numbers.items()
        }
        for kind in ("rare", "frequent")
    }
    added = write_made(few, own, gan, work / "made", seed, arguments)
    ways = {}
    for way, balance in WAYS.items():
        directory = added if "made" in way else few
        network, seconds = trained(directory, [*RECOGNISER, *arguments.config, f"seed={seed}", f"balance={balance}"])
        ways[way] = {**tested(network, data, own, arguments), "cpu_s": seconds}
    ways["the gan's pupil, made pictures alone"] = {**tested(gan, data, own, arguments), "cpu_s": cpu_s}
    return {"seed": seed, "pictures": pictures, "ways": ways}


def write_few(data: Prepared, schema: Schema, out: Path, seed: int, arguments: argparse.Namespace) -> Prepared:
    """Prepared data with few training pictures of the rare classes; the other splits stay whole."""
    rows, labels = _training(data)
    draw = np.random.default_rng(seed)
    kept = np.ones(len(labels), bool)
    for place in arguments.rare:
        of_class = np.flatnonzero(labels == place)
        kept[draw.permutation(of_class)[arguments.kept :]] = False
    for shard in data.shards():
        own = rows[:, 0] == int(shard.name)
        _write_shard(out, shard, {"train": rows[own & kept, 1]})
    return _write_schema(out, schema, labels[kept], f"f{seed}")


def write_made(
    few: Prepared, schema: Schema, gan: Gan, out: Path, seed: int, arguments: argparse.Namespace
) -> Prepared:
    """The same with made pictures of the rare classes, whose real ones are repeated until they are as many."""
    repeats = arguments.made // arguments.kept
    rows, labels = _training(few)
    rows = rows.repeat(np.where(np.isin(labels, arguments.rare), repeats, 1), 0)
    made_labels = np.repeat(arguments.rare, arguments.made)
    pixels = gan.make(torch.from_numpy(made_labels), seed=1000 * seed + 999).numpy()
    for shard in few.shards():
        arrays = {"train": rows[rows[:, 0] == int(shard.name), 1]}
        if int(shard.name) == 0:
            real, known = np.load(shard / "pictures.npy"), np.load(shard / "labels.npy")
            added = np.full((len(made_labels), known.shape[1]), -1, known.dtype)
            added[:, 0] = made_labels
            arrays["train"] = np.concatenate([arrays["train"], len(real) + np.arange(len(pixels))])
            arrays |= {"pictures": np.concatenate([real, pixels]), "labels": np.concatenate([known, added])}
        _write_shard(out, shard, arrays)
    return _write_schema(out, schema, _training(Prepared(out))[1], f"m{seed}")


def trained(data: Prepared, settings: Sequence[str]) -> tuple[Any, float]:
    """The network after the last epoch, and the core-seconds of its training."""
    config = config_from_dict(FAMILY.Config, measure.overrides(settings))
    started, directory = time.process_time(), data.path / f"run-{len(list(data.path.glob('run-*')))}"
    result = run_training(
        FAMILY, config=config, data=data, directory=directory, worker=WorkerContext(), report=lambda _: None
    )
    seconds = time.process_time() - started
    return bundle.load(checkpoints.path_of(directory, result.epochs), FAMILY).network, seconds


def tested(network: Any, data: Prepared, schema: Schema, arguments: argparse.Namespace) -> Answer:
    """Mean F1 over the rare classes and over the others, and accuracy, on the test split."""
    examples = dataset(data, "test", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    head = next(iter(schema.heads))
    counts = torch.zeros(len(schema.heads[head]), len(schema.heads[head]), dtype=torch.float64)
    with torch.inference_mode():
        for start in range(0, len(examples), BLOCK):
            batch = collate([examples[row] for row in range(start, min(start + BLOCK, len(examples)))])
            counts += FAMILY.evaluate(network, batch).accumulators[f"confusion/{head}"]
    scores = 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp_min(1)
    others = [place for place in range(len(scores)) if place not in arguments.rare]
    return {
        "tail F1": float(scores[arguments.rare].mean()),
        "F1 of the others": float(scores[others].mean()),
        "macro F1": float(scores.mean()),
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
    }


def tabulate(found: list[Answer], arguments: argparse.Namespace) -> list[Table]:
    """What each way reaches, and what the made pictures are like."""
    scores = ["tail F1", "F1 of the others", "macro F1", "accuracy"]
    rows = []
    for way in found[0]["ways"]:
        answers = [one["ways"][way] for one in found]
        gains = [one["ways"][way]["tail F1"] - one["ways"]["balanced"]["tail F1"] for one in found]
        cells = [Spread.of(answer[score] for answer in answers).text(".4f") for score in scores]
        seconds = Spread.of(answer["cpu_s"] for answer in answers).text(",.0f")
        rows.append([way, *cells, Spread.of(gains).text("+.4f"), seconds, str(len(found))])
    title = f"{measure.label(arguments.data)}, {arguments.kept} pictures of each of {len(arguments.rare)} rare classes"
    quality = [
        [kind, *(Spread.of(one["pictures"][kind][key] for one in found).text(".3f") for key in numbers)]
        for kind, numbers in found[0]["pictures"].items()
    ]
    return [
        Table(title, ["trained", *scores, "tail F1 against balanced, same seed", "core-s", "n"], rows),
        Table("Made pictures", ["classes", *found[0]["pictures"]["rare"]], quality),
    ]


def _training(data: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(shard, row) of each training picture [N, 2] and its class [N]."""
    rows, labels = [], []
    for shard in data.shards():
        own = np.load(shard / "train.npy")
        rows.append(np.stack([np.full(len(own), int(shard.name)), own], 1))
        labels.append(np.load(shard / "labels.npy")[own, 0])
    return np.concatenate(rows), np.concatenate(labels)


def _write_shard(out: Path, source: Path, arrays: dict[str, np.ndarray]) -> None:
    """A shard with some arrays of its own and links to the others."""
    target = out / "shards" / source.name
    target.mkdir(parents=True)
    for name in ("pictures", "labels", "train", "val", "test"):
        if name in arrays:
            np.save(target / f"{name}.npy", arrays[name])
        else:
            (target / f"{name}.npy").symlink_to((source / f"{name}.npy").resolve())


def _write_schema(out: Path, schema: Schema, labels: np.ndarray, tag: str) -> Prepared:
    head, names = next(iter(schema.heads.items()))
    counts = np.bincount(labels, minlength=len(names)).tolist()
    own = schema.model_copy(
        update={
            "fingerprint": f"{schema.fingerprint[:56]}{tag:0>8}",
            "num_examples": {**schema.num_examples, "train": len(labels)},
            "label_counts": {**schema.label_counts, head: counts},
        }
    )
    (out / "schema.json").write_text(own.model_dump_json(), encoding="utf-8")
    return Prepared(out)


if __name__ == "__main__":
    main()
