"""A generative adversarial network that makes pictures of a class, and two classifiers that say what they are worth.

A generator and a discriminator play in one step, with the hinge loss: the discriminator sees made pictures without a
gradient to the generator, the generator sees a discriminator whose weights are detached. Pictures are made by a running
average of the generator (Yazici et al., 2019, arXiv:1806.04498).

Beside them learn two tutorial networks. The reader learns from real pictures; distances are measured in its features.
The pupil learns from made pictures alone and is judged on real ones: the classification accuracy score (Ravuri and
Vinyals, 2019, arXiv:1905.10887), which is low where pictures are of the wrong class, unreal, or all alike. The pupil is
what answers requests, so that this network is judged, promoted and asked like any other.

Shapes: B pictures, C channels, S side, D random numbers, F features.
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
from models.image.networks.classifier import Recogniser, Recognition, channels_last
from models.image.networks.cnn import Cnn
from models.image.networks.frechet import moments
from models.image.networks.generator import Discriminator, Generator, Kind, disturbed
from models.image.schema import MISSING, Schema
from models.image.similarity_index import Catalogue
from models.metrics import BatchMetrics, Ratio

MIN_SIDE, MAX_SIDE = 18, 64
RATE_SCALE = 0.2
"""Of the learning rate, which is made for the classifiers, for the two players."""
PLAYER_BETAS = (0.5, 0.99)
CLASSIFIER_BETAS = (0.9, 0.98)
MISNAMING = 0.5
"""Share of all steps over which real pictures with a wrong class lose their weight in the discriminator's loss."""
MEMORY = 0.998
"""Share of the average that stays at each step, once there were many."""
BLOCK = 250


class Gan(nn.Module):
    """Satisfies models.family.Network."""

    catalogue: Catalogue | None = None
    """Products to compare pictures with, where it is served with an index."""
    steps: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config = config
        kind = Kind(schema.channels, schema.size, num_classes=_num_classes(schema))
        self.generator = Generator(kind, width=config.width, dim=config.latent)
        self.discriminator = Discriminator(kind, width=config.width)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        steps = config.epochs * math.ceil(schema.num_examples["train"] / config.batch_size)
        self.misnaming_steps = max(1.0, MISNAMING * steps)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        untitled = schema.model_copy(update={"forms": []})
        cnns = (Cnn(channels=schema.channels, size=schema.size, width=1.0) for _ in range(2))
        self.reader, self.pupil = (Recogniser(config, untitled, cnn) for cnn in cnns)
        _say_frequencies(self.pupil, schema)

    def forward(self, batch: Batch) -> Tensor:
        """The losses of the discriminator, the generator and both classifiers, added; unlabelled pictures count not."""
        if self.training:
            self._take_average()
        labels, known = batch.labels[:, 0].clamp_min(0), batch.labels[:, 0] >= 0
        share = known / known.sum().clamp_min(1)
        real = channels_last(batch.pixels.float() / 127.5 - 1)
        made = self.generator(torch.randn(len(real), self.config.latent, device=real.device), labels)

        seen = channels_last(disturbed(torch.cat([real, made.detach()])))
        of_real, of_made = self.discriminator.features(seen).chunk(2)
        verdict, others = self.discriminator.verdict, labels.roll(1)
        told_apart = (share * (F.relu(1 - verdict(of_real, labels)) + F.relu(1 + verdict(of_made, labels)))).sum()
        # Real ones of another class are wrong too, at first: it teaches the classes soon (Reed et al., 2016,
        # arXiv:1605.05396), but in the end it would make all pictures typical ones.
        misnamed = (share * (others != labels) * F.relu(1 + verdict(of_real, others))).sum()
        told_apart = told_apart + max(0.0, 1 - float(self.steps) / self.misnaming_steps) * misnamed

        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        verdicts: Tensor = functional_call(self.discriminator, frozen, (channels_last(disturbed(made)), labels))
        fooled = -(share * verdicts).sum()

        lesson = Batch(as_pixels(made.detach()), _first_only(batch.labels))
        loss: Tensor = told_apart + fooled + self.reader(batch) + self.pupil(lesson)
        return loss

    def optimizer(self) -> Optimizer:
        """AdamW without decay for the players, with another memory and rate than for the classifiers."""
        players = [*self.generator.parameters(), *self.discriminator.parameters()]
        classifiers = [*self.reader.parameters(), *self.pupil.parameters()]
        groups = [
            {"params": players, "betas": PLAYER_BETAS, "weight_decay": 0.0, "rate_scale": RATE_SCALE},
            {"params": classifiers, "betas": CLASSIFIER_BETAS, "weight_decay": self.config.weight_decay},
        ]
        return AdamW(groups, lr=self.config.learning_rate, fused=True)

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """What the pupil scores, whether as many made pictures are recognised, and moments of the features of both.

        The made pictures have the classes of the real ones, and are the same for the same real ones.
        """
        judged = self.pupil.evaluate(batch)
        labels = batch.labels[:, 0]
        made = self.make(labels.clamp_min(0), seed=int(batch.pixels.sum(dtype=torch.int64)))
        features, said = self.read(made)
        known = labels >= 0
        recognised = Ratio((known & (said == labels)).double(), known.double())
        accumulators = {
            "moments/real": moments(self.read(batch.pixels)[0][known]),
            "moments/made": moments(features[known]),
        }
        return BatchMetrics({**judged.ratios, "class_fidelity": recognised}, {**judged.accumulators, **accumulators})

    def calibration(self, batch: Batch) -> Tensor | None:
        """See Recogniser.calibration, of the pupil."""
        return self.pupil.calibration(batch)

    def calibrate(self, sums: Tensor) -> None:
        """See Recogniser.calibrate, of the pupil."""
        self.pupil.calibrate(sums)

    def predict(self, batch: Batch) -> list[Recognition]:
        """What the pupil recognises, who has seen made pictures only."""
        return self.pupil.predict(batch)

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B, F] of length one, of the pupil."""
        return self.pupil.embed(batch)

    def make(self, labels_B: Tensor, *, seed: int) -> Tensor:
        """Pictures of some classes of the first label, as pixels [B, C, S, S]; the same for the same seed."""
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(labels_B), self.config.latent, generator=draw).to(labels_B.device)
        self.average.eval()
        with torch.no_grad():
            blocks = zip(torch.split(noise, BLOCK), torch.split(labels_B, BLOCK), strict=True)
            made = [as_pixels(self.average(noise, labels)) for noise, labels in blocks]
        return torch.cat(made)

    def read(self, pixels_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        """The reader's features [B, F] and what it takes each picture for [B], a class of the first label."""
        features, said = [], []
        with torch.no_grad():
            for block in torch.split(pixels_BCSS, BLOCK):
                found = self.reader.trunk(channels_last(self.reader.normalise(block)))
                features.append(found)
                said.append(self.reader.scores_of(found)[0].argmax(1))
        return torch.cat(features), torch.cat(said)

    @torch.no_grad()
    def _take_average(self) -> None:
        """Move the average towards the generator as the last step left it."""
        self.steps += 1
        weight = 1 - min(MEMORY, float(self.steps) / (float(self.steps) + 9))
        now: Mapping[str, Tensor] = self.generator.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(now[name], weight)


