"""A recogniser: one trunk that makes features of a picture, and a head of class scores for each kind of label.

Shapes: B pictures, C channels, S side, D features, H heads, K classes of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks import augment
from models.image.networks.anomaly import Strangeness
from models.image.networks.backbone import MEAN, STD, Backbone
from models.image.networks.baselines import Constant, Projection, fit_logistic
from models.image.networks.cnn import Cnn
from models.image.networks.encoder import Frozen
from models.image.networks.resnet import SCALE_OUT, ResNet
from models.image.schema import MISSING, UNKNOWN, Schema
from models.image.similarity_index import Catalogue
from models.image.text.describe import Phrase
from models.image.text.writer import Writer
from models.metrics import BatchMetrics, Ratio, accuracy, confusion, reliability
from models.nn.muon import Muon
from models.nn.precision import autocast_dtype
from models.plugins import network_of, require
from models.prepared import Prepared
from models.sampling import evenly

FILTER_RATE_SCALE = 50 / 3
"""A step of Muon is relative to a filter's norm: 0.1 where Adam's rate for other networks is 0.006."""
SMALL_SIDE = 0.75
TEMPERATURES = tuple(0.25 * 1.09**step for step in range(33))
"""Divisors of the class scores that are tried on validation, 0.25 .. 3.9."""
CALIBRATION_EXAMPLES = 128
"""Pictures of each validation batch, the first ones, on which they are tried."""
STATISTICS_PICTURES = 2000
"""Training pictures, evenly chosen, that a resnet's whitening and its norms' statistics are taken from."""
BLOCK_SIZE = 500
COUNTED = Projection | Constant | Frozen
"""Trunks whose heads are not trained by the loop."""
LINEAR_PICTURES = 20_000
"""Training pictures, evenly chosen, that the linear baseline is fitted on."""


@dataclass(frozen=True)
class Recognition:
    """The answer to one picture."""

    probabilities: dict[str, list[float]]
    """Head -> probability of each class, calibrated."""
    embedding: list[float]
    title: tuple[Phrase, ...] | None = None
    """What the learnt writer says of what is likely enough; None where it was not asked, or there is none."""
    strangeness: Strangeness | None = None
    """How unlike the training pictures it is; None where the network does not say."""


class Trunk(Protocol):
    """What makes features of a picture, a torch module: one of ours, or a network of another package."""

    dim: int

    def __call__(self, pictures: Tensor, /) -> Tensor:
        """Features [B, dim] of normalised pictures [B, C, S, S]."""
        ...


class Recogniser(nn.Module):
    """Satisfies models.family.Network; built by `build`."""

    mean: Tensor
    std: Tensor
    temperatures: Tensor
    steps: Tensor
    catalogue: Catalogue | None = None
    """Products to compare pictures with, where it is served with an index."""

    def __init__(self, config: Config, schema: Schema, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        self.head_sizes = {head: len(classes) for head, classes in schema.heads.items()}
        self.trunk = trunk
        self.classifier = nn.Linear(trunk.dim, sum(self.head_sizes.values()))
        self.score_scale = SCALE_OUT if isinstance(trunk, ResNet) else 1.0
        if isinstance(trunk, ResNet):
            # Scores start near zero: large random ones took three points from the first epochs on CIFAR-10.
            nn.init.normal_(self.classifier.weight, std=1 / (SCALE_OUT * trunk.dim))
            nn.init.zeros_(self.classifier.bias)
        self.steps_per_epoch = max(1, math.ceil(schema.num_examples["train"] / config.batch_size))
        mean, std = (MEAN, STD) if isinstance(trunk, Backbone) else (schema.mean, schema.std)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.register_buffer("temperatures", torch.ones(len(self.head_sizes)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.writer = Writer(trunk.dim, schema) if schema.forms and not isinstance(trunk, COUNTED) else None

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy of augmented pictures: a mean over the labels of each head, then over heads with labels.

        The writer's is added where there are titles; the trunk does not learn from it.
        """
        pictures, others, share = self._augmented(batch.pixels), None, 1.0
        if self.training and self.config.mixup:
            pictures, others, share = augment.mix(pictures, self.config.mixup)
        features = self.trunk(channels_last(pictures))
        scores = self.scores_of(features)
        loss = self._cross_entropy(scores, batch.labels)
        if others is not None:
            loss = torch.lerp(self._cross_entropy(scores, batch.labels[others]), loss, share)
        if self.writer is None or batch.titles is None:
            return loss
        return loss + self.writer.loss(self._embeddings(features[:, :, None]), batch.titles)

    def optimizer(self) -> Optimizer | None:
        """Muon for the filters of a resnet; None leaves the choice to the training loop."""
        if not isinstance(self.trunk, ResNet):
            return None
        filters = self.trunk.filters()
        chosen = {id(parameter) for parameter in filters}
        others = [each for each in self.parameters() if each.requires_grad and id(each) not in chosen]
        return Muon(filters, others, lr=self.config.learning_rate, filter_rate_scale=FILTER_RATE_SCALE)

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """Accuracy and log loss of the first head, and the accuracy of every head where there are several."""
        scores, labels = self._judged(batch.pixels), batch.labels.unbind(1)
        found = {"accuracy": _accuracy(scores[0], labels[0]), "log_loss": _log_loss(scores[0], labels[0])}
        if len(scores) > 1:
            for head, head_scores, head_labels in zip(self.head_sizes, scores, labels, strict=True):
                found[f"accuracy_{head}"] = _accuracy(head_scores, head_labels)
        return BatchMetrics(found, self._tallies(scores, labels))

    def _tallies(self, scores_by_head: Sequence[Tensor], labels_by_head: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of each head: confusion [K, K] by label and prediction, reliability of the confidence, see models.metrics."""
        found = {}
        for head, scores, labels in zip(self.head_sizes, scores_by_head, labels_by_head, strict=True):
            known = labels >= 0
            confidence, predicted = scores[known].softmax(1).max(1)
            pairs = confusion(labels[known], predicted, num_classes=self.head_sizes[head])
            found[f"confusion/{head}"] = pairs.double()
            found[f"reliability/{head}"] = reliability(confidence, predicted == labels[known])
        return found

    def calibration(self, batch: Batch) -> Tensor | None:
        """Log loss [H, T] summed over some of the batch for each of TEMPERATURES."""
        if isinstance(self.trunk, Constant):
            return None
        scores = self._judged(batch.pixels[:CALIBRATION_EXAMPLES], calibrated=False)
        labels = batch.labels[:CALIBRATION_EXAMPLES].unbind(1)
        sums = [
            torch.stack([_log_loss(head_scores / each, head_labels).numerator.sum() for each in TEMPERATURES])
            for head_scores, head_labels in zip(scores, labels, strict=True)
        ]
        return torch.stack(sums)

    def calibrate(self, sums: Tensor) -> None:
        """Take the temperature with the lowest summed log loss for each head that has labels."""
        chosen = torch.tensor(TEMPERATURES, device=sums.device)[sums.argmin(1)]
        self.temperatures = torch.where(sums.sum(1) > 0, chosen, torch.ones_like(chosen))

    def predict(self, batch: Batch) -> list[Recognition]:
        """Calibrated probabilities of every head, the embedding, and the title where the batch asks for it.

        Always in full precision.
        """
        features = self._features(batch.pixels)
        by_head = [scores.softmax(1).tolist() for scores in self._scores(features)]
        probabilities = [dict(zip(self.head_sizes, rows, strict=True)) for rows in zip(*by_head, strict=True)]
        embeddings = self._embeddings(features)
        titles: Sequence[tuple[Phrase, ...] | None] = [None] * len(probabilities)
        if batch.thresholds and self.writer is not None:
            titles = self.writer.write(embeddings, probabilities, batch.thresholds)
        return [Recognition(*row) for row in zip(probabilities, embeddings.tolist(), titles, strict=True)]

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B, D] of length one: pictures that look alike lie near each other."""
        return self._embeddings(self._features(batch.pixels))

    def normalise(self, pixels_BCSS: Tensor) -> Tensor:
        """Pixels 0 .. 255 as floats of mean 0 and deviation 1 in each channel; for a backbone, grey ones in three."""
        return (pixels_BCSS.float() / 255 - self.mean) / self.std

    def scores_of(self, features_BD: Tensor) -> list[Tensor]:
        """Class scores [B, K] of each head, not calibrated, of features that are at hand."""
        return self._split(self.score_scale * self.classifier(features_BD).float())

    def _cross_entropy(self, scores: Sequence[Tensor], labels_BH: Tensor) -> Tensor:
        losses, present = [], []
        for head_scores, labels in zip(scores, labels_BH.unbind(1), strict=True):
            summed = F.cross_entropy(
                head_scores, labels, ignore_index=MISSING, label_smoothing=self.config.label_smoothing, reduction="sum"
            )
            num_labels = (labels != MISSING).sum()
            losses.append(summed / num_labels.clamp_min(1))
            present.append(num_labels > 0)
        return torch.stack(losses).sum() / torch.stack(present).sum().clamp_min(1)

    def _augmented(self, pixels_BCSS: Tensor) -> Tensor:
        if not self.training:
            return self.normalise(pixels_BCSS)
        config = self.config
        epochs_done = int(self.steps) / self.steps_per_epoch
        self.steps += 1
        if config.flip:
            pixels_BCSS = augment.flip_alternately(pixels_BCSS, int(epochs_done))
        pictures = augment.shift(self.normalise(pixels_BCSS), config.shift)
        pictures = augment.cut_out(pictures, config.cut_out)
        if isinstance(self.trunk, ResNet) and epochs_done < config.small_fraction * config.epochs:
            pictures = F.interpolate(pictures, scale_factor=SMALL_SIDE, mode="bilinear", antialias=True)
        return pictures

    def _judged(self, pixels_BCSS: Tensor, *, calibrated: bool = True) -> list[Tensor]:
        """Class scores [B, K] of each head in the arithmetic of the training, which is precise enough to count hits."""
        dtype = autocast_dtype(self.config.precision, pixels_BCSS.device)
        with torch.autocast(pixels_BCSS.device.type, dtype=dtype, enabled=dtype is not None):
            features = self._features(pixels_BCSS)
        return self._scores(features.float(), calibrated=calibrated)

    def _features(self, pixels_BCSS: Tensor) -> Tensor:
        """Features [B, D, V] of the V views of each picture: as it is and, as configured, mirrored and moved."""
        views = [self.normalise(pixels_BCSS)]
        # The linear baseline has learnt from one side only; others would cost it hits.
        if not isinstance(self.trunk, COUNTED):
            views = augment.views(views[0], flip=self.config.flip, distance=self.config.test_shift)
        return torch.stack([self.trunk(channels_last(view)) for view in views], 2)

    def _scores(self, features_BDV: Tensor, *, calibrated: bool = True) -> list[Tensor]:
        """Class scores [B, K] of each head; what is linear may be averaged before it as well as after."""
        scores = self.scores_of(features_BDV.mean(2))
        if not calibrated:
            return scores
        return [each / temperature for each, temperature in zip(scores, self.temperatures, strict=True)]

    def _split(self, scores: Tensor) -> list[Tensor]:
        return list(torch.split(scores, list(self.head_sizes.values()), dim=1))

    def _embeddings(self, features_BDV: Tensor) -> Tensor:
        return F.normalize(features_BDV.mean(2), dim=1)


def build(config: Config, schema: Schema) -> Recogniser:
    """An untrained recogniser; raises ValueError for an unknown network or pictures too small for it."""
    channels, size = schema.channels, schema.size
    match config.network:
        case "resnet":
            resnet = ResNet(channels=channels, size=size, width=config.width, num_convolutions=config.num_convolutions)
            return Recogniser(config, schema, resnet)
        case "cnn":
            return Recogniser(config, schema, Cnn(channels=channels, size=size, width=config.width))
        case "backbone":
            return Recogniser(config, schema, Backbone(config.architecture, size=size))
        case "linear":
            return _counted(Recogniser(config, schema, Projection(channels=channels, size=size)))
        case "prior":
            return _counted(Recogniser(config, schema, Constant()))
        case name:
            trunk = network_of("image", name)(config, schema)
            require(trunk, "dim", of=name)
            return Recogniser(config, schema, trunk)


def initialise(network: Recogniser, data: Prepared, schema: Schema) -> None:
    """Set the whitening of a resnet or fit a baseline, from training pictures, or read a backbone; no training."""
    with torch.no_grad():
        match network.trunk:
            case ResNet() as trunk:
                batch = _training_pictures(network, data, schema, STATISTICS_PICTURES)
                trunk.whitening.fit(network.normalise(batch.pixels))
            case Backbone() as trunk:
                trunk.read(Path(network.config.backbone))
            case Projection() as trunk:
                batch = _training_pictures(network, data, schema, LINEAR_PICTURES)
                # Block by block: as floats, large pictures would take gigabytes.
                blocks = [trunk.pixels(network.normalise(block)) for block in torch.split(batch.pixels, BLOCK_SIZE)]
                _fit_heads(network, trunk.fit(torch.cat(blocks)), batch.labels)
            case Constant():
                counts = [torch.tensor(schema.label_counts[head], dtype=torch.float32) for head in schema.heads]
                network.classifier.weight.zero_()
                network.classifier.bias.copy_(torch.cat([(each + 0.5).log() for each in counts]))


def update_statistics(network: Recogniser, data: Prepared, schema: Schema) -> None:
    """Set the statistics of a resnet's norms to those of training pictures as they are.

    In training they are those of the last few batches, whose pictures are cut, blended and maybe small, which no
    picture to recognise is. Wu and Johnson, 2021, arXiv:2105.07576, "precise" statistics.
    """
    if not isinstance(network.trunk, ResNet):
        return
    device = network.mean.device
    pixels = _training_pictures(network, data, schema, STATISTICS_PICTURES).pixels
    # Equal blocks: one of a single small picture has no variance.
    blocks = pixels.tensor_split(math.ceil(len(pixels) / BLOCK_SIZE))
    dtype = autocast_dtype(network.config.precision, device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        update_bn((channels_last(network.normalise(block.to(device))) for block in blocks), network.trunk)


def channels_last(pictures_BCSS: Tensor) -> Tensor:
    """The pictures in the layout in which convolutions are fastest.

    `contiguous(memory_format=...)` leaves grey pictures as they are, since one channel has one layout, but their
    strides then name the other one: a first convolution and its pooling take ten times as long on a CPU.
    """
    return torch.empty_like(pictures_BCSS, memory_format=torch.channels_last).copy_(pictures_BCSS)


def _counted(network: Recogniser) -> Recogniser:
    """The network with nothing left for the training loop to train."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def _training_pictures(network: Recogniser, data: Prepared, schema: Schema, at_most: int) -> Batch:
    examples = dataset(data, "train", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    return collate(evenly(examples, at_most))


def _fit_heads(network: Recogniser, features_BD: Tensor, labels_BH: Tensor) -> None:
    fitted = []
    for num_classes, labels in zip(network.head_sizes.values(), labels_BH.unbind(1), strict=True):
        known = labels != MISSING
        fitted.append(fit_logistic(features_BD[known], labels[known], num_classes))
    network.classifier.weight.copy_(torch.cat([weights for weights, _ in fitted]))
    network.classifier.bias.copy_(torch.cat([biases for _, biases in fitted]))


def _accuracy(scores_BK: Tensor, labels_B: Tensor) -> Ratio:
    """Whether the likeliest class is the label; a class that is unknown to the model counts as a mistake."""
    ratio = accuracy(scores_BK.argmax(1), labels_B)
    return Ratio(ratio.numerator, ratio.denominator + (labels_B == UNKNOWN))


def _log_loss(scores_BK: Tensor, labels_B: Tensor) -> Ratio:
    """Minus the logarithm of the probability of the label; pictures without one that is known do not take part."""
    known = (labels_B >= 0).double()
    losses = F.cross_entropy(scores_BK, labels_B.clamp_min(MISSING), ignore_index=MISSING, reduction="none")
    return Ratio(losses.double() * known, known)
