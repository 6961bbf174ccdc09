"""A multi-head image classifier: one trunk for the features, one linear head of class logits for each label.

Shapes: B images, C channels, S side, D features, H heads, K classes of a head, T temperatures, V augmented views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks import augment
from models.image.networks.anomaly import AnomalyScore
from models.image.networks.backbone import MEAN, STD, Backbone
from models.image.networks.baselines import Constant, Projection, fit_logistic
from models.image.networks.cnn import Cnn
from models.image.networks.encoder import FrozenEncoder
from models.image.networks.resnet import SCALE_OUT, ResNet
from models.image.schema import MISSING, UNKNOWN, Schema
from models.image.similarity_index import Catalogue
from models.image.text.describe import Phrase
from models.image.text.writer import TitleGenerator
from models.metrics import BatchMetrics, Ratio, accuracy, confusion, reliability
from models.nn.muon import Muon
from models.nn.precision import autocast_dtype
from models.nn.state_dict import rename_on_load
from models.plugins import network_of, require
from models.prepared import Prepared
from models.sampling import evenly

FILTER_RATE_SCALE = 50 / 3
"""Muon's steps are relative to the norm of a filter: its rate is 0.1 if that of the other parameters is 0.006."""
SMALL_SIDE = 0.75
TEMPERATURES = tuple(0.25 * 1.09**step for step in range(33))
"""Temperatures that calibration chooses from, 0.25 .. 3.9."""
CALIBRATION_EXAMPLES = 128
"""Calibration uses the first images of each validation batch."""
STATISTICS_IMAGES = 2000
"""Training images, sampled at regular intervals, for the whitening and the batch-norm statistics of a resnet."""
BLOCK_SIZE = 500
UNTRAINED = Projection | Constant | FrozenEncoder
"""Trunks that are not trained by gradient descent, nor used with augmentation or titles."""
LINEAR_BASELINE_IMAGES = 20_000
"""Training images, sampled at regular intervals, to fit the linear baseline."""


@dataclass(frozen=True)
class Prediction:
    """The network's output for one image."""

    probabilities: dict[str, list[float]]
    """Head -> probability of each class, calibrated."""
    embedding: list[float]
    title: tuple[Phrase, ...] | None = None
    """Phrases of the title generator; None if the request does not ask for a learned title or there is no generator."""
    anomaly: AnomalyScore | None = None
    """Set by the autoencoder only."""


class Trunk(Protocol):
    """A torch module that maps images to features: one of this family, or a network of another package."""

    dim: int

    def __call__(self, images: Tensor, /) -> Tensor:
        """Normalised images [B, C, S, S] -> features [B, dim]."""
        ...