def build(config: Config, schema: Schema) -> Gan:
    """An untrained network; raises ValueError for pictures that it cannot make, or none of a known class."""
    if not MIN_SIDE <= schema.size <= MAX_SIDE:
        raise ValueError(
            f"the gan makes no pictures of side {schema.size}; prepare them at {MIN_SIDE} to {MAX_SIDE}, --size 64 say"
        )
    return Gan(config, schema)


def as_pixels(pictures_BCSS: Tensor) -> Tensor:
    """Pictures on -1 .. 1 as uint8 pixels 0 .. 255."""
    return ((pictures_BCSS + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _num_classes(schema: Schema) -> int:
    head, classes = next(iter(schema.heads.items()))
    if not sum(schema.label_counts[head]):
        raise ValueError(
            f"no training picture has the first label, {head}, of whose classes a gan makes pictures; "
            "prepare the pictures with another one first, --labels NAME"
        )
    return len(classes)


def _first_only(labels_BH: Tensor) -> Tensor:
    """The labels of made pictures, of which nothing but the class of the first head is known."""
    labels = torch.full_like(labels_BH, MISSING)
    labels[:, 0] = labels_BH[:, 0]
    return labels


def _say_frequencies(pupil: Recogniser, schema: Schema) -> None:
    """Start with the frequencies of the classes; of labels that no made picture has, nothing else is ever learnt."""
    counts = [torch.tensor(schema.label_counts[head], dtype=torch.float32) for head in schema.heads]
    with torch.no_grad():
        pupil.classifier.weight[len(counts[0]) :] = 0
        pupil.classifier.bias[len(counts[0]) :] = torch.cat(counts)[len(counts[0]) :].add(0.5).log()
