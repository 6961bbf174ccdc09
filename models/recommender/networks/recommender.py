"""A recommender: a trained network, a count-based prior, or a blend of both; ranks all items.

Shapes: B examples, D width, V items + 1 (index 0 is padding and never recommended).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.metrics import BatchMetrics, Ratio
from models.nn.precision import autocast_dtype
from models.nn.state_dict import default_on_load, rename_on_load
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.event_weights import event_weights
from models.recommender.held_out import Example
from models.recommender.live.new_items import NewItems
from models.recommender.networks import ranking
from models.recommender.networks.cold_start import ColdStartItems
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.networks.new_items import explain_new, mask, with_new_embeddings, with_new_items
from models.recommender.networks.transitions import Transitions
from models.recommender.schema import PADDING, Schema, tail_of

BLEND_WEIGHTS = tuple(step / 10 for step in range(11))
"""Weights of the prior that are tried on validation; the best one is kept."""
TAIL_BOOSTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Added to the log-probabilities of tail items: tried on validation with each weight, and kept where NDCG@10 over all
examples is no lower than without."""
MIN_TAIL_EXAMPLES = 100
"""Validation examples with a tail target below which there is no boost: it would fit their noise."""
CALIBRATION_EXAMPLES = 192
"""They are tried on the first examples of each batch, up to this many: over all shards enough, and cheap."""
COVERAGE_CUTOFF = 10
"""Cutoff of coverage, Gini and tail share."""


class Learner(Protocol):
    """The trained part of a Recommender, a torch module: NextItem, Autoencoder, Gan or one of another package."""

    items: ItemEmbedding
    """Embeddings of the items [V, D], also used to find similar items."""

    def loss(self, batch: Rows, /) -> Tensor:
        """The scalar loss of training rows, averaged over their targets."""
        ...

    def log_scores(self, batch: Histories, /) -> Tensor:
        """Log-probabilities [B, V - 1] of the next item, without padding."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The recommended item indices of one example, best first, with their scores."""

    items: list[int]
    scores: list[float]
    explanations: list[int]
    """For each item, the event of the history that contributes most to its score; PADDING if none does."""
    personal: bool
    """Whether there was a history."""
    new: NewItems | None = None
    """Of which the items with indices beyond the model are; their explanations are similar items."""


