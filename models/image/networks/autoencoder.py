"""A denoising autoencoder: it learns what pictures look like without labels, and says which ones look like no other.

The embedding and the score of strangeness come from pictures alone. Labels are only read off the finished embedding, by
a linear layer whose gradient never reaches it, so that this network is judged, promoted and asked like any other.

Shapes: B pictures, C channels, S side, D latent numbers, H heads, T temperatures, N bins of scores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks.anomaly import NUM_EDGES, STRANGE, Ranks, Spread, Strangeness, Typical, edges, residual
from models.image.networks.baselines import Projection
from models.image.networks.classifier import (
    BLOCK_SIZE,
    LINEAR_PICTURES,
    TEMPERATURES,
    Recogniser,
    Recognition,
    channels_last,
)
from models.image.networks.encoder import Decoder, Encoder, Frozen
from models.image.schema import Schema
from models.image.similarity_index import Catalogue
from models.metrics import BatchMetrics, Ratio
from models.prepared import Prepared
from models.sampling import evenly

WATCHED_PICTURES = 32
"""Pictures of each training batch, the first ones, without noise, from which the running statistics are taken."""


@dataclass(frozen=True)
class Anomaly:
    """How strange each of B pictures is: parts in units of the training pictures' mean, so that 1 is ordinary."""

    reconstruction: Tensor
    """Error of the edges when the picture is put together from its latent."""
    latent: Tensor
    """Squared Mahalanobis distance of the latent."""
    outline: Tensor
    """Squared distance of the picture's edges, half whitened; nothing of it is learnt by the network."""
    pca: Tensor
    """Error when it is put together from principal components alone: the plain score, to compare with."""

    @property
    def score(self) -> Tensor:
        """Mean of the three parts."""
        return (self.reconstruction + self.latent + self.outline) / 3


