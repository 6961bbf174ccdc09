"""Metrics of held-out examples: ratios of two sums, or of the whole split; the same on any number of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

Kept = Mapping[str, NDArray[Any]]
"""What an evaluation keeps of each example for metrics of the whole split: name -> [N, ...]."""
NUM_BINS = 15
"""Confidence bins of the expected calibration error."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is, and how people are told of it.

    Most metrics are ratios of two sums over the examples, which `evaluate` gives by their name. One that is not, such
    as AUROC or macro F1, has a `compute`.
    """

    name: str
    """Plain words joined by underscores, e.g. `ndcg_at_10`."""
    mode: Literal["max", "min"]
    title: str = ""
    """For people, e.g. `NDCG@10`; none is made of the name."""
    meaning: str = ""
    """One plain sentence that says what it measures."""
    compute: Callable[[Kept], float] | None = None
    """The metric of any examples from what `evaluate` kept of them; NaN where it is not defined. Its interval comes
    from resampled examples."""
    curve: tuple[str, str, int] | None = None
    """For one of several metrics that differ by a number, such as a cutoff: (what they are called without it, what the
    number is, the number), e.g. `("NDCG", "length of the list", 10)`."""

    def better(self, value: float, than: float) -> bool:
        """Whether `value` beats `than`; a NaN beats nothing."""
        return value > than if self.mode == "max" else value < than


def described(name: str, known: Sequence[Metric]) -> Metric:
    """The metric of a name among those `known`, or, of `accuracy_colour`, what is known of `accuracy` with the rest."""
    exact = [metric for metric in known if metric.name == name]
    if exact:
        return exact[0]
    starts = [metric for metric in known if name.startswith(f"{metric.name}_")]
    if not starts:
        return Metric(name, "max", name.replace("_", " ").capitalize())
    metric = max(starts, key=lambda one: len(one.name))
    rest = name.removeprefix(f"{metric.name}_").replace("_", " ")
    return dataclasses.replace(metric, name=name, title=f"{metric.title or metric.name}, {rest}", curve=None)


@dataclass(frozen=True)
class Ratio:
    """A metric of a batch as two vectors of shape [B]: summed over all examples, divided once.

    An example whose denominator is 0 does not take part.
    """

    numerator: Tensor
    denominator: Tensor


@dataclass(frozen=True)
class BatchMetrics:
    """What a network scores on a batch of B held-out examples."""

    ratios: Mapping[str, Ratio]
    """Metric -> a ratio of two tensors of shape [B]."""
    accumulators: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that add up over batches and workers, from which `summarise` makes metrics of the whole split."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """What is kept of each example, [B, ...], for metrics with a `compute`. A number that is not finite says that the
    network has diverged; one that is missing, such as a label, needs another sign."""


def accuracy(predicted: Tensor, labels: Tensor) -> Ratio:
    """Share of examples whose predicted class [B] is the label [B]; labels below 0 do not take part."""
    known = labels >= 0
    return Ratio(((predicted == labels) & known).double(), known.double())


def confusion(labels: Tensor, predicted: Tensor, *, num_classes: int) -> Tensor:
    """Examples [K, K] by label and by predicted class; both [B], in 0 .. K - 1."""
    pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def reliability(confidence: Tensor, right: Tensor) -> Tensor:
    """Sums [NUM_BINS, 3] over the examples of each bin of confidence [B]: of ones, of confidence and of `right` [B]."""
    bins = (confidence * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    columns = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence.dtype)], 1).double()
    return columns.new_zeros(NUM_BINS, 3).index_add_(0, bins, columns)


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error from `reliability`, which may be summed over batches (Guo et al., ICML 2017)."""
    count, confidence, right = sums.unbind(1)
    return float((confidence - right).abs().sum() / count.sum().clamp_min(1))


def ranking(rank: Tensor, *, takes_part: Tensor, cutoffs: Sequence[int]) -> dict[str, Ratio]:
    """NDCG, hit rate and MRR at each cutoff for one relevant item per example.

    `rank` [B] is the place of the relevant item in the full ranking, from 1, infinite where it is not ranked. With one
    relevant item NDCG is 1 / log2(rank + 1) (Jarvelin and Kekalainen, 2002).
    """
    weight = takes_part.double()
    rank = rank.double()
    gain, reciprocal = 1 / torch.log2(rank + 1), 1 / rank
    ratios = {}
    for cutoff in cutoffs:
        hit = weight * (rank <= cutoff)
        ratios[f"ndcg_at_{cutoff}"] = Ratio(hit * gain, weight)
        ratios[f"hit_rate_at_{cutoff}"] = Ratio(hit, weight)
        ratios[f"mrr_at_{cutoff}"] = Ratio(hit * reciprocal, weight)
    return ratios


