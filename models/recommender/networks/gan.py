"""Two players over bags: a generator scores items so well that a discriminator takes its baskets for real ones.

CFGAN (Chae et al., "CFGAN: a generic collaborative filtering framework based on generative adversarial networks",
CIKM 2018), with both of its remedies against a generator that says yes to everything: some items that the shopper did
not take are drawn, the discriminator sees what the generator says of them (partial masking), and the generator is
pulled to zero there (zero-reconstruction, here by the logistic loss). One step trains both players: the discriminator
sees fakes without a gradient to the generator, the generator sees a discriminator whose weights are detached.

What differs from the paper, so that one optimiser and hundreds of steps do for what took it two and tens of thousands:
- The generator and the discriminator are told a random part of the bag, and have to know the whole.
- The generator is pulled to one at the items taken, too, as conditional GANs commonly are to what they should give
  (pix2pix, Isola et al., CVPR 2017).
- The players' losses are least squares (Mao et al., "Least squares generative adversarial networks", ICCV 2017), and
  the discriminator compares what it is told with what it sees by a product (Miyato and Koyama, "cGANs with projection
  discriminator", ICLR 2018): with the paper's, one player won and the other's gradient was gone.
- The items not taken are drawn once for the whole batch: a matrix product, whatever the catalogue's size.

Shapes: S bags, N items of all bags, M drawn items, H hidden width, V items + 1 (index 0 is padding).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.nn.layers import Dropout
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.networks.bags import Bags, bags_of_histories, bags_of_rows
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.schema import PADDING, Schema

HIDDEN_FACTOR = 4
"""Width of the hidden layers and of the item embeddings, in units of `dim`."""
DRAWN_ITEMS = 1024
"""Items drawn for a step."""
ADVERSARIAL_WEIGHT = 0.1
"""Weight of the discriminator's verdict in the generator's loss, beside the reconstruction; at 1 they oscillate."""


class Gan(nn.Module):
    """One of the three things that learn in a Recommender; the others are NextItem and Autoencoder."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.num_rows, hidden = schema.num_items + 1, HIDDEN_FACTOR * config.dim
        self.items = ItemEmbedding(schema, hidden)
        self.generator = Pairs(self.num_rows, hidden, dropout=config.dropout)
        self.discriminator = Discriminator(self.num_rows, hidden)

    def loss(self, batch: Rows) -> Tensor:
        """The discriminator's loss and the generator's, added."""
        bags = bags_of_rows(batch, self.num_rows)
        drawn_M = torch.randperm(self.num_rows - 1, device=batch.items.device)[:DRAWN_ITEMS] + 1
        absent_SM = _absent(bags, drawn_M, self.num_rows)
        told = bags.hide()
        scores_N, scores_SM = self.generator(told.embed(self.items.table()), bags, drawn_M)
        fake_N, fake_SM = torch.sigmoid(scores_N), torch.sigmoid(scores_SM) * absent_SM

        truth = self.discriminator(told, bags, drawn_M, torch.ones_like(fake_N), torch.zeros_like(fake_SM))
        caught = self.discriminator(told, bags, drawn_M, fake_N.detach(), fake_SM.detach())
        told_apart = (truth - 1).square().mean() + caught.square().mean()

        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        verdict_S: Tensor = functional_call(self.discriminator, frozen, (told, bags, drawn_M, fake_N, fake_SM))
        missed = F.softplus(-scores_N).sum() + (F.softplus(scores_SM) * absent_SM).sum()
        fooled = ADVERSARIAL_WEIGHT * (verdict_S - 1).square().mean() + missed / len(bags.items)
        loss: Tensor = told_apart + fooled
        return loss

    def log_scores(self, batch: Histories) -> Tensor:
        """The generator's scores for the history as log-probabilities [B, V - 1], without padding."""
        with torch.autocast(batch.items.device.type, enabled=False):
            bags = bags_of_histories(batch, self.num_rows)
            return torch.log_softmax(self.generator.every(bags.embed(self.items.table())), 1)


class Pairs(nn.Module):
    """Scores for pairs of a bag, given its embedding, and an item; both players are made of it."""

    def __init__(self, num_rows: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.mix = nn.Linear(hidden, hidden)
        # Without it the wish for low scores everywhere saturates the hidden layer before it tells bags apart.
        self.norm = nn.LayerNorm(hidden)
        self.dropout = Dropout(dropout)
        self.items = nn.Embedding(num_rows, hidden, padding_idx=PADDING)
        nn.init.normal_(self.items.weight, std=hidden**-0.5)
        self.items_bias = nn.Parameter(torch.zeros(num_rows))

    def forward(self, told_SH: Tensor, bags: Bags, drawn_M: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the bags' own items [N], and of the drawn ones for every bag [S, M]."""
        key_SH = self._key(told_SH)
        own_N = (key_SH[bags.owner] * self.items(bags.items)).sum(1) + self.items_bias[bags.items]
        drawn_SM = key_SH @ self.items(drawn_M).T + self.items_bias[drawn_M]
        return own_N.float(), drawn_SM.float()

    def every(self, told_SH: Tensor) -> Tensor:
        """Scores of all items, [S, V - 1], without padding."""
        scores: Tensor = self._key(told_SH) @ self.items.weight[1:].T + self.items_bias[1:]
        return scores

    def _key(self, told_SH: Tensor) -> Tensor:
        key_SH: Tensor = self.dropout(self.norm(self.mix(torch.tanh(told_SH + self.bias))))
        return key_SH


class Discriminator(nn.Module):
    """Told a part of a bag and shown a value for each item, says how real the values are: near 1 for real ones."""

    def __init__(self, num_rows: int, hidden: int) -> None:
        super().__init__()
        self.told = nn.Embedding(num_rows, hidden, padding_idx=PADDING)
        nn.init.normal_(self.told.weight, std=hidden**-0.5)
        self.pairs = Pairs(num_rows, hidden)
        # A sum over a bag of products of vectors moves far in one step; so divided, the verdict does not run away.
        self.scale = hidden**-0.5

    def forward(self, told: Bags, bags: Bags, drawn_M: Tensor, own_N: Tensor, drawn_SM: Tensor) -> Tensor:
        """Verdict [S] on the values of the bags' own items [N] and of the drawn ones [S, M], 0 for those in the bag."""
        weight_N, weight_SM = self.pairs(told.embed(self.told.weight), bags, drawn_M)
        own_S = torch.zeros_like(bags.sizes, dtype=weight_N.dtype).index_add(0, bags.owner, weight_N * own_N)
        verdict_S: Tensor = self.scale * (own_S + (weight_SM * drawn_SM).sum(1)) / bags.sizes.clamp_min(1).sqrt()
        return verdict_S


def _absent(bags: Bags, drawn_M: Tensor, num_rows: int) -> Tensor:
    """1 where a drawn item is not in the bag, else 0: [S, M]."""
    place_V = drawn_M.new_full((num_rows,), -1)
    place_V[drawn_M] = torch.arange(len(drawn_M), device=drawn_M.device)
    place_N = place_V[bags.items]
    absent_SM = torch.ones(len(bags.sizes), len(drawn_M), device=drawn_M.device)
    absent_SM[bags.owner[place_N >= 0], place_N[place_N >= 0]] = 0
    return absent_SM
