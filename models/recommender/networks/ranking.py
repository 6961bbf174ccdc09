"""How scores are evaluated against what the shopper took next: one item, or several for held-out users."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.metrics import Ratio, rank_of, rank_without, ranking, set_ranking
from models.recommender.data import NO_TARGET, Histories
from models.recommender.schema import PADDING

CUTOFFS = (5, 10, 20, 50)
"""Places of the metrics where one item is to be found."""
SET_NDCG_CUTOFFS, SET_RECALL_CUTOFFS = (10, 100), (20, 50)
"""Places of the metrics where several are; NDCG@100 and Recall@20 and @50 are those of the literature."""
MAX_SCORES = 16_000_000
"""Scores that are made at one time: of 16 examples where there are a million items, of 512 below 31,250. More take
gigabytes, and longer to bring into memory than to compute."""
TUNING_CUTOFF = 10
"""Everything tuned on validation is tuned for NDCG@10."""


def rows_at_once(num_items: int) -> int:
    """How many examples are scored together, see MAX_SCORES."""
    return max(1, MAX_SCORES // num_items)


def evaluate(batch: Histories, scores: Tensor) -> dict[str, Ratio]:
    """Full ranking by `scores` [B, V], seen items filtered and (`_unfiltered`) not; may write into `scores`.

    One item: NDCG, hit rate and MRR. Several: NDCG and recall. What was seen before cannot be recommended once seen
    items are filtered; it takes part in `_unfiltered` only.
    """
    if batch.target_sets is not None:
        return _evaluate_sets(batch, batch.target_sets, scores)
    rank = rank_of(batch.targets, scores)
    filtered = rank_without(batch.excluded, batch.targets, scores, rank)
    everyone = torch.ones_like(batch.target_seen)
    return ranking(filtered, takes_part=~batch.target_seen, cutoffs=CUTOFFS) | _unfiltered(
        ranking(rank, takes_part=everyone, cutoffs=CUTOFFS)
    )


def gains(batch: Histories, scores: Tensor) -> Tensor:
    """NDCG@10 [B] with seen items filtered; 0 for an example that takes no part in it."""
    if batch.target_sets is not None:
        return _rank_sets(batch, batch.target_sets, scores)[f"ndcg_at_{TUNING_CUTOFF}"].numerator
    rank = rank_without(batch.excluded, batch.targets, scores, rank_of(batch.targets, scores))
    return ~batch.target_seen * (rank <= TUNING_CUTOFF) / torch.log2(rank + 1)


def gains_of_blends(batch: Histories, network: Tensor, prior: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum of `gains` over the batch for each blend (1 - weight) * network + weight * prior: [W].

    Network and prior [B, V] are log-probabilities. With one target to find, an item that stands before it in both
    stands before it in every blend, and so does one behind. Where ten stand before it nothing is gained; elsewhere the
    few items that are undecided are compared at each weight.
    """
    if batch.target_sets is not None:
        nowhere = network == -torch.inf
        blends = [torch.lerp(network, prior, weight).masked_fill_(nowhere, -torch.inf) for weight in weights]
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


def _evaluate_sets(batch: Histories, targets: Tensor, scores: Tensor) -> dict[str, Ratio]:
    unfiltered = set_ranking(scores, targets, ndcg_cutoffs=SET_NDCG_CUTOFFS, recall_cutoffs=SET_RECALL_CUTOFFS)
    return _rank_sets(batch, targets, scores) | _unfiltered(unfiltered)


def _rank_sets(batch: Histories, targets: Tensor, scores: Tensor) -> dict[str, Ratio]:
    """Filtered metrics; takes the excluded items out of `scores`."""
    assert batch.target_sets_seen is not None
    new = targets.masked_fill(batch.target_sets_seen, NO_TARGET)
    left = scores.scatter_(1, batch.excluded, -torch.inf)
    return set_ranking(left, new, ndcg_cutoffs=SET_NDCG_CUTOFFS, recall_cutoffs=SET_RECALL_CUTOFFS)


def _unfiltered(ratios: dict[str, Ratio]) -> dict[str, Ratio]:
    return {f"{name}_unfiltered": ratio for name, ratio in ratios.items()}