def set_ranking(
    scores: Tensor, targets: Tensor, *, ndcg_cutoffs: Sequence[int], recall_cutoffs: Sequence[int]
) -> dict[str, Ratio]:
    """NDCG and recall for several relevant items per example, as in Liang et al. (WWW 2018).

    `scores` [B, N]; `targets` [B, K] are distinct items, negative where there is none, 0 for one that has no score and
    is missed. Recall is divided by the most that can be found, min(cutoff, relevant). An example without a relevant
    item does not take part.
    """
    width = max(*ndcg_cutoffs, *recall_cutoffs)
    num_relevant = (targets >= 0).sum(1)
    hits = _hits(_first_items(scores, min(width, scores.shape[1])), targets, num_items=scores.shape[1])
    gains = 1 / torch.log2(torch.arange(2, width + 2, dtype=torch.float64, device=scores.device))
    weight = (num_relevant > 0).double()
    ratios = {}
    for cutoff in ndcg_cutoffs:
        ideal = gains.cumsum(0)[num_relevant.clamp(1, cutoff) - 1]
        found = hits[:, :cutoff] @ gains[: min(cutoff, hits.shape[1])]
        ratios[f"ndcg_at_{cutoff}"] = Ratio(found / ideal, weight)
    for cutoff in recall_cutoffs:
        ratios[f"recall_at_{cutoff}"] = Ratio(hits[:, :cutoff].sum(1) / num_relevant.clamp(1, cutoff), weight)
    return ratios


def rank_of(target: Tensor, scores: Tensor) -> Tensor:
    """Place [B] of item `target` [B] in the full ranking by `scores` [B, N], from 1; infinite if its score is -inf.

    Among equal scores the lower index comes first, so the rank is that of a stable sort.
    """
    own = scores.gather(1, target[:, None])
    rank = 1 + (scores > own).sum(1)
    tied = ((scores >= own).sum(1) > rank).nonzero().squeeze(1)
    if len(tied):
        rank[tied] += _ties_before(target[tied, None], scores[tied], own[tied])
    return rank.double().masked_fill(own.squeeze(1) == -torch.inf, torch.inf)


def rank_without(left_out: Tensor, target: Tensor, scores: Tensor, rank: Tensor) -> Tensor:
    """`rank` [B] as it is once the items `left_out` [B, S] (no repeats but of 0, which is no item) are taken out.

    Cheaper than ranking again: only the left-out items are compared. Infinite where the target itself is left out.
    """
    own, others = scores.gather(1, target[:, None]), scores.gather(1, left_out)
    above = (others > own) | ((others == own) & (left_out < target[:, None]))
    rank = rank - (above & (left_out != 0)).sum(1)
    return rank.masked_fill((left_out == target[:, None]).any(1), torch.inf)


def _ties_before(target: Tensor, scores: Tensor, own: Tensor) -> Tensor:
    earlier = torch.arange(scores.shape[1], device=scores.device) < target
    return ((scores == own) & earlier).sum(1)


def _first_items(scores: Tensor, count: int) -> Tensor:
    """Items in the first places [B, count], equal scores by index; -1 for one whose score is -inf."""
    best = scores.topk(count)
    items = best.indices.sort(1).values
    # Which of the items that tie for the last place topk takes is not said.
    tied = ((scores >= best.values[:, -1:]).sum(1) > count).nonzero().squeeze(1)
    if len(tied):
        items[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values
    values, order = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
    return items.gather(1, order).masked_fill(values == -torch.inf, -1)


def _hits(items: Tensor, targets: Tensor, *, num_items: int) -> Tensor:
    """1 where an item [B, W] is among the positive targets [B, K] of its row, as float64."""
    row = torch.arange(len(items), device=items.device)[:, None] * num_items
    return (torch.isin(items + row, (targets + row)[targets > 0]) & (items > 0)).double()


def gini(counts: Tensor) -> float:
    """Inequality of non-negative counts [N]: 0 when all are equal, towards 1 when one has everything."""
    ordered = counts.double().sort().values
    total = float(ordered.sum())
    if total == 0:
        return 0.0
    num = len(ordered)
    places = torch.arange(1, num + 1, dtype=torch.float64, device=ordered.device)
    return float(2 * (places * ordered).sum() / (num * total) - (num + 1) / num)
