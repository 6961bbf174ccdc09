"""Ranking metrics of scores against the next item, or against several items for held-out users."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Blends:
    """The blends (1 - weight) * network + weight * prior + boost * tail that are tried on validation."""

    weights: Sequence[float]
    """W weights of the prior."""
    boosts: Sequence[float]
    """C boosts of the tail's log-probabilities, among them 0."""
    tail: Tensor
    """1 for an item of the tail, else 0 [V]."""


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


def gains_of_blends(batch: Histories, network: Tensor, prior: Tensor, blends: Blends) -> Tensor:
    """Sums of `gains` over the batch [2, W, C] for each blend: over all examples, and over those with a tail target.

    Network and prior [B, V] are log-probabilities. With one target, an item that both rank above it, at every boost, is
    above it in every blend, and likewise below. An example with ten items above the target gains nothing; in the others
    only the few items in between are compared for each blend. With several targets there are no boosts, and no tail.
    """
    if batch.target_sets is not None:
        return _gains_of_sets(batch, network, prior, blends)
    target = batch.targets[:, None]
    own_network, own_prior = network.gather(1, target), prior.gather(1, target)
    # By how much a boost of 1 raises each item relative to the target: 0, 1, or -1 for a target in the tail.
    raised = blends.tail - blends.tail[target]
    least, most = raised.clamp_max(0) * max(blends.boosts), raised.clamp_min(0) * max(blends.boosts)
    above = (network + least > own_network).logical_and_(prior + least > own_prior)
    above.scatter_(1, batch.excluded, False)
    undecided_B = (above.sum(1) < TUNING_CUTOFF) & ~batch.target_seen & (batch.targets != PADDING)
    rivals = (network + most >= own_network).logical_or_(prior + most >= own_prior)
    rivals.logical_and_(undecided_B[:, None]).scatter_(1, batch.excluded, False).scatter_(1, target, False)
    row, item = rivals.nonzero(as_tuple=True)
    lead_network = network[row, item] - own_network[row, 0]
    lead_prior = prior[row, item] - own_prior[row, 0]
    first, raised, is_tail_B = item < batch.targets[row], raised[row, item], blends.tail[batch.targets] > 0
    sums = []
    for weight, boost in itertools.product(blends.weights, blends.boosts):
        lead = torch.lerp(lead_network, lead_prior, weight) + boost * raised
        ahead = (lead > 0) | ((lead == 0) & first)
        rank = 1 + torch.bincount(row[ahead], minlength=len(target))
        gained = (undecided_B & (rank <= TUNING_CUTOFF)) / torch.log2(rank + 1)
        sums.append(torch.stack([gained.sum(), gained[is_tail_B].sum()]))
    return torch.stack(sums, 1).view(2, len(blends.weights), len(blends.boosts))


def _gains_of_sets(batch: Histories, network: Tensor, prior: Tensor, blends: Blends) -> Tensor:
    is_excluded = network == -torch.inf
    sums = network.new_zeros(2, len(blends.weights), len(blends.boosts))
    for place, weight in enumerate(blends.weights):
        blend = torch.lerp(network, prior, weight).masked_fill_(is_excluded, -torch.inf)
        sums[0, place, blends.boosts.index(0.0)] = gains(batch, blend).sum()
    return sums


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
