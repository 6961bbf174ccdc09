"""Sampled softmax for a large catalogue: the positions of a batch share its targets and sampled items as candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMOOTHING = 0.75
"""Exponent of popularity in the proposal distribution, as in word2vec: rare items are sampled often enough to learn."""


class SharedNegatives(nn.Module):
    """Draws the C candidates that all positions of a batch share; V - 1 items without padding.

    The softmax over all items needs the sum of exp(logit) over all of them. The candidates give an unbiased estimate of
    that sum when each negative is weighted by 1 / (its probability of being drawn) and the target, which is always a
    candidate, by 1 (Horvitz and Thompson, 1952): the logQ correction (Bengio and Senecal, 2008; Yi et al., RecSys
    2019), except that it leaves the target's own logit alone.
    """

    popularity: Tensor
    proposal: Tensor
    cumulative: Tensor

    def __init__(self, item_counts: Sequence[int], num_negatives: int) -> None:
        super().__init__()
        self.num_negatives = num_negatives
        popularity = torch.tensor(item_counts, dtype=torch.float64) + 0.5
        drawn_by = popularity**SMOOTHING
        self.register_buffer("popularity", (popularity / popularity.sum()).float(), persistent=False)
        self.register_buffer("proposal", (drawn_by / drawn_by.sum()).float(), persistent=False)
        # In double precision: with a million items, fp32 changes the share of a rare one by several percent.
        self.register_buffer("cumulative", (drawn_by / drawn_by.sum()).cumsum(0), persistent=False)

    def draw(self, targets_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates [C] in ascending order, the index of each target among them [T], and the logQ correction [C].

        Targets and candidates are in 0 .. V - 2; the correction is added to the logits of negatives.
        """
        drawn = torch.rand(self.num_negatives, dtype=torch.float64, device=targets_T.device)
        negatives = torch.searchsorted(self.cumulative, drawn).clamp_max(len(self.cumulative) - 1)
        candidates: Tensor = torch.unique(torch.cat([targets_T, negatives]))
        expected = len(targets_T) * self.popularity[candidates]
        expected += self.num_negatives * self.proposal[candidates]
        correction = -torch.log(-torch.expm1(-expected))
        return candidates, torch.searchsorted(candidates, targets_T), correction
