"""A GAN over bags of items: a generator scores items so that a discriminator takes the scores for real interactions.

CFGAN (Chae et al., "CFGAN: a generic collaborative filtering framework based on generative adversarial networks",
CIKM 2018), with both of its remedies against a generator that scores every item high: some items outside the bag are
sampled, the discriminator sees the generator's scores of them (partial masking), and the generator is regularised
towards zero there (zero-reconstruction, here with the logistic loss). One step trains both networks: the discriminator
sees generated scores without a gradient to the generator, the generator sees a discriminator with detached weights.

Differences from the paper, so that one optimizer and hundreds of steps replace its two and tens of thousands:
- Generator and discriminator are conditioned on a random part of the bag, and have to reconstruct all of it.
- The generator is also regularised towards one at the items of the bag, as conditional GANs commonly are towards the
  ground truth (pix2pix, Isola et al., CVPR 2017).
- The adversarial losses are least squares (Mao et al., "Least squares generative adversarial networks", ICCV 2017), and
  the discriminator multiplies its condition with the values it sees (Miyato and Koyama, "cGANs with projection
  discriminator", ICLR 2018): with the paper's losses one network won and the gradient of the other vanished.
- The items outside the bags are sampled once for the whole batch: one matrix product, whatever the catalogue's size.

Shapes: S bags, N items of all bags, M sampled items, H hidden width, V items + 1 (index 0 is padding).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.nn.layers import Dropout
from models.nn.state_dict import rename_on_load
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.event_weights import event_weights, loss_weights
from models.recommender.networks.bags import Bags, bags_of_histories, bags_of_rows
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.schema import PADDING, Schema

HIDDEN_FACTOR = 4
"""Width of the hidden layers and of the item embeddings, in units of `dim`."""
NUM_SAMPLED_ITEMS = 1024
"""Items sampled per step."""
ADVERSARIAL_WEIGHT = 0.1
"""Weight of the adversarial term in the generator's loss, next to the reconstruction; at 1 training oscillates."""


class Gan(nn.Module):
    """One of the learners of a Recommender, with NextItem and Autoencoder."""

    type_weights: Tensor | None

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.num_rows, hidden = schema.num_items + 1, HIDDEN_FACTOR * config.dim
        self.items = ItemEmbedding(schema, hidden)
        self.generator = BagItemScorer(self.num_rows, hidden, dropout=config.dropout)
        self.discriminator = Discriminator(self.num_rows, hidden)
        weights = loss_weights(event_weights(config.weights, schema), schema)
        self.register_buffer("type_weights", weights, persistent=False)

    def loss(self, batch: Rows) -> Tensor:
        """The sum of the discriminator's and the generator's loss."""
        bags = bags_of_rows(batch, self.num_rows, self.type_weights)
        sampled_M = torch.randperm(self.num_rows - 1, device=batch.items.device)[:NUM_SAMPLED_ITEMS] + 1
        absent_SM = _absent(bags, sampled_M, self.num_rows)
        condition = bags.mask()
        logits_N, logits_SM = self.generator(condition.embed(self.items.table()), bags, sampled_M)
        fake_N, fake_SM = torch.sigmoid(logits_N), torch.sigmoid(logits_SM) * absent_SM

        real_score_S = self.discriminator(
            condition, bags, sampled_M, torch.ones_like(fake_N), torch.zeros_like(fake_SM)
        )
        fake_score_S = self.discriminator(condition, bags, sampled_M, fake_N.detach(), fake_SM.detach())
        discriminator_loss = (real_score_S - 1).square().mean() + fake_score_S.square().mean()

        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        score_S: Tensor = functional_call(self.discriminator, frozen, (condition, bags, sampled_M, fake_N, fake_SM))
        missed_N = F.softplus(-logits_N)
        if bags.weights is not None:
            missed_N = missed_N * bags.weights
        reconstruction = missed_N.sum() + (F.softplus(logits_SM) * absent_SM).sum()
        generator_loss = ADVERSARIAL_WEIGHT * (score_S - 1).square().mean() + reconstruction / len(bags.items)
        loss: Tensor = discriminator_loss + generator_loss
        return loss

    def log_scores(self, batch: Histories) -> Tensor:
        """The generator's scores for the history as log-probabilities [B, V - 1], without padding."""
        with torch.autocast(batch.items.device.type, enabled=False):
            bags = bags_of_histories(batch, self.num_rows, self.type_weights)
            return torch.log_softmax(self.generator.all_logits(bags.embed(self.items.table())), 1)