class Classifier(nn.Module):
    """Heads over a trunk; one of the networks of the family, with Autoencoder and Gan."""

    mean: Tensor
    std: Tensor
    temperatures: Tensor
    steps: Tensor
    catalogue: Catalogue | None = None
    """Index of the products to search, if it is served with one."""

    def __init__(self, config: Config, schema: Schema, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        self.head_sizes = {head: len(classes) for head, classes in schema.heads.items()}
        self.trunk = trunk
        self.classifier = nn.Linear(trunk.dim, sum(self.head_sizes.values()))
        self.logit_scale = SCALE_OUT if isinstance(trunk, ResNet) else 1.0
        if isinstance(trunk, ResNet):
            # Logits start near zero: large random ones cost three points of accuracy in the first epochs on CIFAR-10.
            nn.init.normal_(self.classifier.weight, std=1 / (SCALE_OUT * trunk.dim))
            nn.init.zeros_(self.classifier.bias)
        self.steps_per_epoch = max(1, math.ceil(schema.num_examples["train"] / config.batch_size))
        mean, std = (MEAN, STD) if isinstance(trunk, Backbone) else (schema.mean, schema.std)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.register_buffer("temperatures", torch.ones(len(self.head_sizes)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps_done: int | None = None
        has_titles = bool(schema.forms) and not isinstance(trunk, UNTRAINED)
        self.title_generator = TitleGenerator(trunk.dim, schema) if has_titles else None
        rename_on_load(self, {"writer.": "title_generator."})

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy on augmented images: the mean over the labels of each head, then over the heads with labels.

        With titles the loss of the title generator is added; its gradient does not reach the trunk.
        """
        images, others, share = self._augmented(batch.pixels), None, 1.0
        if self.training and self.config.mixup:
            images, others, share = augment.mix(images, self.config.mixup)
        features = self.trunk(channels_last(images))
        logits = self.logits_of(features)
        loss = self._cross_entropy(logits, batch.labels)
        if others is not None:
            loss = torch.lerp(self._cross_entropy(logits, batch.labels[others]), loss, share)
        if self.title_generator is None or batch.titles is None:
            return loss
        return loss + self.title_generator.loss(self._embeddings(features[:, :, None]), batch.titles)

    def optimizer(self) -> Optimizer | None:
        """Muon for the filters of a resnet; None selects the training loop's default."""
        if not isinstance(self.trunk, ResNet):
            return None
        filters = self.trunk.filters()
        chosen = {id(parameter) for parameter in filters}
        others = [each for each in self.parameters() if each.requires_grad and id(each) not in chosen]
        return Muon(filters, others, lr=self.config.learning_rate, filter_rate_scale=FILTER_RATE_SCALE)

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """Accuracy and log loss of the first head, and the accuracy of every head where there are several."""
        logits, labels = self._evaluation_logits(batch.pixels), batch.labels.unbind(1)
        found = {"accuracy": _accuracy(logits[0], labels[0]), "log_loss": _log_loss(logits[0], labels[0])}
        if len(logits) > 1:
            for head, head_logits, head_labels in zip(self.head_sizes, logits, labels, strict=True):
                found[f"accuracy_{head}"] = _accuracy(head_logits, head_labels)
        return BatchMetrics(found, self._accumulators(logits, labels))

    def _accumulators(self, logits_by_head: Sequence[Tensor], labels_by_head: Sequence[Tensor]) -> dict[str, Tensor]:
        """Confusion matrix [K, K] and reliability bins of each head, see models.metrics."""
        found = {}
        for head, logits, labels in zip(self.head_sizes, logits_by_head, labels_by_head, strict=True):
            known = labels >= 0
            confidence, predicted = logits[known].softmax(1).max(1)
            pairs = confusion(labels[known], predicted, num_classes=self.head_sizes[head])
            found[f"confusion/{head}"] = pairs.double()
            found[f"reliability/{head}"] = reliability(confidence, predicted == labels[known])
        return found

    def calibration(self, batch: Batch) -> Tensor | None:
        """Summed log loss [H, T] at each of TEMPERATURES on the first CALIBRATION_EXAMPLES images of the batch."""
        if isinstance(self.trunk, Constant):
            return None
        logits = self._evaluation_logits(batch.pixels[:CALIBRATION_EXAMPLES], calibrated=False)
        labels = batch.labels[:CALIBRATION_EXAMPLES].unbind(1)
        sums = [
            torch.stack([_log_loss(head_logits / each, head_labels).numerator.sum() for each in TEMPERATURES])
            for head_logits, head_labels in zip(logits, labels, strict=True)
        ]
        return torch.stack(sums)

    def calibrate(self, sums: Tensor) -> None:
        """Set the temperature of each head to that with the lowest log loss; 1 without labels."""
        chosen = torch.tensor(TEMPERATURES, device=sums.device)[sums.argmin(1)]
        self.temperatures = torch.where(sums.sum(1) > 0, chosen, torch.ones_like(chosen))

    def predict(self, batch: Batch) -> list[Prediction]:
        """Calibrated probabilities, the embedding, and a title if the batch asks for one; in full precision."""
        features = self._features(batch.pixels)
        by_head = [logits.softmax(1).tolist() for logits in self._logits(features)]
        probabilities = [dict(zip(self.head_sizes, rows, strict=True)) for rows in zip(*by_head, strict=True)]
        embeddings = self._embeddings(features)
        titles: Sequence[tuple[Phrase, ...] | None] = [None] * len(probabilities)
        if batch.thresholds and self.title_generator is not None:
            titles = self.title_generator.generate(embeddings, probabilities, batch.thresholds)
        return [Prediction(*row) for row in zip(probabilities, embeddings.tolist(), titles, strict=True)]

    def embed(self, batch: Batch) -> Tensor:
        """L2-normalised embeddings [B, D]; similar images have a high cosine similarity."""
        return self._embeddings(self._features(batch.pixels))

    def normalise(self, pixels_BCSS: Tensor) -> Tensor:
        """Standardise pixels 0 .. 255 by channel; for a backbone, grey images become three channels."""
        return (pixels_BCSS.float() / 255 - self.mean) / self.std

    def logits_of(self, features_BD: Tensor) -> list[Tensor]:
        """Uncalibrated logits [B, K] of each head, given features."""
        return self._split(self.logit_scale * self.classifier(features_BD).float())

    def _cross_entropy(self, logits: Sequence[Tensor], labels_BH: Tensor) -> Tensor:
        losses, present = [], []
        for head_logits, labels in zip(logits, labels_BH.unbind(1), strict=True):
            summed = F.cross_entropy(
                head_logits, labels, ignore_index=MISSING, label_smoothing=self.config.label_smoothing, reduction="sum"
            )
            num_labels = (labels != MISSING).sum()
            losses.append(summed / num_labels.clamp_min(1))
            present.append(num_labels > 0)
        return torch.stack(losses).sum() / torch.stack(present).sum().clamp_min(1)

    def _augmented(self, pixels_BCSS: Tensor) -> Tensor:
        if not self.training:
            return self.normalise(pixels_BCSS)
        config = self.config
        epochs_done = self._count_step() / self.steps_per_epoch
        if config.flip:
            pixels_BCSS = augment.flip_alternately(pixels_BCSS, int(epochs_done))
        images = augment.shift(self.normalise(pixels_BCSS), config.shift)
        images = augment.cut_out(images, config.cut_out)
        if isinstance(self.trunk, ResNet) and epochs_done < config.small_fraction * config.epochs:
            images = F.interpolate(images, scale_factor=SMALL_SIDE, mode="bilinear", antialias=True)
        return images

    def train(self, mode: bool = True) -> Self:
        """Switch to training or inference, before which other weights and steps may have been loaded."""
        self._steps_done = None
        return super().train(mode)

    def _count_step(self) -> int:
        """The number of steps before this one; read from the device once an epoch, as that waits for it."""
        done = int(self.steps) if self._steps_done is None else self._steps_done
        self._steps_done = done + 1
        self.steps += 1
        return done

    def _evaluation_logits(self, pixels_BCSS: Tensor, *, calibrated: bool = True) -> list[Tensor]:
        """Logits [B, K] of each head in the precision of training, which suffices for metrics."""
        dtype = autocast_dtype(self.config.precision, pixels_BCSS.device)
        with torch.autocast(pixels_BCSS.device.type, dtype=dtype, enabled=dtype is not None):
            features = self._features(pixels_BCSS)
        return self._logits(features.float(), calibrated=calibrated)

    def _features(self, pixels_BCSS: Tensor) -> Tensor:
        """Features [B, D, V] of each image's views for test-time augmentation; the first view is the original."""
        views = [self.normalise(pixels_BCSS)]
        # The linear baseline was fitted without augmentation and would lose accuracy.
        if not isinstance(self.trunk, UNTRAINED):
            views = augment.tta_views(views[0], flip=self.config.flip, distance=self.config.test_shift)
        return torch.stack([self.trunk(channels_last(view)) for view in views], 2)

    def _logits(self, features_BDV: Tensor, *, calibrated: bool = True) -> list[Tensor]:
        """Logits [B, K] of each head, averaged over views; as the heads are linear, the features are averaged."""
        logits = self.logits_of(features_BDV.mean(2))
        if not calibrated:
            return logits
        return [each / temperature for each, temperature in zip(logits, self.temperatures, strict=True)]

    def _split(self, logits: Tensor) -> list[Tensor]:
        return list(torch.split(logits, list(self.head_sizes.values()), dim=1))

    def _embeddings(self, features_BDV: Tensor) -> Tensor:
        return F.normalize(features_BDV.mean(2), dim=1)


def build(config: Config, schema: Schema) -> Classifier:
    """An untrained classifier; raises ValueError for an unknown network or images too small for it."""
    channels, size = schema.channels, schema.size
    match config.network:
        case "resnet":
            resnet = ResNet(channels=channels, size=size, width=config.width, num_convolutions=config.num_convolutions)
            return Classifier(config, schema, resnet)
        case "cnn":
            return Classifier(config, schema, Cnn(channels=channels, size=size, width=config.width))
        case "backbone":
            return Classifier(config, schema, Backbone(config.architecture, size=size))
        case "linear":
            return _frozen(Classifier(config, schema, Projection(channels=channels, size=size)))
        case "prior":
            return _frozen(Classifier(config, schema, Constant()))
        case name:
            trunk = network_of("image", name)(config, schema)
            require(trunk, "dim", of=name)
            return Classifier(config, schema, trunk)


def initialise(network: Classifier, data: Prepared, schema: Schema) -> None:
    """Set what is not trained by gradient descent: a resnet's whitening, a backbone's weights, a baseline."""
    with torch.no_grad():
        match network.trunk:
            case ResNet() as trunk:
                batch = _training_images(network, data, schema, STATISTICS_IMAGES)
                trunk.whitening.fit(network.normalise(batch.pixels))
            case Backbone() as trunk:
                trunk.read(Path(network.config.backbone))
            case Projection() as trunk:
                batch = _training_images(network, data, schema, LINEAR_BASELINE_IMAGES)
                # In blocks: as floats, large images would take gigabytes.
                blocks = [trunk.pixels(network.normalise(block)) for block in torch.split(batch.pixels, BLOCK_SIZE)]
                _fit_heads(network, trunk.fit(torch.cat(blocks)), batch.labels)
            case Constant():
                counts = [torch.tensor(schema.label_counts[head], dtype=torch.float32) for head in schema.heads]
                network.classifier.weight.zero_()
                network.classifier.bias.copy_(torch.cat([(each + 0.5).log() for each in counts]))


def update_statistics(network: Classifier, data: Prepared, schema: Schema) -> None:
    """Re-estimate a resnet's batch-norm statistics on unaugmented training images (precise BN).

    The running statistics of training are those of the last few batches, whose images are augmented and may be small,
    unlike any image at inference. Wu and Johnson, 2021, arXiv:2105.07576.
    """
    if not isinstance(network.trunk, ResNet):
        return
    device = network.mean.device
    pixels = _training_images(network, data, schema, STATISTICS_IMAGES).pixels
    # Equal blocks: batch statistics of a last block with a single small image would be undefined.
    blocks = pixels.tensor_split(math.ceil(len(pixels) / BLOCK_SIZE))
    dtype = autocast_dtype(network.config.precision, device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        update_bn((channels_last(network.normalise(block.to(device))) for block in blocks), network.trunk)


def channels_last(images_BCSS: Tensor) -> Tensor:
    """The images in the memory format in which convolutions are fastest.

    `contiguous(memory_format=...)` does nothing for grey images, as both formats are the same for one channel; their
    strides stay those of the other format, and the first convolution and its pooling take ten times as long on a CPU.
    """
    return torch.empty_like(images_BCSS, memory_format=torch.channels_last).copy_(images_BCSS)


def _frozen(network: Classifier) -> Classifier:
    """The network with all parameters frozen, for baselines that are fitted in `initialise`."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def _training_images(network: Classifier, data: Prepared, schema: Schema, at_most: int) -> Batch:
    examples = dataset(data, "train", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    return collate(evenly(examples, at_most))


def _fit_heads(network: Classifier, features_BD: Tensor, labels_BH: Tensor) -> None:
    fitted = []
    for num_classes, labels in zip(network.head_sizes.values(), labels_BH.unbind(1), strict=True):
        known = labels != MISSING
        fitted.append(fit_logistic(features_BD[known], labels[known], num_classes))
    network.classifier.weight.copy_(torch.cat([weights for weights, _ in fitted]))
    network.classifier.bias.copy_(torch.cat([biases for _, biases in fitted]))


def _accuracy(logits_BK: Tensor, labels_B: Tensor) -> Ratio:
    """Top-1 accuracy; a label unknown to the model counts as an error."""
    ratio = accuracy(logits_BK.argmax(1), labels_B)
    return Ratio(ratio.numerator, ratio.denominator + (labels_B == UNKNOWN))


def _log_loss(logits_BK: Tensor, labels_B: Tensor) -> Ratio:
    """Negative log-likelihood of the label; images without a known label are left out."""
    known = (labels_B >= 0).double()
    losses = F.cross_entropy(logits_BK, labels_B.clamp_min(MISSING), ignore_index=MISSING, reduction="none")
    return Ratio(losses.double() * known, known)
