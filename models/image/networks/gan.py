"""A class-conditional generative adversarial network, with two classifiers that measure the images it generates.

Generator and discriminator are trained in one step with the hinge loss: the discriminator sees detached generated
images, the generator sees a discriminator with detached weights. Images are sampled from an exponential moving average
(EMA) of the generator (Yazici et al., 2019, arXiv:1806.04498).

Two small CNNs are trained alongside. The feature extractor learns from real images; Fréchet distances are measured in
its features. The student learns from generated images alone and is evaluated on real ones: the classification accuracy
score (Ravuri and Vinyals, 2019, arXiv:1905.10887), which is low if images are of the wrong class, unrealistic or lack
diversity. The student answers requests, so this network is evaluated, promoted and served like any other.

Shapes: B images, C channels, S side, D latent size, F features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import AdamW, Optimizer

from models.image.config import Config
from models.image.data import Batch
from models.image.networks.classifier import Classifier, Prediction, channels_last
from models.image.networks.cnn import Cnn
from models.image.networks.frechet import moments
from models.image.networks.generator import Discriminator, Generator, ImageSpec, diff_augment
from models.image.schema import MISSING, Schema
from models.image.similarity_index import Catalogue
from models.metrics import BatchMetrics, Ratio
from models.nn.state_dict import rename_on_load

MIN_SIDE, MAX_SIDE = 18, 64
RATE_SCALE = 0.2
"""Factor on the learning rate, which is tuned for the classifiers, for generator and discriminator."""
ADVERSARIAL_BETAS = (0.5, 0.99)
CLASSIFIER_BETAS = (0.9, 0.98)
MISMATCH_FRACTION = 0.5
"""Fraction of all steps over which the weight of the mismatch loss decays to zero."""
EMA_DECAY = 0.998
"""Decay of the moving average; lower in the first 4,500 steps."""
BLOCK = 250


class Gan(nn.Module):
    """One of the networks of the family, with Classifier and Autoencoder."""

    catalogue: Catalogue | None = None
    """Index of the products to search, if it is served with one."""
    steps: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config = config
        spec = ImageSpec(schema.channels, schema.size, num_classes=_num_classes(schema))
        self.generator = Generator(spec, width=config.width, dim=config.latent)
        self.discriminator = Discriminator(spec, width=config.width)
        self.ema_generator = copy.deepcopy(self.generator).requires_grad_(False)
        steps = config.epochs * math.ceil(schema.num_examples["train"] / config.batch_size)
        self.mismatch_steps = max(1.0, MISMATCH_FRACTION * steps)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        untitled = schema.model_copy(update={"forms": []})
        cnns = (Cnn(channels=schema.channels, size=schema.size, width=1.0) for _ in range(2))
        self.feature_extractor, self.student = (Classifier(config, untitled, cnn) for cnn in cnns)
        _initialise_to_class_frequencies(self.student, schema)
        rename_on_load(self, {"average.": "ema_generator.", "reader.": "feature_extractor.", "pupil.": "student."})

    def forward(self, batch: Batch) -> Tensor:
        """Sum of the losses of discriminator, generator and both classifiers; unlabelled images are ignored."""
        if self.training:
            self._update_ema()
        labels, known = batch.labels[:, 0].clamp_min(0), batch.labels[:, 0] >= 0
        weights = known / known.sum().clamp_min(1)
        real = channels_last(batch.pixels.float() / 127.5 - 1)
        fake = self.generator(torch.randn(len(real), self.config.latent, device=real.device), labels)
        discriminator_loss = self._discriminator_loss(real, fake.detach(), labels, weights)

        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        logits: Tensor = functional_call(self.discriminator, frozen, (channels_last(diff_augment(fake)), labels))
        generator_loss = -(weights * logits).sum()

        student_batch = Batch(as_pixels(fake.detach()), _first_head_only(batch.labels))
        classifier_loss = self.feature_extractor(batch) + self.student(student_batch)
        loss: Tensor = discriminator_loss + generator_loss + classifier_loss
        return loss

    def _discriminator_loss(self, real_BCSS: Tensor, fake_BCSS: Tensor, labels_B: Tensor, weights_B: Tensor) -> Tensor:
        """Hinge loss on real and fake images, and at first on real images with a mismatched class."""
        augmented = channels_last(diff_augment(torch.cat([real_BCSS, fake_BCSS])))
        real_features, fake_features = self.discriminator.features(augmented).chunk(2)
        logits, other_labels = self.discriminator.logits, labels_B.roll(1)
        hinge = F.relu(1 - logits(real_features, labels_B)) + F.relu(1 + logits(fake_features, labels_B))
        # Counting them as fake teaches the classes sooner (Reed et al., 2016, arXiv:1605.05396); kept up to the end, it
        # costs diversity.
        mismatch_hinge = (other_labels != labels_B) * F.relu(1 + logits(real_features, other_labels))
        mismatch_weight = (1 - self.steps / self.mismatch_steps).clamp_min(0)
        return (weights_B * hinge).sum() + mismatch_weight * (weights_B * mismatch_hinge).sum()

    def optimizer(self) -> Optimizer:
        """AdamW; generator and discriminator have no weight decay, and their own betas and learning rate."""
        adversarial = [*self.generator.parameters(), *self.discriminator.parameters()]
        classifiers = [*self.feature_extractor.parameters(), *self.student.parameters()]
        groups = [
            {"params": adversarial, "betas": ADVERSARIAL_BETAS, "weight_decay": 0.0, "rate_scale": RATE_SCALE},
            {"params": classifiers, "betas": CLASSIFIER_BETAS, "weight_decay": self.config.weight_decay},
        ]
        return AdamW(groups, lr=self.config.learning_rate, fused=True)

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """Metrics of the student, the share of generated images recognised as their class, and feature moments.

        For each real image one is generated of the same class, with a seed that depends on the real images alone.
        """
        student_metrics = self.student.evaluate(batch)
        labels = batch.labels[:, 0]
        generated = self.generate(labels.clamp_min(0), seed=int(batch.pixels.sum(dtype=torch.int64)))
        features, predicted = self.features_and_classes(generated)
        known = labels >= 0
        recognised = Ratio((known & (predicted == labels)).double(), known.double())
        accumulators = {
            "moments/real": moments(self.features_and_classes(batch.pixels)[0][known]),
            "moments/generated": moments(features[known]),
        }
        return BatchMetrics(
            {**student_metrics.ratios, "class_fidelity": recognised}, {**student_metrics.accumulators, **accumulators}
        )

    def calibration(self, batch: Batch) -> Tensor | None:
        """See Classifier.calibration, of the student."""
        return self.student.calibration(batch)

    def calibrate(self, sums: Tensor) -> None:
        """See Classifier.calibrate, of the student."""
        self.student.calibrate(sums)

    def predict(self, batch: Batch) -> list[Prediction]:
        """Predictions of the student, which was trained on generated images only."""
        return self.student.predict(batch)

    def embed(self, batch: Batch) -> Tensor:
        """L2-normalised embeddings [B, F] of the student."""
        return self.student.embed(batch)

    def generate(self, labels_B: Tensor, *, seed: int) -> Tensor:
        """Sample images of given classes of the first label, as pixels [B, C, S, S]; deterministic for a seed."""
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(labels_B), self.config.latent, generator=draw).to(labels_B.device)
        self.ema_generator.eval()
        with torch.no_grad():
            blocks = zip(torch.split(noise, BLOCK), torch.split(labels_B, BLOCK), strict=True)
            generated = [as_pixels(self.ema_generator(noise, labels)) for noise, labels in blocks]
        return torch.cat(generated)

    def features_and_classes(self, pixels_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] of the feature extractor and its predicted classes [B] of the first label."""
        features, predicted = [], []
        with torch.no_grad():
            for block in torch.split(pixels_BCSS, BLOCK):
                found = self.feature_extractor.trunk(channels_last(self.feature_extractor.normalise(block)))
                features.append(found)
                predicted.append(self.feature_extractor.logits_of(found)[0].argmax(1))
        return torch.cat(features), torch.cat(predicted)

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Update the moving average with the weights after the last step."""
        self.steps += 1
        weight = 1 - (self.steps / (self.steps + 9)).clamp_max(EMA_DECAY)
        now: Mapping[str, Tensor] = self.generator.state_dict()
        for name, value in self.ema_generator.state_dict().items():
            if value.is_floating_point():
                value.lerp_(now[name], weight)


def build(config: Config, schema: Schema) -> Gan:
    """An untrained network; raises ValueError for an unsupported image size, or no labelled training images."""
    if not MIN_SIDE <= schema.size <= MAX_SIDE:
        raise ValueError(
            f"the gan does not support images of {schema.size} x {schema.size} pixels; prepare them at {MIN_SIDE} to "
            f"{MAX_SIDE}, e.g. --size 64"
        )
    return Gan(config, schema)


def as_pixels(images_BCSS: Tensor) -> Tensor:
    """Images in -1 .. 1 as uint8 pixels 0 .. 255."""
    return ((images_BCSS + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _num_classes(schema: Schema) -> int:
    head, classes = next(iter(schema.heads.items()))
    if not sum(schema.label_counts[head]):
        raise ValueError(
            f"no training image has the first label, {head}, on whose classes the gan is conditioned; "
            "prepare the images with another label first, --labels NAME"
        )
    return len(classes)


def _first_head_only(labels_BH: Tensor) -> Tensor:
    """The labels of generated images: the class of the first head; all others are MISSING."""
    labels = torch.full_like(labels_BH, MISSING)
    labels[:, 0] = labels_BH[:, 0]
    return labels


def _initialise_to_class_frequencies(student: Classifier, schema: Schema) -> None:
    """Initialise the heads to predict class frequencies; heads without labels on generated images stay that way."""
    counts = [torch.tensor(schema.label_counts[head], dtype=torch.float32) for head in schema.heads]
    with torch.no_grad():
        student.classifier.weight[len(counts[0]) :] = 0
        student.classifier.bias[len(counts[0]) :] = torch.cat(counts)[len(counts[0]) :].add(0.5).log()