class BagItemScorer(nn.Module):
    """Logits for pairs of a bag, given its embedding, and an item; a part of both networks."""

    def __init__(self, num_rows: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.mix = nn.Linear(hidden, hidden)
        # Without it the pressure towards low scores saturates the hidden layer before it distinguishes bags.
        self.norm = nn.LayerNorm(hidden)
        self.dropout = Dropout(dropout)
        self.items = nn.Embedding(num_rows, hidden, padding_idx=PADDING)
        nn.init.normal_(self.items.weight, std=hidden**-0.5)
        self.items_bias = nn.Parameter(torch.zeros(num_rows))

    def forward(self, bag_SH: Tensor, bags: Bags, sampled_M: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the bags' own items [N], and of the sampled ones for every bag [S, M]."""
        query_SH = self._query(bag_SH)
        own_N = (query_SH[bags.owner] * self.items(bags.items)).sum(1) + self.items_bias[bags.items]
        sampled_SM = query_SH @ self.items(sampled_M).T + self.items_bias[sampled_M]
        return own_N.float(), sampled_SM.float()

    def all_logits(self, bag_SH: Tensor) -> Tensor:
        """Logits of all items, [S, V - 1], without padding."""
        logits: Tensor = self._query(bag_SH) @ self.items.weight[1:].T + self.items_bias[1:]
        return logits

    def _query(self, bag_SH: Tensor) -> Tensor:
        query_SH: Tensor = self.dropout(self.norm(self.mix(torch.tanh(bag_SH + self.bias))))
        return query_SH


class Discriminator(nn.Module):
    """Scores how real a value per item looks, given a part of the bag as the condition: near 1 for real values."""

    def __init__(self, num_rows: int, hidden: int) -> None:
        super().__init__()
        self.condition = nn.Embedding(num_rows, hidden, padding_idx=PADDING)
        nn.init.normal_(self.condition.weight, std=hidden**-0.5)
        self.scorer = BagItemScorer(num_rows, hidden)
        # The score sums dot products over a bag; unscaled, one step moves it so far that training diverges.
        self.scale = hidden**-0.5
        rename_on_load(self, {"told.": "condition.", "pairs.": "scorer."})  # names until release 0.1

    def forward(self, condition: Bags, bags: Bags, sampled_M: Tensor, own_N: Tensor, sampled_SM: Tensor) -> Tensor:
        """Score [S] of the values of the bags' own items [N] and of the sampled ones [S, M], 0 for those in the bag."""
        weight_N, weight_SM = self.scorer(condition.embed(self.condition.weight), bags, sampled_M)
        own_S = torch.zeros_like(bags.sizes, dtype=weight_N.dtype).index_add(0, bags.owner, weight_N * own_N)
        score_S: Tensor = self.scale * (own_S + (weight_SM * sampled_SM).sum(1)) / bags.sizes.clamp_min(1).sqrt()
        return score_S


def _absent(bags: Bags, sampled_M: Tensor, num_rows: int) -> Tensor:
    """1 where a sampled item is not in the bag, else 0: [S, M]."""
    column_V = sampled_M.new_full((num_rows,), -1)
    column_V[sampled_M] = torch.arange(len(sampled_M), device=sampled_M.device)
    column_N = column_V[bags.items]
    absent_SM = torch.ones(len(bags.sizes), len(sampled_M), device=sampled_M.device)
    absent_SM[bags.owner[column_N >= 0], column_N[column_N >= 0]] = 0
    return absent_SM
