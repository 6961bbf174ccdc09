"""A denoising autoencoder: it learns what images look like without labels, and says which ones look like no other.

The embedding and the score of strangeness come from images alone. Labels are only read off the finished embedding, by
a linear layer whose gradient never reaches it, so that this network is judged, promoted and asked like any other.

Shapes: B images, C channels, S side, D latent numbers, H heads, T temperatures, N bins of scores.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks.anomaly import (
    NUM_EDGES,
    ANOMALOUS_RANK,
    PercentileRank,
    RunningCovariance,
    AnomalyScore,
    RunningMean,
    edge_histogram,
    pca_residual,
)
from models.image.networks.baselines import Projection
from models.image.networks.classifier import (
    BLOCK_SIZE,
    LINEAR_BASELINE_IMAGES,
    TEMPERATURES,
    Classifier,
    Prediction,
    channels_last,
)
from models.image.networks.encoder import Decoder, Encoder, FrozenEncoder
from models.image.schema import Schema
from models.image.similarity_index import Catalogue
from models.metrics import BatchMetrics, Ratio
from models.nn.state_dict import rename_on_load
from models.prepared import Prepared

STATISTICS_IMAGES = 32
"""Images of each training batch, the first ones, without noise, from which the running statistics are taken."""


@dataclass(frozen=True)
class AnomalyScores:
    """How strange each of B images is: parts in units of the training images' mean, so that 1 is ordinary."""

    reconstruction: Tensor
    """Error of the edges when the image is put together from its latent."""
    latent: Tensor
    """Squared Mahalanobis distance of the latent."""
    outline: Tensor
    """Squared distance of the image's edges, half whitened; nothing of it is learnt by the network."""
    pca: Tensor
    """Error when it is put together from principal components alone: the plain score, to compare with."""

    @property
    def score(self) -> Tensor:
        """Mean of the three parts."""
        return (self.reconstruction + self.latent + self.outline) / 3


