"""A recommender: a network that learns, a counted prior, or the blend of both; ranks all items.

Shapes: B examples, D width, V items + 1 (index 0 is padding and never recommended).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from models.family import Judgement, Ratio, autocast_dtype
from models.metrics import gini
from models.recommender.config import BASELINES, Config
from models.recommender.data import Histories, Rows
from models.recommender.networks.autoencoder import Autoencoder
from models.recommender.networks.baselines import Popularity, count_neighbours
from models.recommender.networks.cold_start import Newcomers
from models.recommender.networks.gan import Gan
from models.recommender.networks.gru import Recurrent
from models.recommender.networks.item_features import ItemFeatures, find_stand_ins
from models.recommender.networks.next_item import NextItem
from models.recommender.networks.ranking import gains_of_blends, judge, rows_at_once
from models.recommender.networks.transformer import Transformer
from models.recommender.networks.transitions import Transitions, add_stand_ins, count_and_choose, count_pairs
from models.recommender.networks.two_tower import TwoTower
from models.recommender.schema import PADDING, Schema

Learner = NextItem | Autoencoder | Gan
"""loss(rows) -> scalar, log_scores(histories) -> log-probabilities [B, V - 1], and the embeddings `items` [V, D]."""

BLEND_WEIGHTS = tuple(step / 10 for step in range(11))
"""Weights of the prior that are tried on validation."""
CALIBRATION_EXAMPLES = 192
"""Examples of each batch, the first ones, on which they are tried: enough over all shards, and cheap."""
SPECTRAL_WINDOW = 8
"""Distance of the pairs that the embeddings start from."""
MAX_SPECTRAL_WIDTH = 96
"""Columns that start from them; the others of a wider table start at random, since 256 vectors cost half a minute."""
TALLY_COUNT = 10
"""Places of an answer that count for coverage."""


@dataclass(frozen=True)
class Prediction:
    """The answer to one example: item indices, their scores, and the event of the history that speaks most for each."""

    items: list[int]
    scores: list[float]
    because: list[int]
    personal: bool


class Recommender(nn.Module):
    """Satisfies models.family.Network; built by `build`."""

    blend: Tensor
    learner: Learner | None

    def __init__(self, config: Config, schema: Schema, *, learner: Learner | None, prior: nn.Module | None) -> None:
        super().__init__()
        self.num_rows = schema.num_items + 1
        self.counts_neighbours = config.network == "item_knn"
        self.spectral_start = config.spectral_start
        self.precision = config.precision
        self.learner = learner
        self.prior = prior
        describes_new = bool(schema.num_features) and 0 in schema.item_counts and config.network not in BASELINES
        self.newcomers = Newcomers(schema) if describes_new else None
        self.register_buffer("blend", torch.tensor(0.5 if learner is not None and prior is not None else 1.0))

    def forward(self, batch: Rows) -> Tensor:
        """The learner's loss, a mean over the events of the rows."""
        assert self.learner is not None, "a network that is only counted has nothing to train"
        return self.learner.loss(batch)

    def scores(self, batch: Histories) -> Tensor:
        """Log-probabilities [B, V] of what comes next, seen items included; -inf for padding.

        Items without events have scores that rank them among the others, see Newcomers.
        """
        scores = self._mixed(*self._both_scores(batch))
        return scores if self.newcomers is None else self.newcomers.place(scores, batch)

    def judge(self, batch: Histories) -> Judgement:
        """Full ranking, seen items filtered and (`_unfiltered`) not, see judging.judge.

        Tallied is how often each item [V] stands in the first ten places, seen items filtered.
        """
        parts, recommended = [], []
        for part in self._parts(batch):
            with self._arithmetic_of_training(part):
                scores = self.scores(part)
            parts.append(judge(part, scores))
            scores.scatter_(1, part.excluded, -torch.inf)
            recommended.append(scores.topk(min(TALLY_COUNT, scores.shape[1] - 1)).indices.flatten())
        metrics = {
            name: Ratio(
                torch.cat([part[name].numerator for part in parts]),
                torch.cat([part[name].denominator for part in parts]),
            )
            for name in parts[0]
        }
        counts = torch.bincount(torch.cat(recommended), minlength=self.num_rows)
        return Judgement(metrics, {"recommended": counts.double()})

    def calibration(self, batch: Histories) -> Tensor | None:
        """Sums over some of the batch: NDCG@10 for each of BLEND_WEIGHTS, then Newcomers.room at the present weight."""
        if self.newcomers is None and not self._blends:
            return None
        batch = batch.first(min(CALIBRATION_EXAMPLES, rows_at_once(self.num_rows)))
        sums = []
        with self._arithmetic_of_training(batch):
            network, prior = self._both_scores(batch)
            if network is not None and prior is not None:
                if self.newcomers is not None:
                    network[:, self.newcomers.items] = -torch.inf
                    prior[:, self.newcomers.items] = -torch.inf
                sums.append(gains_of_blends(batch, network, prior, BLEND_WEIGHTS))
            if self.newcomers is not None:
                sums.append(self.newcomers.room(self._mixed(network, prior), batch).flatten())
        return torch.cat(sums)

    def calibrate(self, sums: Tensor) -> None:
        """Take the blend weight with the highest summed NDCG@10, and how far up items without events stand."""
        if self._blends:
            gains, sums = sums[: len(BLEND_WEIGHTS)], sums[len(BLEND_WEIGHTS) :]
            self.blend = torch.tensor(BLEND_WEIGHTS[int(gains.argmax())], device=sums.device)
        if self.newcomers is not None:
            self.newcomers.choose(sums.view(2, -1))

    def predict(self, batch: Histories) -> list[Prediction]:
        """The best items of each example under its rules."""
        answers = []
        for part in self._parts(batch):
            answers += self._answers(part, self.scores(part).scatter_(1, part.excluded, -torch.inf))
        return answers

    def predict_similar(self, batch: Histories) -> list[Prediction]:
        """Items that stand where the only item of each history does: nearest embeddings, or strongest transitions."""
        if self.learner is None:
            return self.predict(batch)
        embeddings = nn.functional.normalize(self.learner.items.table(), dim=1)
        answers = []
        for part in self._parts(batch):
            scores = embeddings[part.items[:, 0]] @ embeddings.T
            scores[:, PADDING] = -torch.inf
            answers += self._answers(part, scores.scatter_(1, part.excluded, -torch.inf))
        return answers

    def _arithmetic_of_training(self, batch: Histories) -> torch.autocast:
        """Precise enough to rank, in all but the last product; what is served is computed in fp32."""
        dtype = autocast_dtype(self.precision, batch.items.device)
        return torch.autocast(batch.items.device.type, dtype=dtype, enabled=dtype is not None)

    def _parts(self, batch: Histories) -> list[Histories]:
        """The batch, cut where there are so many items that its scores would take gigabytes."""
        return batch.parts(rows_at_once(self.num_rows))

    def _answers(self, batch: Histories, scores: Tensor) -> list[Prediction]:
        for row, example in enumerate(batch.examples):
            if example.allowed is not None:
                allowed = torch.tensor(example.allowed, dtype=torch.int64, device=scores.device)
                kept = torch.full_like(scores[row], -torch.inf)
                kept[allowed] = scores[row, allowed]
                scores[row] = kept
        count = min(max(example.count for example in batch.examples), scores.shape[1])
        top = scores.topk(count)
        return [
            self._answer(example.history, items[: example.count], values[: example.count])
            for example, items, values in zip(batch.examples, top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def _answer(self, history: Sequence[int], items: list[int], scores: list[float]) -> Prediction:
        kept = [place for place, score in enumerate(scores) if score != -torch.inf]
        items, scores = [items[place] for place in kept], [scores[place] for place in kept]
        if isinstance(self.prior, Transitions):
            because = self.prior.because(history, items)
        else:
            because = [history[-1] if len(history) else PADDING] * len(items)
        return Prediction(items, scores, because, personal=len(history) > 0)

    @property
    def _blends(self) -> bool:
        """Whether there are two to mix."""
        return self.learner is not None and self.prior is not None

    def _both_scores(self, batch: Histories) -> tuple[Tensor | None, Tensor | None]:
        """Log-probabilities [B, V] of the learner and of the prior, of those that there are; -inf for padding."""
        network = prior = None
        if self.learner is not None:
            scores = self.learner.log_scores(batch)
            network = torch.cat([scores.new_full((len(scores), 1), -torch.inf), scores], 1)
        if self.prior is not None:
            prior = self.prior(batch).log_()
            prior[:, PADDING] = -torch.inf
        return network, prior

    def _mixed(self, network: Tensor | None, prior: Tensor | None) -> Tensor:
        """Both at the chosen weight, or the only one."""
        if network is None or prior is None:
            only = prior if network is None else network
            assert only is not None
            return only
        return _blend(network, prior, self.blend)


def _blend(network: Tensor, prior: Tensor, weight: float | Tensor) -> Tensor:
    """Geometric mixture of two log-probabilities [B, V]; padding stays out."""
    scores = torch.lerp(network, prior, weight)
    scores[:, PADDING] = -torch.inf
    return scores


def build(config: Config, schema: Schema) -> Recommender:
    """An untrained recommender; raises ValueError for an unknown network."""
    prior: nn.Module | None = Transitions(schema.num_items)
    learner: Learner | None = None
    match config.network:
        case "transformer":
            transformer = Transformer(
                dim=config.dim,
                num_blocks=config.num_blocks,
                num_heads=config.num_heads,
                dropout=config.dropout,
                max_length=config.max_length,
            )
            learner = NextItem(config, schema, transformer)
        case "gru":
            gru = Recurrent(dim=config.dim, num_blocks=config.num_blocks, dropout=config.dropout, cell=config.cell)
            learner = NextItem(config, schema, gru)
        case "two_tower":
            tower = TwoTower(dim=config.dim, num_blocks=config.num_blocks, dropout=config.dropout)
            learner = NextItem(config, schema, tower)
        case "autoencoder":
            learner = Autoencoder(config, schema)
        case "gan":
            learner = Gan(config, schema)
        case "transitions" | "item_knn":
            pass
        case "popularity":
            prior = Popularity(schema.num_items)
        case unknown:
            raise ValueError(f"unknown network {unknown!r}; see --network for those there are")
    if learner is not None and not config.blend:
        prior = None
    return Recommender(config, schema, learner=learner, prior=prior)


def initialise(network: Recommender, data: Path, schema: Schema) -> None:
    """Count the prior, start the embeddings from its singular vectors, and look up the items' features."""
    features = ItemFeatures.open(data) if schema.num_features else None
    if features is not None:
        stand_ins = find_stand_ins(features.matrix(), np.asarray([1, *schema.item_counts]) > 0)
        if network.newcomers is not None:
            network.newcomers.set(stand_ins)
    match network.prior:
        case Popularity() as prior:
            prior.count(schema)
        case Transitions() as prior if network.counts_neighbours:
            count_neighbours(data, schema, prior)
        case Transitions() as prior:
            weights, popularity, shape = count_and_choose(data, schema)
            if features is not None:
                weights = add_stand_ins(weights, stand_ins.matrix(schema.num_items + 1))
            prior.set(weights, popularity, shape.decay)
    if network.learner is not None and features is not None:
        network.learner.items.set_features(features, stand_ins)
    if network.learner is not None and network.spectral_start:
        counts = count_pairs(data, schema, window=SPECTRAL_WINDOW)
        items = network.learner.items.weight.data
        width = min(items.shape[1], MAX_SPECTRAL_WIDTH)
        items[:, :width] = spectral_embeddings(counts, width)


def spectral_embeddings(counts: sp.csr_array, dim: int) -> Tensor:
    """Item embeddings [V, dim] from the singular vectors of the damped, symmetric transition counts [V, V].

    Factorises the positive pointwise mutual information, as skip-gram embeddings do (Levy and Goldberg, NeurIPS 2014).
    """
    both = (counts + counts.T).tocoo()
    row_sum = np.asarray(both.sum(axis=1)).ravel()
    share = row_sum**0.75 / (row_sum**0.75).sum()
    information = np.log(np.maximum(both.data / (row_sum[both.row] * share[both.col]), 1e-12))
    positive = sp.csr_array((np.maximum(information, 0), (both.row, both.col)), shape=both.shape)
    rank = min(dim, both.shape[0] - 2)
    left, values, _ = svds(positive.astype(np.float32), k=rank, random_state=0)
    embeddings = np.zeros((both.shape[0], dim), np.float32)
    embeddings[:, :rank] = left * np.sqrt(values)
    embeddings /= max(float(embeddings.std()), 1e-9) * dim**0.5
    return torch.from_numpy(embeddings)


def summarise(tallies: Mapping[str, Tensor], schema: Schema) -> dict[str, float]:
    """Coverage, Gini and the tail's share of what was recommended; tail as in data.slices."""
    recommended = tallies["recommended"][1:]
    counts = torch.tensor(schema.item_counts, dtype=torch.float64)
    order = counts.argsort(descending=True, stable=True)
    tail = order[(counts[order].cumsum(0) / counts.sum().clamp_min(1)) > 0.9]
    return {
        "coverage_at_10": float((recommended > 0).double().mean()),
        "gini_at_10": gini(recommended),
        "tail_share_at_10": float(recommended[tail.to(recommended.device)].sum() / recommended.sum().clamp_min(1)),
    }
