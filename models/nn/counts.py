"""The negative binomial distribution of counts, for losses: probabilities of a count, and of at least so many."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SUMMED = 512
"""Counts up to here are summed exactly; above, the distribution is taken as normal."""
SMALLEST_CHANCE = 1e-6
"""Of at least so many: below, a loss would have no gradient that helps."""


def log_probability(log_mean: Tensor, size: Tensor, count: Tensor) -> Tensor:
    """log P(demand = count), of any shape; the variance is mean + mean^2 / size."""
    log_total = torch.logaddexp(log_mean, torch.log(size))
    return (
        torch.lgamma(count + size)
        - torch.lgamma(size)
        - torch.lgamma(count + 1)
        + size * (torch.log(size) - log_total)
        + count * (log_mean - log_total)
    )


def log_likelihood(log_mean: Tensor, size: Tensor, count: Tensor, is_censored: Tensor) -> Tensor:
    """log P(demand = count), or log P(demand >= count) where it is censored (Tobin, 1958); all of one shape."""
    exact = log_probability(log_mean, size, count)
    if not bool(is_censored.any()):
        return exact
    at_least = _log_at_least(log_mean[is_censored], size[is_censored], count[is_censored])
    return exact.masked_scatter(is_censored, at_least)


def _log_at_least(log_mean: Tensor, size: Tensor, count: Tensor) -> Tensor:
    """log P(demand >= count) [N]."""
    found = torch.zeros_like(log_mean)
    is_small = count <= MAX_SUMMED
    if bool(is_small.any()):
        most = count[is_small]
        grid = torch.arange(int(most.max().ceil()), device=count.device, dtype=count.dtype)
        chances = log_probability(log_mean[is_small, None], size[is_small, None], grid).exp()
        below = torch.where(grid < most[:, None], chances, 0.0).sum(1)
        found = found.masked_scatter(is_small, torch.log1p(-below.clamp(max=1 - SMALLEST_CHANCE)))
    if bool((~is_small).any()):
        mean = log_mean[~is_small].exp()
        deviation = (mean + mean * mean / size[~is_small]).sqrt()
        found = found.masked_scatter(~is_small, torch.special.log_ndtr((mean - count[~is_small] + 0.5) / deviation))
    return found
