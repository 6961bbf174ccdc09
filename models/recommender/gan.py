"""Two players over bags: a generator scores items so well that a discriminator takes its baskets for real ones.

CFGAN (Chae et al., "CFGAN: a generic collaborative filtering framework based on generative adversarial networks",
CIKM 2018), with both of its remedies against a generator that says yes to everything: some items that the shopper did
not take are drawn, the discriminator sees what the generator says of them (partial masking), and the generator is
pulled to zero there (zero-reconstruction). One step trains both players: the discriminator sees fakes without a
gradient to the generator, the generator sees a discriminator whose weights are detached. Three things differ from the
paper. The items not taken are drawn once for the whole batch, so that they cost a matrix product whatever the
catalogue's size. A random part of the bag is hidden from the generator, which keeps it from copying. And the generator
minimises -log D(fake) instead of log(1 - D(fake)), whose gradient vanishes while the discriminator wins (Goodfellow et
al., "Generative adversarial nets", NeurIPS 2014).

Shapes: S bags, N items of all bags, M drawn items, H hidden width, V items + 1 (index 0 is padding).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.layers import Dropout
from models.recommender.bags import Bags, bags_of_histories, bags_of_rows
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.schema import PADDING, Schema

HIDDEN_FACTOR = 4
"""Width of the hidden layers and of the item embeddings, in units of `dim`."""
DRAWN_ITEMS = 1024
"""Items drawn for a step, which those bags that do not hold them are told apart by."""
ZERO_WEIGHT = 1.0
"""Weight of the zero-reconstruction."""


class Gan(nn.Module):
    """One of the three things that learn in a Recommender; the others are NextItem and Autoencoder."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        hidden = HIDDEN_FACTOR * config.dim
        self.num_rows = schema.num_items + 1
        self.items = nn.Embedding(self.num_rows, hidden, padding_idx=PADDING)
        nn.init.normal_(self.items.weight, std=hidden**-0.5)
        self.items_bias = nn.Parameter(torch.zeros(hidden))
        self.mix = nn.Linear(hidden, hidden)
        self.dropout = Dropout(config.dropout)
        self.output = nn.Embedding(self.num_rows, hidden)
        nn.init.normal_(self.output.weight, std=hidden**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(self.num_rows))
        self.discriminator = Discriminator(num_rows=self.num_rows, hidden=hidden)

    def loss(self, batch: Rows) -> Tensor:
        """The discriminator's loss plus the generator's, both means over the rows' bags."""
        bags = bags_of_rows(batch, self.num_rows)
        drawn_M = torch.randperm(self.num_rows - 1, device=batch.items.device)[:DRAWN_ITEMS] + 1
        absent_SM = _absent(bags, drawn_M, self.num_rows)
        hidden_SH = self._hidden(bags.hide())
        taken_N = torch.sigmoid(self._scores_of_bags(hidden_SH, bags))
        not_taken_SM = torch.sigmoid(self._scores(hidden_SH, drawn_M)) * absent_SM

        real_S = self.discriminator(bags, torch.ones_like(taken_N), drawn_M, torch.zeros_like(not_taken_SM))
        fake_S = self.discriminator(bags, taken_N.detach(), drawn_M, not_taken_SM.detach())
        told_apart = (F.softplus(-real_S) + F.softplus(fake_S)).mean()

        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        seen_S = functional_call(self.discriminator, frozen, (bags, taken_N, drawn_M, not_taken_SM))
        zeros = not_taken_SM.square().sum() / absent_SM.sum().clamp_min(1)
        return told_apart + F.softplus(-seen_S).mean() + ZERO_WEIGHT * zeros

    def log_scores(self, batch: Histories) -> Tensor:
        """The generator's scores for the history as log-probabilities [B, V - 1], without padding."""
        hidden_BH = self._hidden(bags_of_histories(batch, self.num_rows))
        return torch.log_softmax(hidden_BH @ self.output.weight[1:].T + self.output_bias[1:], 1)

    def _hidden(self, bags: Bags) -> Tensor:
        hidden_SH = torch.tanh(bags.embed(self.items.weight) + self.items_bias)
        mixed_SH: Tensor = self.dropout(torch.tanh(self.mix(hidden_SH)))
        return mixed_SH

    def _scores_of_bags(self, hidden_SH: Tensor, bags: Bags) -> Tensor:
        """Score [N] of each item of each bag."""
        scores_N: Tensor = (hidden_SH[bags.owner] * self.output(bags.items)).sum(1) + self.output_bias[bags.items]
        return scores_N

    def _scores(self, hidden_SH: Tensor, items_M: Tensor) -> Tensor:
        """Score [S, M] of the same items for every bag."""
        scores_SM: Tensor = hidden_SH @ self.output(items_M).T + self.output_bias[items_M]
        return scores_SM


class Discriminator(nn.Module):
    """Told a bag and a value for each of its items and of the drawn ones, says how real the values are: [S] logits."""

    def __init__(self, *, num_rows: int, hidden: int) -> None:
        super().__init__()
        self.condition = nn.Embedding(num_rows, hidden, padding_idx=PADDING)
        self.values = nn.Embedding(num_rows, hidden, padding_idx=PADDING)
        for table in (self.condition, self.values):
            nn.init.normal_(table.weight, std=hidden**-0.5)
        self.mix = nn.Linear(hidden, hidden)
        self.verdict = nn.Linear(hidden, 1)

    def forward(self, bags: Bags, taken_N: Tensor, drawn_M: Tensor, not_taken_SM: Tensor) -> Tensor:
        """Values of the bags' own items [N] and of the drawn ones [S, M], 0 for those in the bag."""
        other_SH = not_taken_SM @ self.values(drawn_M) / bags.sizes.clamp_min(1).sqrt()[:, None]
        seen_SH = bags.embed(self.condition.weight) + bags.embed(self.values.weight, taken_N) + other_SH
        verdict_S: Tensor = self.verdict(F.relu(self.mix(F.relu(seen_SH)))).squeeze(1)
        return verdict_S


def _absent(bags: Bags, drawn_M: Tensor, num_rows: int) -> Tensor:
    """1 where a drawn item is not in the bag, else 0: [S, M]."""
    place_V = drawn_M.new_full((num_rows,), -1)
    place_V[drawn_M] = torch.arange(len(drawn_M), device=drawn_M.device)
    place_N = place_V[bags.items]
    absent_SM = torch.ones(len(bags.sizes), len(drawn_M), device=drawn_M.device)
    absent_SM[bags.owner[place_N >= 0], place_N[place_N >= 0]] = 0
    return absent_SM
