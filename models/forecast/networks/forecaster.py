"""A forecaster: a learned or simple forecast, blended by class of demand and made conformal on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.forecast.config import BASELINE_NETWORKS, Config
from models.forecast.data import Windows
from models.forecast.networks.answers import COVERAGE, QUANTILES, Answers, Forecast, ends
from models.forecast.networks.baselines import Baseline
from models.forecast.networks.conformal import NUM_BINS, bins, corrected_levels
from models.forecast.networks.distributions import Distribution
from models.forecast.networks.learned import Learned
from models.forecast.networks.simple import NAMES, simple_forecasts
from models.forecast.networks.totals import Totals
from models.forecast.networks.tree import Trees
from models.forecast.report.metrics import measured
from models.forecast.schema import KNOWN, Schema
from models.metrics import BatchMetrics
from models.raw.demand import CLASSES

Floats = npt.NDArray[np.float64]

TREE = "tree"
MIXED = (*NAMES, TREE)
"""What a network is blended with."""


def _options() -> Floats:
    """Shares [options, 1 + MIXED] of the network and of what it is mixed with.

    The first is a third each of the network, trees and exponential smoothing: a plain mean is hard to beat (Clemen,
    1989), and validation is one window of time.
    """
    own = np.eye(1 + len(MIXED))
    network, tree, smoothed = own[0], own[1 + MIXED.index(TREE)], own[1 + MIXED.index("ets")]
    halves = [(network + row) / 2 for row in own[1:]]
    others = [(2 * network + tree + smoothed) / 4, (network + 2 * tree + smoothed) / 4, (tree + smoothed) / 2]
    return np.array([(network + tree + smoothed) / 3, network, *halves, *others, *own[1:]])


OPTIONS = _options()
MIN_GAIN = 0.02
"""A blend has to lower the squared error on validation by more than this share."""
MIN_TARGETS = 200
"""Held-out periods that a class of demand needs for choices of its own; others share those of all."""
NUM_SPREAD = 8
"""Points at which the levels that a unit takes are counted."""

SUMS = 2 + 3 * NUM_BINS
"""Numbers of `calibration` before those of totals."""


class Forecaster(nn.Module):
    """Forecasts of any network or baseline, with what validation chose."""

    option: Tensor
    step_levels: Tensor
    interval_levels: Tensor
    total_levels: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        is_baseline = config.network in BASELINE_NETWORKS
        self.forecast: Learned | Baseline = Baseline(config, schema) if is_baseline else Learned(config, schema)
        self.is_quantile = not is_baseline and config.head == "quantile"
        self.num_options = len(OPTIONS) if config.blend and not is_baseline else 1
        self.trees = Trees(schema) if self.num_options > 1 else None
        self.season, self.is_count, self.context = schema.season, schema.is_count, config.context
        grid = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64)
        self.register_buffer("option", torch.zeros(len(CLASSES), dtype=torch.int64))
        self.register_buffer("step_levels", grid.repeat(len(CLASSES), 1))
        self.register_buffer("interval_levels", grid.repeat(len(CLASSES), 1))
        self.register_buffer("total_levels", grid.clone())
        self.totals = Totals(schema)

    def loss(self, batch: Windows) -> Tensor:
        """The loss of a training batch."""
        assert isinstance(self.forecast, Learned)
        return self.forecast.loss(batch)

    def evaluate(self, batch: Windows) -> BatchMetrics:
        """Metrics of the known periods of held-out windows, see `models.forecast.report.metrics`."""
        return measured(self.answers(batch), batch)

    def predict(self, batch: Windows) -> list[Forecast]:
        """The forecast of each window."""
        found = self.answers(batch)
        total, variance = found.distribution.total(), found.distribution.variance()
        assert total.dispersion is not None
        levels = self.total_levels.cpu().numpy()
        return [
            Forecast(
                mean=found.distribution.mean[row],
                variance=variance[row],
                quantiles=found.quantiles[row],
                interval=found.interval[row],
                total_mean=total.mean[row],
                total_dispersion=total.dispersion[row],
                total_levels=levels,
                totals=self.totals,
                start=int(batch.start[row]),
            )
            for row in range(len(batch.demand))
        ]

    def answers(self, batch: Windows) -> Answers:
        """The blended, conformal forecasts of a batch."""
        found, demand = self.blended(batch), batch.demand.cpu().numpy()
        quantiles = self._quantiles(found, self.step_levels.cpu().numpy()[demand], QUANTILES)
        tail = (1 - COVERAGE) / 2
        high = self._quantiles(found, self.interval_levels.cpu().numpy()[demand], (COVERAGE, 1 - tail))
        low = quantiles[..., QUANTILES.index(round(tail, 3))]
        return Answers(found, quantiles, ends(low, high[..., 1], high[..., 0]))

    def blended(self, batch: Windows) -> Distribution:
        """The blended forecasts of a batch, before their levels are corrected."""
        batch = self._cut(batch)
        simple = simple_forecasts(batch, self.season)
        own = self._distribution(batch, simple)
        if self.trees is None:
            return own
        shares = OPTIONS[self.option.cpu().numpy()[batch.demand.cpu().numpy()]]
        return own.with_mean(np.einsum("bhm,bm->bh", self._candidates(own, batch, simple), shares))

    def calibration(self, batch: Windows) -> Tensor:
        """For each class of demand and option: squared error, count, and how often demand was at which level.

        [classes, options, SUMS + size of totals]: levels of single periods, spread over those that a unit takes (Czado,
        Gneiting and Held, 2009), levels below these, levels of whole horizons, and sums of totals.
        """
        batch = self._cut(batch)
        simple = simple_forecasts(batch, self.season)
        own = self._distribution(batch, simple)
        candidates = self._candidates(own, batch, simple)
        demand, target = batch.demand.cpu().numpy(), batch.target.double().cpu().numpy()
        is_known = (batch.target_status == KNOWN).cpu().numpy()
        scale = np.maximum(batch.naive_scale.double().cpu().numpy(), 1e-3)
        sums = np.zeros((len(CLASSES), self.num_options, SUMS + self.totals.size))
        classes = np.repeat(demand[:, None], target.shape[1], 1)[is_known]
        whole = is_known.all(1)
        for number in range(self.num_options):
            found = own if self.trees is None else own.with_mean(candidates @ OPTIONS[number])
            errors = ((found.mean - target) ** 2 / scale[:, None])[is_known]
            np.add.at(sums[:, number, 0], classes, errors)
            np.add.at(sums[:, number, 1], classes, 1.0)
            below, at_most = found.below(target)[is_known], found.at_most(target)[is_known]
            for place in (np.arange(NUM_SPREAD) + 0.5) / NUM_SPREAD:
                levels = bins(below + place * (at_most - below))
                np.add.at(sums[:, number], (classes, 2 + levels), 1 / NUM_SPREAD)
            np.add.at(sums[:, number], (classes, 2 + NUM_BINS + bins(below)), 1.0)
            total = found.total()
            ranks = bins(total.below(target.cumsum(1))[whole, -1])
            np.add.at(sums[:, number], (demand[whole], 2 + 2 * NUM_BINS + ranks), 1.0)
            self.totals.add(sums[:, number, SUMS:], found, batch)
        return torch.from_numpy(sums)

    def calibrate(self, sums: Tensor) -> None:
        """Choose each class's blend and levels, given `calibration` added over the validation split."""
        found = sums.double().cpu().numpy()
        pooled = found.sum(0)
        best_of_all = _best(pooled)
        options = [_best(part) if part[0, 1] >= MIN_TARGETS else best_of_all for part in found]
        chosen = np.stack([part[option] for part, option in zip(found, options, strict=True)])
        step, interval, total = np.split(chosen[:, 2:SUMS], 3, axis=1)
        self.totals.calibrate(chosen[:, SUMS:].sum(0))
        self.option.copy_(torch.tensor(options))
        self.total_levels.copy_(torch.from_numpy(corrected_levels(total.sum(0))))
        for buffer, counts in ((self.step_levels, step), (self.interval_levels, interval)):
            of_all = counts.sum(0)
            levels = [corrected_levels(own if own.sum() >= MIN_TARGETS else of_all) for own in counts]
            buffer.copy_(torch.from_numpy(np.stack(levels)))

    def _quantiles(self, found: Distribution, levels: Floats, wanted: Sequence[float]) -> Floats:
        """Quantiles [B, H, wanted] at corrected levels, given those of each window [B, NUM_BINS + 1]."""
        corrected = np.stack([_at(levels, level) for level in wanted], -1)
        quantiles = found.quantile(np.broadcast_to(corrected[:, None], (*found.mean.shape, len(wanted))))
        return np.rint(quantiles) if self.is_count else quantiles

    def _cut(self, batch: Windows) -> Windows:
        """The batch with the history that this network sees; those of requests are longer."""
        extra = batch.units.shape[1] - self.context
        if not extra:
            return batch
        assert extra > 0, "a window has at least the history of the network"
        parts = {name: getattr(batch, name)[:, extra:] for name in ("units", "status", "known")}
        return replace(batch, **parts)

    def _candidates(self, own: Distribution, batch: Windows, simple: Tensor) -> Floats:
        """The means [B, H, 1 + MIXED] that are blended, the network's first; only that of a baseline."""
        if self.trees is None:
            return own.mean[..., None]
        mixed = torch.cat([simple, self.trees(batch, simple)[..., None]], -1).double().cpu().numpy()
        return np.concatenate([own.mean[..., None], mixed], -1)

    def _distribution(self, batch: Windows, simple: Tensor) -> Distribution:
        mean, shape = (value.detach().double().cpu().numpy() for value in self.forecast(batch, simple))
        if self.is_quantile:
            return Distribution(mean, quantiles=np.maximum(shape, 0.0), step=float(self.is_count))
        return Distribution(mean, dispersion=shape)


def _best(sums: Floats) -> int:
    """The option with the least squared error; the first unless one is clearly better."""
    best = int(sums[:, 0].argmin())
    return best if sums[best, 0] < (1 - MIN_GAIN) * sums[0, 0] else 0


def _at(levels: Floats, wanted: float) -> Floats:
    """The corrected level [B] for a wanted one, from the levels [B, NUM_BINS + 1]."""
    place = wanted * NUM_BINS
    low = min(int(place), NUM_BINS - 1)
    found: Floats = levels[:, low] + (place - low) * (levels[:, low + 1] - levels[:, low])
    return found
