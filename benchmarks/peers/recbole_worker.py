"""RecBole under measurement: its own loaders, training epoch and full-sort evaluation, on the events of an .npz file.

Run in RecBole's environment. Nothing of RecBole is replaced; see recbole.txt for the versions that it needs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import protocol

NAME = "shop"
SEED = 0


class Part:
    """Batches of a loader until the time is up, at least one; counts what was trained on."""

    def __init__(self, loader: Any, seconds: float) -> None:
        self.shuffle = loader.shuffle
        self.targets = 0
        self.steps = 0
        self._loader, self._seconds = loader, seconds

    def __iter__(self) -> Iterator[Any]:
        started = time.monotonic()
        for batch in self._loader:
            yield batch
            # RecBole cuts a user's events into one sample for each prefix, with one target.
            self.targets += len(batch)
            self.steps += 1
            if time.monotonic() - started >= self._seconds:
                return


def main() -> None:
    """Set everything up, make one warm-up step, then measure once for each request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("train", "evaluate"))
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.kit.measure.export wrote")
    parser.add_argument("--work", type=Path, required=True, help="a directory for what RecBole writes")
    parser.add_argument("--model", default="SASRec")
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=2048, help="2048 is RecBole's default")
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line itself
    arguments.work.mkdir(parents=True, exist_ok=True)
    write_atomic_file(arguments.data, arguments.work / NAME)
    os.chdir(arguments.work)  # RecBole writes its logs where it is
    started = protocol.start()
    trainer, train_data, test_data = set_up(arguments)
    if arguments.role == "train":
        trainer._train_epoch(Part(train_data, 0), 0)
    protocol.say({"setup": started.so_far(), "versions": protocol.versions("recbole", "torch", "numpy", "pandas")})
    for _ in protocol.asked():
        started = protocol.start()
        if arguments.role == "train":
            part = Part(train_data, arguments.seconds)
            loss = trainer._train_epoch(part, 0)
            protocol.say({**started.so_far(), "targets": part.targets, "steps": part.steps, "loss": loss / part.steps})
        else:
            found = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
            protocol.say({**started.so_far(), "users": len(test_data.dataset), "metrics": dict(found)})


def set_up(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """RecBole's trainer and its training and test loaders, with its default settings for the model."""
    from recbole.config import Config  # type: ignore[import-not-found]
    from recbole.data import create_dataset, data_preparation  # type: ignore[import-not-found]
    from recbole.utils import get_model, get_trainer, init_seed  # type: ignore[import-not-found]

    settings = {
        "data_path": str(Path.cwd()),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": arguments.length,
        "train_batch_size": arguments.batch_size,
        "train_neg_sample_args": None,  # cross-entropy over all items, which is RecBole's default loss for these models
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "repeatable": True,
        "metrics": ["NDCG", "Hit"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "seed": SEED,
        "state": "ERROR",
        "show_progress": False,
    }
    config = Config(model=arguments.model, dataset=NAME, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), train_data, test_data


def write_atomic_file(events: Path, directory: Path) -> None:
    """The events as RecBole reads them; the time of an event is its place in the user's sequence."""
    directory.mkdir(parents=True, exist_ok=True)
    stored = np.load(events)
    items, offsets = stored["items"], stored["offsets"]
    with (directory / f"{NAME}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            for place, item in enumerate(items[begin:end].tolist()):
                file.write(f"{user}\t{item}\t{place}\n")


if __name__ == "__main__":
    main()
