"""Computes metrics of held-out examples: ratios of two sums or of the whole split, equal with any number of workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.metric import BatchMetrics as BatchMetrics
from models.metric import Kept as Kept
from models.metric import Metric as Metric
from models.metric import Ratio as Ratio
from models.metric import described as described

NUM_BINS = 15
"""Confidence bins of the expected calibration error."""


def accuracy(predicted: Tensor, labels: Tensor) -> Ratio:
    """Share of examples whose predicted class [B] is the label [B]; labels below 0 do not count."""
    known = labels >= 0
    return Ratio(((predicted == labels) & known).double(), known.double())


def confusion(labels: Tensor, predicted: Tensor, *, num_classes: int) -> Tensor:
    """Examples [K, K] by label and by predicted class; both [B], in 0 .. K - 1."""
    pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def reliability(confidence: Tensor, correct: Tensor) -> Tensor:
    """Sums [NUM_BINS, 3] over the examples of each confidence bin: count, `confidence` [B] and `correct` [B]."""
    bins = (confidence * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    columns = torch.stack([torch.ones_like(confidence), confidence, correct.to(confidence.dtype)], 1).double()
    return columns.new_zeros(NUM_BINS, 3).index_add_(0, bins, columns)


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error from `reliability`, possibly summed over batches (Guo et al., ICML 2017)."""
    count, confidence, correct = sums.unbind(1)
    return float((confidence - correct).abs().sum() / count.sum().clamp_min(1))


def ranking(rank: Tensor, *, counts: Tensor, cutoffs: Sequence[int]) -> dict[str, Ratio]:
    """NDCG, hit rate and MRR at each cutoff for one relevant item per example.

    `rank` [B] is the rank of the relevant item among all items, from 1, infinite where it is not ranked; `counts` [B]
    is False for examples to leave out. With one relevant item NDCG is 1 / log2(rank + 1) (Jarvelin and Kekalainen,
    2002).
    """
    weight = counts.double()
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

    `scores` [B, N]; `targets` [B, K] are distinct items, negative as padding, 0 for an item without a score, which is
    always missed. Recall is divided by min(cutoff, number of relevant items), so that 1 is attainable. An example
    without a relevant item does not count.
    """
    width = max(*ndcg_cutoffs, *recall_cutoffs)
    num_relevant = (targets >= 0).sum(1)
    hits = _hits(_top_items(scores, min(width, scores.shape[1])), targets, num_items=scores.shape[1])
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
    """Rank [B] of item `target` [B] among all items by `scores` [B, N], from 1; infinite if its score is -inf.

    Among equal scores the lower index comes first, so the rank is that of a stable sort.
    """
    own = scores.gather(1, target[:, None])
    rank = 1 + (scores > own).sum(1)
    tied = ((scores >= own).sum(1) > rank).nonzero().squeeze(1)
    if len(tied):
        rank[tied] += _ties_before(target[tied, None], scores[tied], own[tied])
    return rank.double().masked_fill(own.squeeze(1) == -torch.inf, torch.inf)


def rank_without(excluded: Tensor, target: Tensor, scores: Tensor, rank: Tensor) -> Tensor:
    """`rank` [B] after the items `excluded` [B, S] are removed; these are distinct except for padding with 0.

    Cheaper than ranking again: only the excluded items are compared. Infinite where the target itself is excluded.
    """
    own, others = scores.gather(1, target[:, None]), scores.gather(1, excluded)
    above = (others > own) | ((others == own) & (excluded < target[:, None]))
    rank = rank - (above & (excluded != 0)).sum(1)
    return rank.masked_fill((excluded == target[:, None]).any(1), torch.inf)


def _ties_before(target: Tensor, scores: Tensor, own: Tensor) -> Tensor:
    earlier = torch.arange(scores.shape[1], device=scores.device) < target
    return ((scores == own) & earlier).sum(1)


def _top_items(scores: Tensor, count: int) -> Tensor:
    """Top items [B, count], ties ordered by index; -1 for one whose score is -inf."""
    best = scores.topk(count)
    items = best.indices.sort(1).values
    # topk does not specify which of the items that tie for the last rank it returns.
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
    """Gini coefficient of non-negative counts [N]: 0 if all are equal, close to 1 if one has everything."""
    ordered = counts.double().sort().values
    total = float(ordered.sum())
    if total == 0:
        return 0.0
    num = len(ordered)
    places = torch.arange(1, num + 1, dtype=torch.float64, device=ordered.device)
    return float(2 * (places * ordered).sum() / (num * total) - (num + 1) / num)
