"""A variational autoencoder over bags of items: reconstructs a user's bag from a random part of it.

Mult-VAE (Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018): the encoder gives the mean
and the variance of a normal latent vector, the decoder turns a sample of it into a multinomial over all items, and the
loss is the negative log-likelihood of the bag plus the KL divergence from a standard normal, whose weight is annealed
and stays below 1. Two differences: the share of the bag that is masked is drawn for each bag instead of fixed at half,
so that short histories are trained on too, and a user whose events span several training rows is one bag per row.

Shapes: S bags, N items of all bags, H hidden width, D latent width, V items + 1 (index 0 is padding).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.nn.layers import Dropout
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.event_weights import event_weights, loss_weights
from models.recommender.networks.bags import Bags, bags_of_histories, bags_of_rows
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.schema import Schema

HIDDEN_FACTOR = 4
"""Width of the hidden layers and of the item embeddings, in units of `dim`."""
KL_WEIGHT = 0.2
"""Weight of the KL term once annealed; the paper's value on all its data sets."""
KL_STEPS_SHARE = 0.5
"""Share of all steps over which that weight rises from zero."""
CHUNK_BAGS = 256
"""Bags whose logits are in memory at one time; the backward pass recomputes them."""


class Autoencoder(nn.Module):
    """One of the learners of a Recommender, with NextItem and Gan."""

    steps: Tensor
    type_weights: Tensor | None

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        hidden = HIDDEN_FACTOR * config.dim
        self.num_rows = schema.num_items + 1
        self.items = ItemEmbedding(schema, hidden)
        self.items_bias = nn.Parameter(torch.zeros(hidden))
        self.posterior = nn.Linear(hidden, 2 * config.dim)
        self.widen = nn.Linear(config.dim, hidden)
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(hidden, schema.num_items)
        self.kl_steps = max(1, round(KL_STEPS_SHARE * _num_steps(config, schema)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        weights = loss_weights(event_weights(config.weights, schema), schema)
        self.register_buffer("type_weights", weights, persistent=False)

    def loss(self, batch: Rows) -> Tensor:
        """Negative evidence lower bound of the rows' bags, averaged over their items, which their types weight."""
        bags = bags_of_rows(batch, self.num_rows, self.type_weights)
        mean_SD, log_variance_SD = self._encode(bags.mask())
        latent_SD = mean_SD + torch.randn_like(mean_SD) * (log_variance_SD / 2).exp()
        hidden_SH = self._decode(latent_SD)
        reconstruction = torch.zeros((), device=hidden_SH.device)
        ends = bags.sizes.cumsum(0).tolist()
        for start in range(0, len(ends), CHUNK_BAGS):
            stop = min(start + CHUNK_BAGS, len(ends))
            among = slice(ends[start - 1] if start else 0, ends[stop - 1])
            weights_N = None if bags.weights is None else bags.weights[among]
            chunk = hidden_SH[start:stop], bags.owner[among] - start, bags.items[among], weights_N
            reconstruction = reconstruction + checkpoint(
                self._negative_log_likelihood, *chunk, use_reentrant=False, preserve_rng_state=False
            )
        divergence = (log_variance_SD.exp() + mean_SD.square() - 1 - log_variance_SD).sum() / 2
        return (reconstruction + self._kl_weight() * divergence) / len(bags.items)

    def log_scores(self, batch: Histories) -> Tensor:
        """Log-probabilities [B, V - 1] of the user's items, given those of the history; without padding."""
        with torch.autocast(batch.items.device.type, enabled=False):
            mean_BD, _ = self._encode(bags_of_histories(batch, self.num_rows, self.type_weights))
            return torch.log_softmax(self.output(self._decode(mean_BD)), 1)

    def _encode(self, bags: Bags) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent vector, [S, D] each."""
        hidden_SH = torch.tanh(bags.embed(self.items.table()) + self.items_bias)
        mean_SD, log_variance_SD = self.posterior(hidden_SH).float().chunk(2, 1)
        return mean_SD, log_variance_SD

    def _decode(self, latent_SD: Tensor) -> Tensor:
        hidden_SH: Tensor = self.dropout(torch.tanh(self.widen(latent_SD)))
        return hidden_SH

    def _negative_log_likelihood(
        self, hidden_SH: Tensor, owner_N: Tensor, items_N: Tensor, weights_N: Tensor | None
    ) -> Tensor:
        """Summed over the items."""
        log_probability = torch.log_softmax(self.output(hidden_SH).float(), 1)[owner_N, items_N - 1]
        return -(log_probability if weights_N is None else weights_N * log_probability).sum()

    def _kl_weight(self) -> Tensor:
        if self.training:
            self.steps += 1
        return KL_WEIGHT * (self.steps / self.kl_steps).clamp_max(1)


def _num_steps(config: Config, schema: Schema) -> int:
    """Approximate number of optimizer steps of a run."""
    return config.epochs * math.ceil(schema.num_examples["train"] / (config.max_length * config.batch_size))
