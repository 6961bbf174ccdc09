"""Ranking metrics of scores against the next item, or against several items for held-out users."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.metrics import Ratio, rank_of, rank_without, ranking, set_ranking
from models.recommender.data import NO_TARGET, Histories
from models.recommender.schema import PADDING

CUTOFFS = (5, 10, 20, 50)
"""Cutoffs of the metrics with one target per user."""
SET_NDCG_CUTOFFS, SET_RECALL_CUTOFFS = (10, 100), (20, 50)
"""Cutoffs with several targets per user; NDCG@100, Recall@20 and Recall@50 are those of the literature."""
REVENUE_CUTOFF = 10
MAX_SCORES = 16_000_000
"""Scores in memory at one time: those of 16 examples with a million items, of 512 below 31,250. More take gigabytes,
which take longer to allocate than to compute."""
TUNING_CUTOFF = 10
"""Everything tuned on validation is tuned for NDCG@10."""


def rows_at_once(num_items: int) -> int:
    """How many examples are scored at one time, see MAX_SCORES."""
    return max(1, MAX_SCORES // num_items)


def evaluate(batch: Histories, scores: Tensor) -> dict[str, Ratio]:
    """Full ranking by `scores` [B, V], seen items filtered and (`_unfiltered`) not; may write into `scores`.

    One target: NDCG, hit rate and MRR, and revenue where the log has prices. Several: NDCG and recall. A seen target
    cannot be recommended where seen items are filtered, so it counts in `_unfiltered` only.
    """
    if batch.target_sets is not None:
        return _evaluate_sets(batch, batch.target_sets, scores)
    rank = rank_of(batch.targets, scores)
    filtered = rank_without(batch.excluded, batch.targets, scores, rank)
    all_examples = torch.ones_like(batch.target_seen)
    return _rank_one(batch, filtered, ~batch.target_seen) | _unfiltered(_rank_one(batch, rank, all_examples))


def gains(batch: Histories, scores: Tensor) -> Tensor:
    """NDCG@10 [B] with seen items filtered; 0 for an example that does not count."""
    if batch.target_sets is not None:
        return _rank_sets(batch, batch.target_sets, scores)[f"ndcg_at_{TUNING_CUTOFF}"].numerator
    rank = rank_without(batch.excluded, batch.targets, scores, rank_of(batch.targets, scores))
    return ~batch.target_seen * (rank <= TUNING_CUTOFF) / torch.log2(rank + 1)


def gains_of_blends(batch: Histories, network: Tensor, prior: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum of `gains` over the batch for each blend (1 - weight) * network + weight * prior: [W].

    Network and prior [B, V] are log-probabilities. With one target, an item that both rank above it is above it in
    every blend, and likewise below. An example with ten items above the target gains nothing; in the others only the
    few items that the two disagree on are compared at each weight.
    """
    if batch.target_sets is not None:
        is_excluded = network == -torch.inf
        blends = [torch.lerp(network, prior, weight).masked_fill_(is_excluded, -torch.inf) for weight in weights]
        return torch.stack([gains(batch, blend).sum() for blend in blends])
    target = batch.targets[:, None]
    own_network, own_prior = network.gather(1, target), prior.gather(1, target)
    above = (network > own_network).logical_and_(prior > own_prior).scatter_(1, batch.excluded, False)
    undecided_B = (above.sum(1) < TUNING_CUTOFF) & ~batch.target_seen & (batch.targets != PADDING)
    rivals = (network >= own_network).logical_or_(prior >= own_prior).logical_and_(undecided_B[:, None])
    row, item = rivals.scatter_(1, batch.excluded, False).scatter_(1, target, False).nonzero(as_tuple=True)
    lead_network = network[row, item] - own_network[row, 0]
    lead_prior = prior[row, item] - own_prior[row, 0]
    first = item < batch.targets[row]
    sums = []
    for weight in weights:
        lead = torch.lerp(lead_network, lead_prior, weight)
        ahead = (lead > 0) | ((lead == 0) & first)
        rank = 1 + torch.bincount(row[ahead], minlength=len(target))
        sums.append((undecided_B & (rank <= TUNING_CUTOFF)).div(torch.log2(rank + 1)).sum())
    return torch.stack(sums)


def _rank_one(batch: Histories, rank: Tensor, counts: Tensor) -> dict[str, Ratio]:
    """Metrics of the rank [B] of one target; `counts` [B] is False for examples to leave out."""
    ratios = ranking(rank, counts=counts, cutoffs=CUTOFFS)
    if batch.amounts is not None:
        amounts = batch.amounts.nan_to_num(0.0) * counts
        ratios[f"revenue_at_{REVENUE_CUTOFF}"] = Ratio(amounts * (rank <= REVENUE_CUTOFF), amounts)
    return ratios


def _evaluate_sets(batch: Histories, targets: Tensor, scores: Tensor) -> dict[str, Ratio]:
    unfiltered = set_ranking(scores, targets, ndcg_cutoffs=SET_NDCG_CUTOFFS, recall_cutoffs=SET_RECALL_CUTOFFS)
    return _rank_sets(batch, targets, scores) | _unfiltered(unfiltered)


def _rank_sets(batch: Histories, targets: Tensor, scores: Tensor) -> dict[str, Ratio]:
    """Metrics with seen items filtered; sets the excluded items of `scores` to -inf."""
    assert batch.target_sets_seen is not None
    unseen = targets.masked_fill(batch.target_sets_seen, NO_TARGET)
    filtered = scores.scatter_(1, batch.excluded, -torch.inf)
    return set_ranking(filtered, unseen, ndcg_cutoffs=SET_NDCG_CUTOFFS, recall_cutoffs=SET_RECALL_CUTOFFS)


def _unfiltered(ratios: dict[str, Ratio]) -> dict[str, Ratio]:
    return {f"{name}_unfiltered": ratio for name, ratio in ratios.items()}