class Recommender(nn.Module):
    """The network of the family, built by `build`."""

    blend: Tensor
    tail_boost: Tensor
    tail: Tensor
    learner: Learner | None

    def __init__(self, config: Config, schema: Schema, *, learner: Learner | None, prior: nn.Module | None) -> None:
        super().__init__()
        self.num_rows = schema.num_items + 1
        self.is_item_knn = config.network == "item_knn"
        self.spectral_start = config.spectral_start
        self.precision = config.precision
        self.event_weights = event_weights(config.weights, schema)
        self.learner = learner
        self.prior = prior
        is_simple = config.network in ("popularity", "item_knn")
        has_cold_start = bool(schema.num_features) and 0 in schema.item_counts and not is_simple
        self.cold_start = ColdStartItems(schema) if has_cold_start else None
        rename_on_load(self, {"newcomers.": "cold_start."})  # its name until release 0.1
        self.register_buffer("blend", torch.tensor(0.5 if learner is not None and prior is not None else 1.0))
        self.register_buffer("tail_boost", torch.tensor(0.0))
        self.register_buffer("tail", tail_of(schema).float(), persistent=False)
        default_on_load(self, {"tail_boost": torch.tensor(0.0)})  # models until release 0.2 have none

    @property
    def has_static_steps(self) -> bool:
        """Whether a training step may be captured as a CUDA graph, see `jobs.training.gradients`."""
        return getattr(self.learner, "has_static_steps", False)

    def forward(self, batch: Rows) -> Tensor:
        """The learner's loss, averaged over the events of the rows."""
        assert self.learner is not None, "a count-based network has nothing to train"
        return self.learner.loss(batch)

    def scores(self, batch: Histories) -> Tensor:
        """Log-probabilities [B, V] of the next item, seen items included; -inf for padding.

        The scores of cold-start items are comparable with them, see ColdStartItems.
        """
        scores = self._blended(*self._both_scores(batch))
        return scores if self.cold_start is None else self.cold_start.fill_scores(scores, batch)

    def evaluate(self, batch: Histories) -> BatchMetrics:
        """Full ranking, seen items filtered and (`_unfiltered`) not, see ranking.evaluate.

        Accumulates how often each item [V] is in the top ten, seen items filtered.
        """
        parts, recommended = [], []
        for part in self._parts(batch):
            with self._training_precision(part):
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
        """Sums over part of the batch: see _blend_sums, then ColdStartItems.calibration."""
        if self.cold_start is None and not self._blends:
            return None
        batch = batch.first(min(CALIBRATION_EXAMPLES, ranking.rows_at_once(self.num_rows)))
        sums = []
        with self._training_precision(batch):
            network, prior = self._both_scores(batch)
            if network is not None and prior is not None:
                if self.cold_start is not None:
                    network[:, self.cold_start.items] = -torch.inf
                    prior[:, self.cold_start.items] = -torch.inf
                sums.append(self._blend_sums(batch, network, prior))
            if self.cold_start is not None:
                sums.append(self.cold_start.calibration(self._blended(network, prior), batch).flatten())
        return torch.cat(sums)

    def calibrate(self, sums: Tensor) -> None:
        """Set the blend and the boost of the tail, and the offset of cold-start items.

        Of the blends whose NDCG@10 is no lower than the best without a boost, that with the highest for tail targets.
        """
        if self._blends:
            size = 2 * len(BLEND_WEIGHTS) * len(TAIL_BOOSTS)
            gains, tail_gains = sums[:size].view(2, len(BLEND_WEIGHTS), len(TAIL_BOOSTS)).clone()
            num_tail_examples, sums = float(sums[size]), sums[size + 1 :]
            if num_tail_examples < MIN_TAIL_EXAMPLES:
                gains[:, 1:], tail_gains[:] = -1, 0
            tail_gains[gains < gains[:, 0].max()] = -1
            gains[tail_gains < tail_gains.max()] = -1
            weight, boost = divmod(int(gains.argmax()), len(TAIL_BOOSTS))
            self.blend = torch.tensor(BLEND_WEIGHTS[weight], device=sums.device)
            self.tail_boost = torch.tensor(TAIL_BOOSTS[boost], device=sums.device)
        if self.cold_start is not None:
            self.cold_start.calibrate(sums.view(2, -1))

    def predict(self, batch: Histories) -> list[Prediction]:
        """The best items of each example that are allowed and not excluded."""
        predictions = []
        for part in self._parts(batch):
            offset = None if self.cold_start is None else self.cold_start.offset
            scores = with_new_items(self.scores(part), part, offset=offset)
            predictions += self._top_items(part, scores.scatter_(1, part.excluded, -torch.inf))
        return predictions

    def predict_similar(self, batch: Histories) -> list[Prediction]:
        """Items similar to the only item of each history: nearest by embedding, or by transitions without a learner."""
        if self.learner is None:
            return self.predict(batch)
        known = nn.functional.normalize(self.learner.items.table(), dim=1)
        predictions = []
        for part in self._parts(batch):
            embeddings = with_new_embeddings(known, part.new)
            subjects = [int(each.history[0]) if each.subject is None else each.subject for each in part.examples]
            scores = embeddings[subjects] @ embeddings.T
            scores[:, PADDING] = -torch.inf
            mask(scores, part)
            predictions += self._top_items(part, scores.scatter_(1, part.excluded, -torch.inf))
        return predictions

    def _training_precision(self, batch: Histories) -> torch.autocast:
        """Autocast as in training, precise enough for ranking metrics; predictions are computed in fp32."""
        dtype = autocast_dtype(self.precision, batch.items.device)
        return torch.autocast(batch.items.device.type, dtype=dtype, enabled=dtype is not None)

    def _parts(self, batch: Histories) -> list[Histories]:
        """The batch, split where the catalogue is so large that its scores would take gigabytes."""
        return batch.parts(ranking.rows_at_once(self.num_rows))

    def _top_items(self, batch: Histories, scores: Tensor) -> list[Prediction]:
        for row, example in enumerate(batch.examples):
            if example.allowed is not None:
                allowed = torch.tensor(example.allowed, dtype=torch.int64, device=scores.device)
                kept = torch.full_like(scores[row], -torch.inf)
                kept[allowed] = scores[row, allowed]
                scores[row] = kept
        count = min(max(example.count for example in batch.examples), scores.shape[1])
        top = scores.topk(count)
        return [
            self._prediction(example, items[: example.count], values[: example.count])
            for example, items, values in zip(batch.examples, top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def _prediction(self, example: Example, items: list[int], scores: list[float]) -> Prediction:
        kept = [place for place, score in enumerate(scores) if score != -torch.inf]
        items, scores = [items[place] for place in kept], [scores[place] for place in kept]
        history, new = example.history, example.new
        if isinstance(self.prior, Transitions):
            explanations = self.prior.explain(history, items, example.types)
        else:
            explanations = [history[-1] if len(history) else PADDING] * len(items)
        if new is not None:
            explanations = explain_new(new, items, explanations, example)
        return Prediction(items, scores, explanations, personal=len(history) > 0, new=new)

    @property
    def _blends(self) -> bool:
        """Whether there is both a learner and a prior."""
        return self.learner is not None and self.prior is not None

    def _both_scores(self, batch: Histories) -> tuple[Tensor | None, Tensor | None]:
        """Log-probabilities [B, V] of the learner and of the prior, None for a missing one; -inf for padding."""
        network = prior = None
        if self.learner is not None:
            scores = self.learner.log_scores(batch)
            network = torch.cat([scores.new_full((len(scores), 1), -torch.inf), scores], 1)
        if self.prior is not None:
            prior = self.prior(batch).log_()
            prior[:, PADDING] = -torch.inf
        return network, prior

    def _blended(self, network: Tensor | None, prior: Tensor | None) -> Tensor:
        """Both at the chosen weight, or the only one there is."""
        if network is None or prior is None:
            only = prior if network is None else network
            assert only is not None
            return only
        return _blend(network, prior, self.blend).add_(self.tail_boost * self.tail)

    def _blend_sums(self, batch: Histories, network: Tensor, prior: Tensor) -> Tensor:
        """NDCG@10 of each blend over all examples and over those with a tail target [2 * W * C], and their number."""
        blends = ranking.Blends(BLEND_WEIGHTS, TAIL_BOOSTS, self.tail)
        gains = ranking.gains_of_blends(batch, network, prior, blends).double().flatten()
        is_tail = (self.tail[batch.targets.clamp_min(PADDING)] > 0) & ~batch.target_seen
        return torch.cat([gains, is_tail.sum().double()[None]])


def _blend(network: Tensor, prior: Tensor, weight: float | Tensor) -> Tensor:
    """Weighted geometric mean of two distributions, as log-probabilities [B, V]; padding stays -inf."""
    scores = torch.lerp(network, prior, weight)
    scores[:, PADDING] = -torch.inf
    return scores
