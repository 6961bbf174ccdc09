"""What a network answers to the pictures of a split, kept to look at; not how it is judged.

Shapes: N pictures, H heads, K classes of a head, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.image.codec import Pixels
from models.image.data import Batch, Pictures, collate, dataset, titles
from models.image.networks.classifier import Recogniser
from models.image.prepare.layouts import PICTURES
from models.image.schema import Schema
from models.prepared import Prepared
from models.sampling import evenly

MAX_PICTURES = 10_000
"""Of a larger split every n-th picture is looked at."""
BLOCK = 250


@dataclass(frozen=True)
class Mistake:
    """A picture whose most likely class is not its label."""

    place: int
    """Among the pictures of the answers."""
    label: int
    said: int
    confidence: float


@dataclass(frozen=True)
class Answers:
    """N pictures of a split and what was said of them."""

    schema: Schema
    pictures: Pictures
    rows: list[int]
    """[N] places in `pictures`."""
    names: list[str]
    """[N] product, file or beginning of the picture id: how to find a picture again."""
    titles: list[str | None]
    """[N] what the shop calls them."""
    labels: Tensor
    """[N, H], below 0 where there is none that is known."""
    probabilities: dict[str, Tensor]
    """Head -> [N, K], calibrated."""
    embeddings: Tensor
    """[N, D]."""
    temperatures: dict[str, float]
    """Head -> what its class scores were divided by."""

    @property
    def heads(self) -> list[str]:
        """Those that some picture has a known label of; the first one is what sweeps and promotion follow."""
        return [head for head in self.schema.heads if len(self.known(head))]

    def pixels(self, place: int) -> Pixels:
        """Of one picture [C, S, S], as the network gets it."""
        return self.pictures[self.rows[place]].pixels

    def batch(self, places: list[int]) -> Batch:
        """Some of the pictures with their labels."""
        return collate([self.pictures[self.rows[place]] for place in places])

    def labels_of(self, head: str) -> Tensor:
        """[N], below 0 where there is none that is known."""
        return self.labels[:, list(self.schema.heads).index(head)]

    def known(self, head: str) -> Tensor:
        """Places of the pictures with a label of a head."""
        return (self.labels_of(head) >= 0).nonzero().squeeze(1)

    def uncalibrated(self, head: str) -> Tensor:
        """[N, K]: probabilities as they would be without the temperature."""
        return (self.probabilities[head].log() * self.temperatures[head]).softmax(1)

    def mistakes(self, head: str) -> list[Mistake]:
        """The most confident one first."""
        labels, (confidence, said) = self.labels_of(head), self.probabilities[head].max(1)
        wrong = ((labels >= 0) & (labels != said)).nonzero().squeeze(1)
        order = wrong[confidence[wrong].argsort(descending=True, stable=True)].tolist()
        return [Mistake(place, int(labels[place]), int(said[place]), float(confidence[place])) for place in order]


def answers(network: Recogniser, data: Prepared, split: str, *, schema: Schema) -> Answers:
    """Ask a network about the pictures of a split, evenly chosen where there are more than MAX_PICTURES."""
    pictures = dataset(data, split, range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    rows = evenly(range(len(pictures)), MAX_PICTURES)
    said: list[dict[str, list[float]]] = []
    embeddings: list[list[float]] = []
    labels = []
    with torch.inference_mode():
        for start in range(0, len(rows), BLOCK):
            batch = collate([pictures[row] for row in rows[start : start + BLOCK]])
            labels.append(batch.labels)
            for recognition in network.predict(batch):
                said.append(recognition.probabilities)
                embeddings.append(recognition.embedding)
    names, shops = _names(data, split, schema.num_shards), titles(data, split)
    return Answers(
        schema=schema,
        pictures=pictures,
        rows=rows,
        names=[names[row] for row in rows],
        titles=[shops[row] for row in rows],
        labels=torch.cat(labels),
        probabilities={head: torch.tensor([each[head] for each in said]) for head in schema.heads},
        embeddings=torch.tensor(embeddings),
        temperatures=dict(zip(schema.heads, network.temperatures.tolist(), strict=True)),
    )


def words(head: str) -> str:
    """A head's name for people."""
    return head.replace("_", " ")


def _names(data: Prepared, split: str, num_shards: int) -> list[str]:
    """For each picture of a split, in the order of the dataset, the shortest name that leads back to it."""
    found = []
    for shard in range(num_shards):
        directory = data.shard(shard)
        rows = pq.read_table(directory / "ids.parquet", columns=["picture_id", "item_id", "source"])
        for row in rows.take(np.load(directory / f"{split}.npy")).to_pylist():
            file = PurePosixPath(row["source"])
            own_file = file.name if file.suffix.lower() in PICTURES else f"picture {row['picture_id'][:8]}"
            found.append(own_file if row["item_id"] is None else str(row["item_id"]))
    return found
