"""A recommender: a network that learns, a counted prior, or the blend of both; ranks all items.

Shapes: B examples, D width, V items + 1 (index 0 is padding and never recommended).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.metrics import BatchMetrics, Ratio
from models.nn.precision import autocast_dtype
from models.recommender.config import BASELINES, Config
from models.recommender.data import Histories, Rows
from models.recommender.networks import ranking
from models.recommender.networks.cold_start import Newcomers
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.networks.transitions import Transitions
from models.recommender.schema import PADDING, Schema

BLEND_WEIGHTS = tuple(step / 10 for step in range(11))
"""Weights of the prior that are tried on validation."""
CALIBRATION_EXAMPLES = 192
"""Examples of each batch, the first ones, on which they are tried: enough over all shards, and cheap."""
COVERAGE_CUTOFF = 10
"""Places of an answer that count for coverage."""


class Learner(Protocol):
    """What learns in a Recommender, a torch module: NextItem, Autoencoder, Gan, or a network of another package."""

    items: ItemEmbedding
    """Embeddings of the items [V, D], which similar items are found by."""

    def loss(self, batch: Rows, /) -> Tensor:
        """The scalar loss of training rows, a mean over their targets."""
        ...

    def log_scores(self, batch: Histories, /) -> Tensor:
        """Log-probabilities [B, V - 1] of the next item, without padding."""
        ...


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

    def evaluate(self, batch: Histories) -> BatchMetrics:
        """Full ranking, seen items filtered and (`_unfiltered`) not, see ranking.evaluate.

        Tallied is how often each item [V] stands in the first ten places, seen items filtered.
        """
        parts, recommended = [], []
        for part in self._parts(batch):
            with self._arithmetic_of_training(part):
                scores = self.scores(part)
            parts.append(ranking.evaluate(part, scores))
            scores.scatter_(1, part.excluded, -torch.inf)
            recommended.append(scores.topk(min(COVERAGE_CUTOFF, scores.shape[1] - 1)).indices.flatten())
        metrics = {
            name: Ratio(
                torch.cat([part[name].numerator for part in parts]),
                torch.cat([part[name].denominator for part in parts]),
            )
            for name in parts[0]
        }
        counts = torch.bincount(torch.cat(recommended), minlength=self.num_rows)
        return BatchMetrics(metrics, {"recommended": counts.double()})

    def calibration(self, batch: Histories) -> Tensor | None:
        """Sums over some of the batch: NDCG@10 for each of BLEND_WEIGHTS, then Newcomers.room at the present weight."""
        if self.newcomers is None and not self._blends:
            return None
        batch = batch.first(min(CALIBRATION_EXAMPLES, ranking.rows_at_once(self.num_rows)))
        sums = []
        with self._arithmetic_of_training(batch):
            network, prior = self._both_scores(batch)
            if network is not None and prior is not None:
                if self.newcomers is not None:
                    network[:, self.newcomers.items] = -torch.inf
                    prior[:, self.newcomers.items] = -torch.inf
                sums.append(ranking.gains_of_blends(batch, network, prior, BLEND_WEIGHTS))
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
        return batch.parts(ranking.rows_at_once(self.num_rows))

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
