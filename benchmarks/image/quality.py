"""Quality: accuracy of every label on the test split, over seeds, with the core-seconds of the whole training.

Each network is trained by the project's loop on the training images; its best epoch and temperatures are selected on
validation, and the test split is used once. The baselines are not trained by gradient descent. The core-seconds are all
processor time of the training loop: whitening or fitting, steps, validation and checkpoints, without the preparation of
the data and the evaluation on the test split. Keras trains the small CNN as in its own tutorial: ten epochs with
batches of 32, evaluated on the test split after the last epoch; it has the first label only, and images without it are
left out. The median over seeds, [lowest, highest].
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page


def main() -> None:
    """Train every network with every seed and write the page."""
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=["resnet", "linear", "prior"])
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.seeds, arguments.networks = [0], ["cnn", "linear", "prior"]
        arguments.config = [*arguments.config, "epochs=1"]
    found: dict[str, list[Answer]] = {}
    with measure.workspace(arguments) as work:
        data = measure.prepared(arguments.data, arguments, work, family_name="image")
        for network in arguments.networks:
            seeds = arguments.seeds if network in ("resnet", "cnn") else arguments.seeds[:1]
            found[network] = [trained(network, seed, data, work, arguments) for seed in seeds]
        if arguments.peers:
            found["Keras, cnn"] = of_keras(data, work, arguments)
    write_page("image-quality", __doc__, arguments, [tabulate(found, arguments)], {"measured": found})


def trained(network: str, seed: int, data: Path, work: Path, arguments: argparse.Namespace) -> Answer:
    """The metrics of a network with one seed."""
    config = [*arguments.config, f"network={network}", f"seed={seed}"]
    command = measure.shopkeeper("fit", data, work / f"{network}-{seed}", config=config, family_name="image")
    worker = Worker(network, command, threads=arguments.threads)
    answered = list(worker.answers())
    worker.close()
    if not answered or not answered[-1].get("done"):
        raise RuntimeError(f"the training of {network} failed; its messages are above")
    return answered[-1]


def of_keras(data: Path, work: Path, arguments: argparse.Namespace) -> list[Answer]:
    """The metrics of Keras with each seed."""
    images = measure.export_pictures(data, work / "pictures.npz", dict.fromkeys(("train", "val", "test")))
    command = measure.peer("keras", arguments.peers, "quality", images, ["--epochs", "1"] if arguments.quick else [])
    worker = Worker("Keras, cnn", command, threads=arguments.threads)
    versions = worker.answer()
    found = [{**versions, **worker.ask({"seed": seed})} for seed in arguments.seeds]
    worker.close()
    return found


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each network, a column for each accuracy."""
    first = next(iter(found.values()))[0]
    scores = [name for name in first if name.startswith("test_accuracy")] + ["test_log_loss"]
    rows = []
    for network, answers in found.items():
        cells = [
            Spread.of(answer[score] for answer in answers).text(".4f") if score in answers[0] else ""
            for score in scores
        ]
        cells += [Spread.of(answer["best_val"] for answer in answers).text(".4f")]
        cells += [Spread.of(answer["cpu_s"] for answer in answers).text(",.0f")]
        rows.append([network, *cells, str(len(answers))])
    header = [score.removeprefix("test_").replace("_", " ") for score in scores]
    return Table(measure.label(arguments.data), ["network", *header, "val accuracy", "core-s", "n"], rows)


if __name__ == "__main__":
    main()
