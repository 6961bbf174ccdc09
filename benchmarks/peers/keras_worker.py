"""The tutorial network in Keras under measurement, as its tutorial has it, on the pictures of an .npz file.

Run in Keras's environment, where TensorFlow is the backend. `fit` on arrays scaled to 0 .. 1, Adam, fp32.
After https://www.tensorflow.org/tutorials/images/cnn, whose network it is, for pictures of any size and colour.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import protocol

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
import keras  # type: ignore[import-not-found]


def main() -> None:
    """Train an epoch for each request, after one to warm up, or train to the end with each request's seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("train", "quality"))
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.kit.measure.export_pictures wrote")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10, help="quality: as many as the tutorial has")
    arguments = parser.parse_args()
    with np.load(arguments.data) as stored:
        data = dict(stored)
    (measure_rate if arguments.role == "train" else measure_quality)(data, arguments)


def measure_rate(data: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Time an epoch of `fit` for each request."""
    pictures, labels = split(data, "train")
    network = tutorial_network(pictures.shape[1:], num_classes=int(labels.max()) + 1)
    train(network, pictures, labels, arguments.batch_size)
    protocol.say({"versions": versions()})
    for _ in protocol.asked():
        started = protocol.start()
        loss = train(network, pictures, labels, arguments.batch_size)
        steps = -(-len(labels) // arguments.batch_size)
        protocol.say({**started.so_far(), "targets": len(labels), "steps": steps, "loss": loss})


def measure_quality(data: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Train as long as the tutorial does and evaluate the last epoch, with the validation it asks for after each."""
    protocol.say({"versions": versions()})
    for request in protocol.asked():
        keras.utils.set_random_seed(request["seed"])
        started = protocol.start()
        pictures, labels = split(data, "train")
        network = tutorial_network(pictures.shape[1:], num_classes=int(labels.max()) + 1)
        settings = {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "verbose": 0}
        history = network.fit(pictures, labels, validation_data=split(data, "val"), **settings)
        fitted = started.so_far()
        loss, accuracy = network.evaluate(*split(data, "test"), verbose=0)
        val = history.history["val_accuracy"][-1]
        protocol.say({**fitted, "best_val": val, "test_accuracy": accuracy, "test_log_loss": loss})


def split(data: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Pictures [N, S, S, C] of 0 .. 1 and their labels [N]."""
    return data[f"{name}_pixels"].transpose(0, 2, 3, 1).astype(np.float32) / 255, data[f"{name}_labels"]


def tutorial_network(shape: tuple[int, ...], *, num_classes: int) -> Any:
    """Conv32, pool, Conv64, pool, Conv64, Dense64, scores."""
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input(shape),
            *(layers.Conv2D(32, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2))),
            *(layers.Conv2D(64, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2))),
            *(layers.Conv2D(64, (3, 3), activation="relu"), layers.Flatten()),
            *(layers.Dense(64, activation="relu"), layers.Dense(num_classes)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return network


def train(network: Any, pictures: Any, labels: Any, batch_size: int) -> float:
    """One epoch; its mean loss."""
    return float(network.fit(pictures, labels, epochs=1, batch_size=batch_size, verbose=0).history["loss"][-1])


def versions() -> dict[str, str]:
    """Of what is measured."""
    return protocol.versions("keras", "tensorflow-cpu", "numpy")


if __name__ == "__main__":
    main()
