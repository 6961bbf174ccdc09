"""The network that learns the polarity of a given term: weighted n-grams, opinions near it, and a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import Dropout
from models.reviews.aspects.terms import (
    MOST_DISTANCE,
    NUM_GRAMS,
    NUM_OPINIONS,
    NUM_WIDE,
    NUM_WORDS,
    Floats,
    Ints,
    TermInputs,
)

POLARITIES = ("negative", "neutral", "positive")
NEUTRAL = POLARITIES.index("neutral")
BLOCK = 512
WIDE_SCALE = 3.0
"""n-grams of a term have length 1; so much longer they fit as well as opinions, which are counts."""


@dataclass(frozen=True)
class PolaritySettings:
    """How the network is trained."""

    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    wide_penalty: float = 3.0
    """L2 penalty of the n-grams' weights, as in a logistic regression with C = 1 / penalty."""
    bayes: float = 0.1
    """How much of the naive-Bayes ratios the n-grams' weights start with, and are pulled to."""
    balance: float = 0.5
    """Classes are weighted by their frequency to the power of minus this; 0 is not at all, 1 evenly."""
    token_dropout: float = 0.15
    members: int = 1
    """Convolutions whose answers are averaged."""
    seed: int = 0


class _Convolution(nn.Module):
    """Logits from tokens: embeddings of words, their characters, distance and opinions; two convolutions; pooling."""

    def __init__(self, dim: int = 48, hidden: int = 64, dropout: float = 0.4, token_dropout: float = 0.15) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.words = nn.Embedding(NUM_WORDS, dim, padding_idx=0)
        self.grams = nn.Embedding(NUM_GRAMS, dim, padding_idx=0)
        self.distance = nn.Embedding(2 * MOST_DISTANCE + 2, 12, padding_idx=0)
        for table in (self.words, self.grams):
            nn.init.normal_(table.weight, std=0.1)
        self.first = nn.Conv1d(dim + 17, hidden, 3, padding=1)
        self.second = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.drop = Dropout(dropout)
        self.last = nn.Sequential(
            nn.Linear(4 * hidden + NUM_OPINIONS, 48), nn.GELU(), Dropout(dropout), nn.Linear(48, 3)
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits [B, 3]."""
        count = batch["grams"].ne(0).sum(-1, keepdim=True).clamp(min=1)
        embedded = self.words(batch["words"]) + self.grams(batch["grams"]).sum(2) / count.sqrt()
        if self.training:
            embedded = embedded * (torch.rand(embedded.shape[:2]) > self.token_dropout)[..., None]
        place = self.distance(batch["distance"])
        inputs = torch.cat([self.drop(embedded), place, batch["marks"]], -1).transpose(1, 2)
        hidden = F.gelu(self.first(inputs))
        hidden = (hidden + F.gelu(self.second(self.drop(hidden)))).transpose(1, 2)
        is_token = batch["distance"].ne(0)[..., None]
        away = (batch["distance"] - MOST_DISTANCE - 1).abs()[..., None]
        pooled = [
            _weighted(hidden, batch["marks"][..., 4:5]),
            _weighted(hidden, torch.exp(-away / 3.0) * is_token),
            _weighted(hidden, batch["marks"][..., 3:4]),
            hidden.masked_fill(~is_token, -1e4).amax(1),
        ]
        logits: Tensor = self.last(torch.cat([self.drop(torch.cat(pooled, -1)), batch["opinions"]], -1))
        return logits


class TermPolarity(nn.Module):
    """P(negative, neutral, positive) of terms: the mean of a wide part in log space and of convolutions.

    The wide part is a multinomial logistic regression of n-grams times naive-Bayes log-count ratios (Wang and Manning,
    2012) and of opinions. All that is learnt is in the state dict.
    """

    def __init__(self, members: int = 1, token_dropout: float = 0.15) -> None:
        super().__init__()
        self.register_buffer("rarity", torch.zeros(NUM_WIDE))
        self.wide = nn.Embedding(NUM_WIDE, 3, padding_idx=0)
        self.opinions = nn.Linear(NUM_OPINIONS, 3)
        self.deep = nn.ModuleList([_Convolution(token_dropout=token_dropout) for _ in range(members)])
        nn.init.zeros_(self.wide.weight)
        nn.init.zeros_(self.opinions.weight)
        nn.init.zeros_(self.opinions.bias)

    def wide_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the wide part [B, 3]."""
        weights = batch["wide_weights"] * self.get_buffer("rarity")[batch["wide"]]
        weights = weights / weights.norm(dim=1, keepdim=True).clamp(min=1e-6)
        summed = (self.wide(batch["wide"]) * weights[..., None]).sum(1)
        logits: Tensor = WIDE_SCALE * summed + self.opinions(batch["opinions"])
        return logits

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Log probabilities [B, 3]."""
        parts = [F.log_softmax(self.wide_logits(batch), -1)]
        parts += [F.log_softmax(one(batch), -1) for one in self.deep]
        weights = [0.5, *[0.5 / len(self.deep)] * len(self.deep)] if len(self.deep) else [1.0]
        mixed = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
        return F.log_softmax(mixed, -1)


def fit_polarity(inputs: TermInputs, labels: Ints, settings: PolaritySettings | None = None) -> TermPolarity:
    """A network trained on terms [N] with the labels 0 to 2 of POLARITIES."""
    assert len(inputs) == len(labels) and set(np.unique(labels)) <= {0, 1, 2}
    chosen = settings or PolaritySettings()
    torch.manual_seed(chosen.seed)
    network = TermPolarity(chosen.members, chosen.token_dropout)
    counts = np.maximum(np.bincount(labels, minlength=3), 1)
    balance = torch.from_numpy((len(labels) / 3 / counts) ** chosen.balance).float()
    _fit_wide(network, inputs, labels, balance, chosen)
    for number, one in enumerate(network.deep):
        _fit_deep(one, inputs, labels, balance, chosen, seed=1000 * chosen.seed + number)
    return network.eval()


def predict_polarity(network: TermPolarity, inputs: TermInputs) -> Floats:
    """Probabilities of POLARITIES for each term [N, 3]."""
    found = np.zeros((len(inputs), 3), np.float32)
    with torch.inference_mode():
        for start in range(0, len(inputs), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(inputs)))
            batch = {name: one.to(network.wide.weight.device) for name, one in _batch(inputs, rows).items()}
            found[rows] = network(batch).exp().cpu().numpy()
    return found


def _batch(inputs: TermInputs, rows: Ints) -> dict[str, Tensor]:
    return {name: torch.from_numpy(getattr(inputs, name)[rows]) for name in TermInputs.__dataclass_fields__}


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    """The mean over tokens with these weights [B, L, 1]."""
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def _fit_wide(
    network: TermPolarity, inputs: TermInputs, labels: Ints, balance: Tensor, settings: PolaritySettings
) -> None:
    """The logistic regression by L-BFGS over sparse rows; n-grams of one training term only are left out."""
    num = len(labels)
    seen = np.bincount(inputs.wide[inputs.wide > 0], minlength=NUM_WIDE)
    rarity = np.where(seen > 1, np.log(num / np.maximum(seen, 1)), 0.0).astype(np.float32)
    network.get_buffer("rarity").copy_(torch.from_numpy(rarity))
    rows, places = np.nonzero(inputs.wide * (rarity[inputs.wide] > 0))
    columns = inputs.wide[rows, places]
    weights = inputs.wide_weights[rows, places] * rarity[columns]
    weights /= np.sqrt(np.bincount(rows, weights**2, num)).clip(1e-6)[rows]
    start = settings.bayes * torch.from_numpy(_log_count_ratios(columns, labels[rows]))
    indices = torch.from_numpy(np.stack([rows, columns]))
    matrix = torch.sparse_coo_tensor(indices, torch.from_numpy(weights).float(), (num, NUM_WIDE), check_invariants=True)
    learnt = torch.zeros((NUM_WIDE, 3), requires_grad=True)
    opinions, targets = torch.from_numpy(inputs.opinions), torch.from_numpy(labels)
    parameters = [learnt, network.opinions.weight, network.opinions.bias]
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = WIDE_SCALE * (matrix @ (start + learnt)) + network.opinions(opinions)
        loss = F.cross_entropy(logits, targets, weight=balance, reduction="sum")
        penalty = sum((one.pow(2).sum() for one in parameters[:2]), torch.zeros(()))
        loss = loss + 0.5 * settings.wide_penalty * penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        network.wide.weight.copy_(start + learnt)


def _log_count_ratios(columns: Ints, labels: Ints) -> Floats:
    """log P(n-gram | class) - log P(n-gram | other classes), with one count added [NUM_WIDE, 3]."""
    counts = np.stack([np.bincount(columns[labels == one], minlength=NUM_WIDE) for one in range(3)], 1) + 1.0
    others = counts.sum(1, keepdims=True) - counts
    ratios = np.log(counts / counts.sum(0)) - np.log(others / others.sum(0))
    ratios[counts.sum(1) <= 3.0] = 0.0
    return np.asarray(ratios, np.float32)


def _fit_deep(
    network: nn.Module,
    inputs: TermInputs,
    labels: Ints,
    balance: Tensor,
    settings: PolaritySettings,
    *,
    seed: int,
) -> None:
    draw = np.random.default_rng(seed)
    num_steps = -(-len(labels) // settings.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=num_steps * settings.epochs
    )
    targets = torch.from_numpy(labels)
    network.train()
    for _ in range(settings.epochs):
        for rows in np.array_split(draw.permutation(len(labels)), num_steps):
            optimizer.zero_grad()
            logits = network(_batch(inputs, rows))
            F.cross_entropy(logits, targets[rows], weight=balance, label_smoothing=0.05).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            schedule.step()
    network.eval()
