"""A denoising autoencoder: label-free embeddings for image similarity and anomaly detection.

Embedding and anomaly score are learned without labels. A linear probe on the frozen embedding predicts the labels, so
this network is evaluated, promoted and served like any other.

Shapes: B images, C channels, S side, D latent size, H heads, T temperatures, N bins of scores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks.anomaly import (
    ANOMALOUS_RANK,
    NUM_EDGES,
    AnomalyScore,
    PercentileRank,
    RunningCovariance,
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
from models.sampling import evenly

STATISTICS_IMAGES = 32
"""Running statistics use the first images of each training batch, without noise."""


@dataclass(frozen=True)
class AnomalyScores:
    """Anomaly scores [B] of B images, each in units of its mean over the training images: 1 is typical."""

    reconstruction: Tensor
    """Reconstruction error of the edge histogram."""
    latent: Tensor
    """Squared Mahalanobis distance of the latent vector."""
    outline: Tensor
    """Squared distance of the edge histogram from its mean, partially whitened; independent of the network."""
    pca: Tensor
    """Reconstruction error of PCA, the baseline score."""

    @property
    def score(self) -> Tensor:
        """Mean of reconstruction, latent and outline."""
        return (self.reconstruction + self.latent + self.outline) / 3


class Autoencoder(nn.Module):
    """One of the networks of the family, with Classifier and Gan."""

    catalogue: Catalogue | None = None
    """Index of the products to search, if it is served with one."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(channels=schema.channels, size=schema.size, width=config.width, dim=config.latent)
        self.decoder = Decoder(self.encoder)
        # The encoder is trained without these augmentations, so the probe is too.
        unaugmented = dataclasses.replace(config, flip=False, shift=0, cut_out=0)
        self.linear_probe = Classifier(unaugmented, schema, FrozenEncoder(self.encoder))
        self.principal = Projection(channels=schema.channels, size=schema.size)
        self.latents = RunningCovariance(config.latent, whitening=1.0)
        self.outlines = RunningCovariance(NUM_EDGES, whitening=0.5)
        self.edge_error = RunningMean()
        self.principal_error = RunningMean()
        self.ranks, self.principal_ranks = PercentileRank(), PercentileRank()
        rename_on_load(self, {"reader.": "linear_probe."})

    def forward(self, batch: Batch) -> Tensor:
        """Mean squared error of the denoised images plus the cross-entropy of the linear probe."""
        images = self.normalise(batch.pixels)
        # The noise level is sampled, so that the network also sees nearly clean images.
        levels = self.config.noise * torch.rand(len(images), 1, 1, 1, device=images.device)
        noisy = images + levels * torch.randn_like(images)
        reconstructed = self.decoder(self.encoder(channels_last(noisy)))
        if self.training:
            self._update_running_statistics(images[:STATISTICS_IMAGES])
        loss: Tensor = F.mse_loss(reconstructed.float(), images) + self.linear_probe(batch)
        return loss

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """Metrics of the linear probe, the reconstruction error, and the share of anomalous images."""
        probe_metrics = self.linear_probe.evaluate(batch)
        images = self.normalise(batch.pixels)
        latents = self.encoder(channels_last(images))
        reconstructed = self.decoder(latents)
        scores = self._anomaly_scores(images, latents, reconstructed)
        ones = torch.ones(len(images), dtype=torch.float64, device=images.device)
        added = {
            "reconstruction_error": (reconstructed - images).square().mean((1, 2, 3)),
            "strange_share": self.ranks(scores.score) > ANOMALOUS_RANK,
            "strange_share_pca": self.principal_ranks(scores.pca) > ANOMALOUS_RANK,
        }
        metrics = {name: Ratio(value.double(), ones) for name, value in added.items()}
        return BatchMetrics({**probe_metrics.ratios, **metrics}, probe_metrics.accumulators)

    def calibration(self, batch: Batch) -> Tensor:
        """Log loss [H * T] of the probe at each temperature, and histograms [2 * N] of the score and the PCA score."""
        self.latents.update_axes()
        temperatures = self.linear_probe.calibration(batch)
        assert temperatures is not None, "a linear probe is calibrated"
        scores = self.anomaly_scores(batch)
        histograms = [self.ranks.histogram(scores.score), self.principal_ranks.histogram(scores.pca)]
        return torch.cat([temperatures.double().flatten(), *histograms])

    def calibrate(self, sums: Tensor) -> None:
        """Set the probe's temperatures and the percentile ranks of both scores, from sums over the validation split."""
        num_losses = len(self.linear_probe.head_sizes) * len(TEMPERATURES)
        self.linear_probe.calibrate(sums[:num_losses].reshape(-1, len(TEMPERATURES)))
        own, principal = sums[num_losses:].chunk(2)
        self.latents.update_axes()
        self.ranks.fit(own)
        self.principal_ranks.fit(principal)

    def predict(self, batch: Batch) -> list[Prediction]:
        """Predictions of the linear probe with the embedding and the anomaly score; in full precision."""
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
        anomalies = [AnomalyScore(**dict(zip(columns, row, strict=True))) for row in rows]
        predictions = self.linear_probe.predict(batch)
        return [
            dataclasses.replace(prediction, anomaly=anomaly)
            for prediction, anomaly in zip(predictions, anomalies, strict=True)
        ]

    def embed(self, batch: Batch) -> Tensor:
        """L2-normalised embeddings [B, D]; similar images have a high cosine similarity."""
        return self.linear_probe.embed(batch)

    def anomaly_scores(self, batch: Batch) -> AnomalyScores:
        """The anomaly scores of a batch."""
        images = self.normalise(batch.pixels)
        latents = self.encoder(channels_last(images))
        return self._anomaly_scores(images, latents, self.decoder(latents))

    def normalise(self, pixels_BCSS: Tensor) -> Tensor:
        """Standardise pixels 0 .. 255 by channel."""
        return self.linear_probe.normalise(pixels_BCSS)

    def _anomaly_scores(self, images_BCSS: Tensor, latents_BD: Tensor, reconstructed_BCSS: Tensor) -> AnomalyScores:
        outlines = edge_histogram(images_BCSS)
        return AnomalyScores(
            reconstruction=self.edge_error.relative(_mean_square(outlines - edge_histogram(reconstructed_BCSS))),
            latent=self.latents.distance(latents_BD),
            outline=self.outlines.distance(outlines),
            pca=self.principal_error.relative(pca_residual(self.principal, images_BCSS)),
        )

    @torch.no_grad()
    def _update_running_statistics(self, images_BCSS: Tensor) -> None:
        with torch.autocast(images_BCSS.device.type, enabled=False):
            latents = self.encoder(channels_last(images_BCSS))
            self.latents.update(latents)
            reconstructed = self.decoder(latents)
            self.edge_error.update(_mean_square(edge_histogram(images_BCSS) - edge_histogram(reconstructed)))


def fit_statistics(network: Autoencoder, data: Prepared, schema: Schema) -> None:
    """Fit what does not depend on the encoder: the statistics of the edge histograms and the PCA baseline."""
    examples = dataset(data, "train", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    pixels = collate(evenly(examples, LINEAR_BASELINE_IMAGES)).pixels
    principal = network.principal
    with torch.no_grad():
        # In blocks: as floats, large images would take gigabytes.
        blocks = torch.split(pixels, BLOCK_SIZE)
        network.outlines.update(torch.cat([edge_histogram(network.normalise(block)) for block in blocks]))
        network.outlines.update_axes()
        principal.fit(torch.cat([principal.pixels(network.normalise(block)) for block in blocks]))
        network.principal_error.update(
            torch.cat([pca_residual(principal, network.normalise(block)) for block in blocks])
        )


def _mean_square(differences_BN: Tensor) -> Tensor:
    return differences_BN.square().mean(1)