class Autoencoder(nn.Module):
    """Satisfies models.family.Network."""

    catalogue: Catalogue | None = None
    """Products to compare pictures with, where it is served with an index."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(channels=schema.channels, size=schema.size, width=config.width, dim=config.latent)
        self.decoder = Decoder(self.encoder)
        # What the encoder does not see in training would only blur what is read off it.
        plain = dataclasses.replace(config, flip=False, shift=0, cut_out=0)
        self.reader = Recogniser(plain, schema, Frozen(self.encoder))
        self.principal = Projection(channels=schema.channels, size=schema.size)
        self.latents = Spread(config.latent, whitening=1.0)
        self.outlines = Spread(NUM_EDGES, whitening=0.5)
        self.edge_error = Typical()
        self.principal_error = Typical()
        self.ranks, self.principal_ranks = Ranks(), Ranks()

    def forward(self, batch: Batch) -> Tensor:
        """Mean squared error of the pictures, put together from noisy ones, and the reader's cross-entropy."""
        pictures = self.normalise(batch.pixels)
        # Some pictures get little noise, so that the network knows clean ones too.
        levels = self.config.noise * torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
        noisy = pictures + levels * torch.randn_like(pictures)
        found = self.decoder(self.encoder(channels_last(noisy)))
        if self.training:
            self._watch(pictures[:WATCHED_PICTURES])
        loss: Tensor = F.mse_loss(found.float(), pictures) + self.reader(batch)
        return loss

    def evaluate(self, batch: Batch) -> BatchMetrics:
        """What the reader scores, the share of the pixels' variance that is lost, and of pictures that are strange."""
        read = self.reader.evaluate(batch)
        pictures = self.normalise(batch.pixels)
        latents = self.encoder(channels_last(pictures))
        found = self.decoder(latents)
        anomaly = self._anomaly(pictures, latents, found)
        ones = torch.ones(len(pictures), dtype=torch.float64, device=pictures.device)
        added = {
            "reconstruction_error": (found - pictures).square().mean((1, 2, 3)),
            "strange_share": self.ranks(anomaly.score) > STRANGE,
            "strange_share_pca": self.principal_ranks(anomaly.pca) > STRANGE,
        }
        metrics = {name: Ratio(value.double(), ones) for name, value in added.items()}
        return BatchMetrics({**read.ratios, **metrics}, read.accumulators)

    def calibration(self, batch: Batch) -> Tensor:
        """Log loss [H * T] of the reader for each temperature, and pictures [2 * N] by the bin of both scores."""
        self.latents.settle()
        temperatures = self.reader.calibration(batch)
        assert temperatures is not None, "a reader has temperatures to choose"
        anomaly = self.anomaly(batch)
        counts = [self.ranks.counts(anomaly.score), self.principal_ranks.counts(anomaly.pca)]
        return torch.cat([temperatures.double().flatten(), *counts])

    def calibrate(self, sums: Tensor) -> None:
        """Take the best temperatures, and rank scores among those of the validation pictures."""
        num_losses = len(self.reader.head_sizes) * len(TEMPERATURES)
        self.reader.calibrate(sums[:num_losses].reshape(-1, len(TEMPERATURES)))
        own, principal = sums[num_losses:].chunk(2)
        self.latents.settle()
        self.ranks.set(own)
        self.principal_ranks.set(principal)

    def predict(self, batch: Batch) -> list[Recognition]:
        """What the reader recognises, the embedding and the strangeness; always in full precision."""
        anomaly = self.anomaly(batch)
        ranks = self.ranks(anomaly.score)
        columns = {
            "unlike": ranks > STRANGE,
            "score": anomaly.score,
            "rank": ranks,
            "reconstruction": anomaly.reconstruction,
            "latent": anomaly.latent,
            "outline": anomaly.outline,
            "pca_score": anomaly.pca,
            "pca_rank": self.principal_ranks(anomaly.pca),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        strangeness = [Strangeness(**dict(zip(columns, row, strict=True))) for row in rows]
        read = self.reader.predict(batch)
        return [dataclasses.replace(one, strangeness=how) for one, how in zip(read, strangeness, strict=True)]

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B, D] of length one: pictures that look alike lie near each other."""
        return self.reader.embed(batch)

    def anomaly(self, batch: Batch) -> Anomaly:
        """How strange each picture is."""
        pictures = self.normalise(batch.pixels)
        latents = self.encoder(channels_last(pictures))
        return self._anomaly(pictures, latents, self.decoder(latents))

    def normalise(self, pixels_BCSS: Tensor) -> Tensor:
        """Pixels 0 .. 255 as floats of mean 0 and deviation 1 in each channel."""
        return self.reader.normalise(pixels_BCSS)

    def _anomaly(self, pictures_BCSS: Tensor, latents_BD: Tensor, found_BCSS: Tensor) -> Anomaly:
        outlines = edges(pictures_BCSS)
        return Anomaly(
            reconstruction=self.edge_error.relative(_mean_square(outlines - edges(found_BCSS))),
            latent=self.latents.distance(latents_BD),
            outline=self.outlines.distance(outlines),
            pca=self.principal_error.relative(residual(self.principal, pictures_BCSS)),
        )

    @torch.no_grad()
    def _watch(self, pictures_BCSS: Tensor) -> None:
        with torch.autocast(pictures_BCSS.device.type, enabled=False):
            latents = self.encoder(channels_last(pictures_BCSS))
            self.latents.update(latents)
            found = self.decoder(latents)
            self.edge_error.update(_mean_square(edges(pictures_BCSS) - edges(found)))


def fit_statistics(network: Autoencoder, data: Prepared, schema: Schema) -> None:
    """Set what needs no network: the spread of the outlines, and the principal components to compare with."""
    examples = dataset(data, "train", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    pixels = collate(evenly(examples, LINEAR_PICTURES)).pixels
    principal = network.principal
    with torch.no_grad():
        # Block by block: as floats, large pictures would take gigabytes.
        blocks = torch.split(pixels, BLOCK_SIZE)
        network.outlines.update(torch.cat([edges(network.normalise(block)) for block in blocks]))
        network.outlines.settle()
        principal.fit(torch.cat([principal.pixels(network.normalise(block)) for block in blocks]))
        network.principal_error.update(torch.cat([residual(principal, network.normalise(block)) for block in blocks]))


def _mean_square(differences_BN: Tensor) -> Tensor:
    return differences_BN.square().mean(1)
