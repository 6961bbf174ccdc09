"""Simple forecasts from a window of history, in torch: inputs of the networks, parts of blends, and baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from models.forecast.data import Windows
from models.forecast.schema import KNOWN

NAMES = ("mean", "last season", "same season", "tsb", "ets")
"""The simple forecasts of `simple_forecasts`, in order."""
SHRINK = 1.0
"""Seasons of the plain mean that the mean of the same phase of the season is shrunk with."""
TSB_RATES = (0.05, 0.1, 0.2, 0.3)


def levels(batch: Windows, unit: float) -> Tensor:
    """The level of each window [B]: the mean of its known periods, and a little of the usual units of a sale."""
    known = (batch.status == KNOWN).to(batch.units.dtype)
    return (batch.units * known).sum(1) / known.sum(1).clamp_min(1) + 0.05 * unit


def simple_forecasts(batch: Windows, season: int) -> Tensor:
    """The forecasts of NAMES [B, H, names]."""
    horizon = batch.target.shape[1]
    known = (batch.status == KNOWN).to(batch.units.dtype)
    mean = _mean(batch.units, known)
    recent = _recent_mean(batch.units, known, season)
    flat = torch.stack([mean, recent], -1)[:, None].expand(-1, horizon, -1)
    seasonal = _seasonal_mean(batch.units, known, season, horizon)
    tsb = tsb_level(batch.units, known)[:, None].expand(-1, horizon)
    smoothed = exponential_smoothing(batch, season)
    return torch.cat([flat, seasonal[..., None], tsb[..., None], smoothed[..., None]], -1)


def seasonal_naive(batch: Windows, season: int) -> Tensor:
    """The units of the same phase in the last season [B, H]; the mean where they are not known."""
    units, known, horizon = batch.units, batch.status == KNOWN, batch.target.shape[1]
    length = units.shape[1]
    found = _mean(units, known.to(units.dtype))[:, None].expand(-1, horizon).clone()
    for step in range(horizon):
        back = season - step % season
        if back <= length:
            found[:, step] = torch.where(known[:, length - back], units[:, length - back], found[:, step])
    return found


def tsb_level(units: Tensor, known: Tensor) -> Tensor:
    """The level of Teunter, Syntetos and Babai (EJOR 2011) [B]: probability of demand times its size.

    Both are smoothed at the rate of TSB_RATES with the least squared error of the window's one-step forecasts.
    """
    rates = units.new_tensor([(one, other) for one in TSB_RATES for other in TSB_RATES])
    return _smoothed(units, known, rates, keeps_chance=False)


def croston_level(units: Tensor, known: Tensor) -> Tensor:
    """The level of Croston (1972) with the correction of Syntetos and Boylan (2005) [B]."""
    rates = units.new_tensor([(rate, rate) for rate in TSB_RATES])
    return _smoothed(units, known, rates, keeps_chance=True)


def _smoothed(units: Tensor, known: Tensor, rates: Tensor, *, keeps_chance: bool) -> Tensor:
    """Size times chance, or size over interval, smoothed at the best of some pairs of rates [R, 2]."""
    sold = ((units > 0) & (known > 0)).to(units.dtype)
    size = (units * sold).sum(1, keepdim=True) / sold.sum(1, keepdim=True).clamp_min(1)
    chance = sold.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
    size, chance = size.expand(-1, len(rates)).clone(), chance.clamp_min(1e-3).expand(-1, len(rates)).clone()
    interval, since = 1 / chance, torch.ones_like(chance)
    error = torch.zeros_like(size)
    for place in range(units.shape[1]):
        unit, is_known, is_sold = (value[:, place, None] for value in (units, known, sold))
        forecast = size * (1 - rates[:, 1] / 2) / interval if keeps_chance else size * chance
        error += is_known * (unit - forecast) ** 2
        size = torch.where(is_sold > 0, size + rates[:, 0] * (unit - size), size)
        chance = torch.where(is_known > 0, chance + rates[:, 1] * (is_sold - chance), chance)
        interval = torch.where(is_sold > 0, interval + rates[:, 1] * (since - interval), interval)
        since = torch.where(is_sold > 0, torch.ones_like(since), since + is_known)
    level = size * (1 - rates[:, 1] / 2) / interval if keeps_chance else size * chance
    return level.gather(1, error.argmin(1, keepdim=True)).squeeze(1)


def exponential_smoothing(batch: Windows, season: int) -> Tensor:
    """Simple exponential smoothing with an additive season [B, H] (Holt and Winters), by the best of some rates.

    Level and season start at those of the whole window; a window of less than two seasons has none.
    """
    units, horizon = batch.units, batch.target.shape[1]
    known = (batch.status == KNOWN).to(units.dtype)
    length = units.shape[1]
    has_season = length >= 2 * season
    grid = [
        (level, of_season) for level in (0.02, 0.1, 0.3) for of_season in ((0.0, 0.1, 0.3) if has_season else (0.0,))
    ]
    rates = units.new_tensor(grid)
    level = _mean(units, known)[:, None].expand(-1, len(rates)).clone()
    phases = torch.zeros(*level.shape, season, dtype=units.dtype, device=units.device)
    if has_season:
        first = _seasonal_mean(units, known, season, season) - level[:, :1]
        # The forecast's step h has the phase (length + h) % season.
        phases[:] = first.roll(length % season, 1)[:, None]
    error = torch.zeros_like(level)
    for place in range(length):
        unit, is_known, phase = units[:, place, None], known[:, place, None], place % season
        gap = is_known * (unit - level - phases[..., phase])
        error += gap**2
        level = level + rates[:, 0] * gap
        phases[..., phase] += rates[:, 1] * gap
    best = error.argmin(1)
    rows = torch.arange(len(units), device=units.device)
    steps = (torch.arange(horizon, device=units.device) + length) % season
    return (level[rows, best, None] + phases[rows, best][:, steps]).clamp_min(0)


def _mean(units: Tensor, known: Tensor) -> Tensor:
    return (units * known).sum(1) / known.sum(1).clamp_min(1)


def _recent_mean(units: Tensor, known: Tensor, season: int) -> Tensor:
    """The mean of the last season; of all that is known where nothing of it is."""
    recent = min(season, units.shape[1])
    of_season = _mean(units[:, -recent:], known[:, -recent:])
    return torch.where(known[:, -recent:].sum(1) > 0, of_season, _mean(units, known))


def _seasonal_mean(units: Tensor, known: Tensor, season: int, horizon: int) -> Tensor:
    """The mean of the same phase of all seasons of the window, shrunk to the mean of the window [B, horizon]."""
    length = units.shape[1]
    missing = -length % season
    shape = (len(units), -1, season)
    padded = torch.nn.functional.pad(units * known, (missing, 0)).reshape(shape).sum(1)
    count = torch.nn.functional.pad(known, (missing, 0)).reshape(shape).sum(1)
    mean = _mean(units, known)[:, None]
    by_phase = (padded + SHRINK * mean) / (count + SHRINK)
    return by_phase[:, torch.arange(horizon, device=units.device) % season]
