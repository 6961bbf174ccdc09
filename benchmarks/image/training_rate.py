"""Training rate: images per core-second of the small CNN, in our training loop and as in common tutorials.

The tutorials use plain torch: fp32, the default memory format, a DataLoader of single images in the same process, Adam.
Ours is `jobs.training.loop` on prepared images: bf16 and channels last on processors with bf16 instructions, whole
batches. Keras (3, on TensorFlow) trains as in its own tutorial: fp32, `fit` on arrays, compiled. Network and batch size
are the same. "augmented" adds flips and shifts, which the plain loop does not have. Loading is included in the time,
validation is not. Core-seconds are the processor time of the process.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page

OURS = {
    "ours": ["flip=false", "shift=0"],
    "ours, fp32": ["flip=false", "shift=0", "precision=fp32"],
    "ours, augmented": [],
}
QUICK_IMAGES = 2000


def main() -> None:
    """Measure and write the page."""
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=20_000, help="of an epoch")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats, arguments.pictures = 2, QUICK_IMAGES
    with measure.workspace(arguments) as work:
        workers = start(arguments, work)
        settings = {worker.name: worker.answer() for worker in workers}
        found = measure.alternate(workers, arguments.repeats)
        for worker in workers:
            worker.close()
    write_page(
        "image-training-rate",
        __doc__,
        arguments,
        [tabulate(found, arguments)],
        {"settings": settings, "measured": found},
    )


def start(arguments: argparse.Namespace, work: Path) -> list[Worker]:
    """All systems, each with its data loaded once it answers."""
    data = measure.prepared(arguments.data, arguments, work, family_name="image")
    workers = []
    for name, settings in OURS.items():
        config = [
            "network=cnn",
            "label_smoothing=0",
            f"batch_size={arguments.batch_size}",
            *settings,
            *arguments.config,
        ]
        command = measure.shopkeeper(
            "train",
            data,
            work / name.replace(" ", "-"),
            config=config,
            more=["--rows", str(arguments.pictures)],
            family_name="image",
        )
        workers.append(Worker(name, command, threads=arguments.threads))
    images = measure.export_pictures(data, work / "pictures.npz", {"train": arguments.pictures})
    batches = ["--batch-size", str(arguments.batch_size)]
    command = [sys.executable, "-m", "benchmarks.peers.plain_torch_worker", "--data", str(images), *batches]
    workers.append(Worker("plain torch", command, threads=arguments.threads))
    if arguments.peers:
        command = measure.peer("keras", arguments.peers, "train", images, batches)
        workers.append(Worker("Keras", command, threads=arguments.threads))
    return workers


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each system; ratios are against plain torch, round by round."""
    rows = []
    for name, answers in found.items():
        ratios = [rate(ours) / rate(plain) for ours, plain in zip(answers, found["plain torch"], strict=True)]
        rows.append(
            [
                name,
                Spread.of(rate(answer) for answer in answers).text(),
                Spread.of(answer["targets"] / answer["wall_s"] for answer in answers).text(),
                Spread.of(ratios).text(",.2f"),
                str(len(answers)),
                f"{max(answer['peak_rss_mb'] for answer in answers):,}",
            ]
        )
    header = ["system", "images / core-s", "images / s of wall time", "x times plain torch", "n", "peak memory, MB"]
    return Table(f"{measure.label(arguments.data)}, batches of {arguments.batch_size}", header, rows)


def rate(answer: dict[str, Any]) -> float:
    """Images per core-second."""
    return float(answer["targets"] / answer["cpu_s"])


if __name__ == "__main__":
    main()