class Autoencoder(nn.Module):
    """Satisfies models.family.Network."""

    catalogue: Catalogue | None = None
    """Products to compare images with, where it is served with an index."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(channels=schema.channels, size=schema.size, width=config.width, dim=config.latent)
        self.decoder = Decoder(self.encoder)
        # What the encoder does not see in training would only blur what is read off it.
        plain = dataclasses.replace(config, flip=False, shift=0, cut_out=0)
        self.linear_probe = Classifier(plain, schema, FrozenEncoder(self.encoder))
        self.principal = Projection(channels=schema.channels, size=schema.size)
        self.latents = RunningCovariance(config.latent, whitening=1.0)
        self.outlines = RunningCovariance(NUM_EDGES, whitening=0.5)
        self.edge_error = RunningMean()
        self.principal_error = RunningMean()
        self.ranks, self.principal_ranks = PercentileRank(), PercentileRank()
        rename_on_load(self, {"reader.": "linear_probe."})

    def forward(self, batch: Batch) -> Tensor:
        """Mean squared error of the images, put together from noisy ones, and the reader's cross-entropy."""
        images = self.normalise(batch.pixels)
        # Some images get little noise, so that the network knows clean ones too.
        levels = self.config.noise * torch.rand(len(images), 1, 1, 1, device=images.device)
        noisy = images + levels * torch.randn_like(images)
        found = self.decoder(self.encoder(channels_last(noisy)))
        if self.training:
            self._update_running_statistics(images[:STATISTICS_IMAGES])
        loss: Tensor = F.mse_loss(found.float(), images) + self.linear_probe(batch)
        return loss

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """What the reader scores, the share of the pixels' variance that is lost, and of images that are strange."""
        read = self.linear_probe.evaluate(batch)
        images = self.normalise(batch.pixels)
        latents = self.encoder(channels_last(images))
        found = self.decoder(latents)
        scores = self._anomaly_scores(images, latents, found)
        ones = torch.ones(len(images), dtype=torch.float64, device=images.device)
        added = {
            "reconstruction_error": (found - images).square().mean((1, 2, 3)),
            "strange_share": self.ranks(scores.score) > ANOMALOUS_RANK,
            "strange_share_pca": self.principal_ranks(scores.pca) > ANOMALOUS_RANK,
        }
        metrics = {name: Ratio(value.double(), ones) for name, value in added.items()}
        return BatchMetrics({**read.ratios, **metrics}, read.accumulators)

    def calibration(self, batch: Batch) -> Tensor:
        """Log loss [H * T] of the reader for each temperature, and images [2 * N] by the bin of both scores."""
        self.latents.update_axes()
        temperatures = self.linear_probe.calibration(batch)
        assert temperatures is not None, "a reader has temperatures to choose"
        scores = self.anomaly_scores(batch)
        counts = [self.ranks.counts(scores.score), self.principal_ranks.counts(scores.pca)]
        return torch.cat([temperatures.double().flatten(), *counts])

    def calibrate(self, sums: Tensor) -> None:
        """Take the best temperatures, and rank scores among those of the validation images."""
        num_losses = len(self.linear_probe.head_sizes) * len(TEMPERATURES)
        self.linear_probe.calibrate(sums[:num_losses].reshape(-1, len(TEMPERATURES)))
        own, principal = sums[num_losses:].chunk(2)
        self.latents.update_axes()
        self.ranks.set(own)
        self.principal_ranks.set(principal)

    def predict(self, batch: Batch) -> list[Prediction]:
        """What the reader recognises, the embedding and the strangeness; always in full precision."""
        scores = self.anomaly_scores(batch)
        ranks = self.ranks(scores.score)
        columns = {
            "unlike": ranks > ANOMALOUS_RANK,
            "score": scores.score,
            "rank": ranks,
            "reconstruction": scores.reconstruction,
            "latent": scores.latent,
            "outline": scores.outline,
            "pca_score": scores.pca,
            "pca_rank": self.principal_ranks(scores.pca),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        anomaly = [AnomalyScore(**dict(zip(columns, row, strict=True))) for row in rows]
        read = self.linear_probe.predict(batch)
        return [dataclasses.replace(one, anomaly=how) for one, how in zip(read, anomaly, strict=True)]

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B, D] of length one: images that look alike lie near each other."""
        return self.linear_probe.embed(batch)

    def anomaly_scores(self, batch: Batch) -> AnomalyScores:
        """How strange each image is."""
        images = self.normalise(batch.pixels)
        latents = self.encoder(channels_last(images))
        return self._anomaly_scores(images, latents, self.decoder(latents))

    def normalise(self, pixels_BCSS: Tensor) -> Tensor:
        """Pixels 0 .. 255 as floats of mean 0 and deviation 1 in each channel."""
        return self.linear_probe.normalise(pixels_BCSS)

    def _anomaly_scores(self, images_BCSS: Tensor, latents_BD: Tensor, found_BCSS: Tensor) -> AnomalyScores:
        outlines = edge_histogram(images_BCSS)
        return AnomalyScores(
            reconstruction=self.edge_error.relative(_mean_square(outlines - edge_histogram(found_BCSS))),
            latent=self.latents.distance(latents_BD),
            outline=self.outlines.distance(outlines),
            pca=self.principal_error.relative(pca_residual(self.principal, images_BCSS)),
        )

    @torch.no_grad()
    def _update_running_statistics(self, images_BCSS: Tensor) -> None:
        with torch.autocast(images_BCSS.device.type, enabled=False):
            latents = self.encoder(channels_last(images_BCSS))
            self.latents.update(latents)
            found = self.decoder(latents)
            self.edge_error.update(_mean_square(edge_histogram(images_BCSS) - edge_histogram(found)))


def fit_statistics(network: Autoencoder, data: Prepared, schema: Schema) -> None:
    """Set what needs no network: the spread of the outlines, and the principal components to compare with."""
    examples = dataset(data, "train", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    step = max(1, math.ceil(len(examples) / LINEAR_BASELINE_IMAGES))
    pixels = collate([examples[place] for place in range(0, len(examples), step)]).pixels
    principal = network.principal
    with torch.no_grad():
        # Block by block: as floats, large images would take gigabytes.
        blocks = torch.split(pixels, BLOCK_SIZE)
        network.outlines.update(torch.cat([edge_histogram(network.normalise(block)) for block in blocks]))
        network.outlines.update_axes()
        principal.fit(torch.cat([principal.pixels(network.normalise(block)) for block in blocks]))
        network.principal_error.update(
            torch.cat([pca_residual(principal, network.normalise(block)) for block in blocks])
        )


def _mean_square(differences_BN: Tensor) -> Tensor:
    return differences_BN.square().mean(1)
