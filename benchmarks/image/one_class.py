"""One-class anomaly detection: the AUROC of the autoencoder, trained on one class, for images of all other classes.

For each class the network is trained by the project's loop on the training images of that class only, and every image
of the test split gets the anomaly score of the recognise endpoint. The AUROC is the probability that a test image of
another class has a higher score than one of this class; the result is the mean over the classes. The baseline is the
reconstruction error of PCA with 32 components, fitted to the same images. The parts of our score are listed, too;
"outline" is a fixed edge histogram that does not depend on the network. Within a run nothing is selected, neither the
epoch (the last one) nor a threshold, and all scales come from training images. But the parts and the settings were
chosen on the same test split, as were the 32 components, so that both results are slightly optimistic.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

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
from models.image.schema import Schema
from models.prepared import Prepared

SETTINGS = ("network=autoencoder", "epochs=5", "batch_size=125", "learning_rate=0.003")
SPLITS = ("train", "val")
BLOCK = 500
SCORES = {
    "score": "ours",
    "reconstruction": "reconstruction alone",
    "latent": "latent alone",
    "outline": "outline alone",
    "pca": "PCA",
}


def main() -> None:
    """Train on every class with every seed and write the page."""
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--classes", nargs="+", help="names of the classes; all of the first label by default")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.seeds, arguments.config = [0], [*arguments.config, "epochs=1"]
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[Answer]] = {}
    with measure.workspace(arguments) as work:
        data = Prepared(measure.prepared(arguments.data, arguments, work, family_name="image"))
        schema = data.schema(Schema)
        for index, name in enumerate(next(iter(schema.heads.values()))):
            if arguments.classes and name not in arguments.classes:
                continue
            of_class = write_class(data, schema, index, work / f"class-{index}")
            found[name] = [scored(of_class, index, seed, arguments) for seed in arguments.seeds]
            print(f"{name}: {found[name]}", file=sys.stderr)
    tables = [tabulate(found, arguments)]
    write_page("image-one-class", __doc__, arguments, tables, {"measured": found})


def write_class(data: Prepared, schema: Schema, index: int, out: Path) -> Prepared:
    """Prepared data with training and validation images of one class only, and the full test split."""
    counts, images = dict.fromkeys(SPLITS, 0), []
    for shard in data.shards():
        target = out / "shards" / shard.name
        target.mkdir(parents=True)
        for name in ("pictures", "labels", "test"):
            (target / f"{name}.npy").symlink_to((shard / f"{name}.npy").absolute())
        is_selected = np.load(shard / "labels.npy")[:, 0] == index
        for split in SPLITS:
            rows = np.load(shard / f"{split}.npy")
            rows = rows[is_selected[rows]]
            np.save(target / f"{split}.npy", rows)
            counts[split] += len(rows)
            if split == "train":
                images.append(np.load(shard / "pictures.npy", mmap_mode="r")[rows] / 255.0)
    trained = np.concatenate(images)
    own = schema.model_copy(
        update={
            "fingerprint": f"{schema.fingerprint[:56]}{index:08d}",
            "num_examples": {**schema.num_examples, **counts},
            "mean": trained.mean((0, 2, 3)).tolist(),
            "std": trained.std((0, 2, 3)).tolist(),
        }
    )
    (out / "schema.json").write_text(own.model_dump_json(), encoding="utf-8")
    return Prepared(out)


def scored(data: Prepared, index: int, seed: int, arguments: argparse.Namespace) -> Answer:
    """The AUROC of every score after training on one class, and the core-seconds."""
    config = config_from_dict(FAMILY.Config, measure.overrides([*SETTINGS, *arguments.config, f"seed={seed}"]))
    started, directory = time.process_time(), data.path / f"run-{seed}"
    result = run_training(
        FAMILY, config=config, data=data, directory=directory, worker=WorkerContext(), report=lambda _: None
    )
    cpu_s = time.process_time() - started
    loaded = bundle.load(checkpoints.path_of(directory, result.epochs), FAMILY)
    schema = loaded.schema
    examples = dataset(data, "test", range(schema.num_shards), schema=schema, config=config, epoch=0)
    parts, labels = [], []
    with torch.inference_mode():
        for start in range(0, len(examples), BLOCK):
            batch = collate([examples[row] for row in range(start, min(start + BLOCK, len(examples)))])
            anomaly_scores = loaded.network.anomaly_scores(batch)
            parts.append(torch.stack([getattr(anomaly_scores, key) for key in SCORES]))
            labels.append(batch.labels[:, 0])
    is_other = (torch.cat(labels) != index).numpy()
    aurocs = [auroc(scores, is_other) for scores in torch.cat(parts, 1).double().numpy()]
    return {**dict(zip(SCORES, aurocs, strict=True)), "cpu_s": cpu_s}


def auroc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Probability that a positive has a higher score than a negative; ties count half."""
    num_positive = int(is_positive.sum())
    num_negative = len(scores) - num_positive
    above = rankdata(scores)[is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each class and one for their mean."""
    rows = [_row(name, answers) for name, answers in found.items()]
    by_seed = [list(answers) for answers in zip(*found.values(), strict=True)]
    means = [{key: sum(one[key] for one in answers) / len(answers) for key in answers[0]} for answers in by_seed]
    rows.append(_row("mean of the classes", means))
    header = ["trained on", *SCORES.values(), "core-s", "n"]
    return Table(f"{measure.label(arguments.data)}, AUROC", header, rows)


def _row(name: str, answers: list[Answer]) -> list[str]:
    cells = [Spread.of(one[key] for one in answers).text(".4f") for key in SCORES]
    return [name, *cells, Spread.of(one["cpu_s"] for one in answers).text(",.0f"), str(len(answers))]


if __name__ == "__main__":
    main()
