"""The predictions of a classifier for a split, as the report's sections share them; not used for the metrics.

Shapes: N images, H heads, K classes of a head, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.arrays import load_array
from models.image.codec import Pixels
from models.image.data import Batch, Pictures, collate, dataset, titles
from models.image.networks.classifier import Classifier
from models.image.prepare.layouts import IMAGE_SUFFIXES
from models.image.schema import Schema
from models.prepared import Prepared
from models.sampling import evenly

MAX_IMAGES = 10_000
"""A larger split is sampled at regular intervals."""
BLOCK = 250


@dataclass(frozen=True)
class Misclassification:
    """An image whose predicted class is not its label."""

    index: int
    """Index among the predictions."""
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class SplitPredictions:
    """N images of a split with their predictions."""

    schema: Schema
    images: Pictures
    rows: list[int]
    """[N] indices into `images`."""
    names: list[str]
    """[N] product id, file name, or start of the image id."""
    titles: list[str | None]
    """[N] titles of the shop."""
    labels: Tensor
    """[N, H], negative without a known label."""
    probabilities: dict[str, Tensor]
    """Head -> [N, K], calibrated."""
    embeddings: Tensor
    """[N, D]."""
    temperatures: dict[str, float]
    """Head -> temperature of its logits."""

    @property
    def heads(self) -> list[str]:
        """The heads with at least one known label."""
        return [head for head in self.schema.heads if len(self.known(head))]

    def pixels(self, index: int) -> Pixels:
        """The pixels [C, S, S] of an image, as the network receives them."""
        return self.images[self.rows[index]].pixels

    def batch(self, indices: list[int]) -> Batch:
        """Some of the images as a batch."""
        return collate([self.images[self.rows[index]] for index in indices])

    def labels_of(self, head: str) -> Tensor:
        """Labels [N] of a head, negative without a known label."""
        return self.labels[:, list(self.schema.heads).index(head)]

    def known(self, head: str) -> Tensor:
        """Indices of the images with a known label of a head."""
        return (self.labels_of(head) >= 0).nonzero().squeeze(1)

    def uncalibrated(self, head: str) -> Tensor:
        """Probabilities [N, K] without temperature scaling."""
        return (self.probabilities[head].log() * self.temperatures[head]).softmax(1)

    def misclassified(self, head: str) -> list[Misclassification]:
        """The incorrect predictions of a head, most confident first."""
        labels, (confidence, predicted) = self.labels_of(head), self.probabilities[head].max(1)
        wrong = ((labels >= 0) & (labels != predicted)).nonzero().squeeze(1)
        order = wrong[confidence[wrong].argsort(descending=True, stable=True)].tolist()
        return [
            Misclassification(index, int(labels[index]), int(predicted[index]), float(confidence[index]))
            for index in order
        ]


def predict_split(network: Classifier, data: Prepared, split: str, *, schema: Schema) -> SplitPredictions:
    """Predict the images of a split, sampled at regular intervals if there are more than MAX_IMAGES."""
    images = dataset(data, split, range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    rows = evenly(range(len(images)), MAX_IMAGES)
    predicted: list[dict[str, list[float]]] = []
    embeddings: list[list[float]] = []
    labels = []
    with torch.inference_mode():
        for start in range(0, len(rows), BLOCK):
            batch = collate([images[row] for row in rows[start : start + BLOCK]])
            labels.append(batch.labels)
            for prediction in network.predict(batch):
                predicted.append(prediction.probabilities)
                embeddings.append(prediction.embedding)
    names, shops = _names(data, split, schema.num_shards), titles(data, split)
    return SplitPredictions(
        schema=schema,
        images=images,
        rows=rows,
        names=[names[row] for row in rows],
        titles=[shops[row] for row in rows],
        labels=torch.cat(labels),
        probabilities={head: torch.tensor([each[head] for each in predicted]) for head in schema.heads},
        embeddings=torch.tensor(embeddings),
        temperatures=dict(zip(schema.heads, network.temperatures.tolist(), strict=True)),
    )


def words(head: str) -> str:
    """The name of a head for display."""
    return head.replace("_", " ")


def _names(data: Prepared, split: str, num_shards: int) -> list[str]:
    """For each image of a split, in the order of the dataset, the shortest name that identifies it."""
    predictions = []
    for shard in range(num_shards):
        directory = data.shard(shard)
        rows = pq.read_table(directory / "ids.parquet", columns=["picture_id", "item_id", "source"])
        for row in rows.take(load_array(directory / f"{split}.npy")).to_pylist():
            file = PurePosixPath(row["source"])
            own_file = file.name if file.suffix.lower() in IMAGE_SUFFIXES else f"image {row['picture_id'][:8]}"
            predictions.append(own_file if row["item_id"] is None else str(row["item_id"]))
    return predictions
