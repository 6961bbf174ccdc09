"""Distributions of totals over series, whose errors go together: calibrated on the totals of validation windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.forecast.data import Windows
from models.forecast.groups import KINDS, Kind, calibrated_groups, places
from models.forecast.networks.conformal import NUM_BINS, bins, corrected_levels
from models.forecast.networks.distributions import Distribution, dispersion_of, negative_binomial
from models.forecast.schema import KNOWN, Schema

Floats = npt.NDArray[np.float64]

MIN_TOTALS = 50
"""Totals of a period on validation that a kind needs for an interval of its own; others share that of all kinds."""
ANY = len(KINDS)
"""Row of what was found over all kinds together."""
COLUMNS = ("mean", "variance", "units")
"""What is summed over the series of a group, in the periods in which their demand is known."""


@dataclass(frozen=True)
class Uncertainty:
    """How uncertain the totals of one kind are."""

    common: float
    """The error that all series have in common, as a share of the mean of the total."""
    levels: Floats
    """[NUM_BINS + 1] the level to take for each of 0, 1 / NUM_BINS, ... 1."""
    num_totals: int
    """Totals of a period on validation that it was calibrated on; 0 is not calibrated."""
    is_own: bool
    """Whether these are of the same kind."""

    def distribution(self, mean: Floats, variance: Floats) -> Distribution:
        """The totals [...], given the sums of the means and variances of their series."""
        return Distribution(mean, dispersion=dispersion_of(mean, variance + (self.common * mean) ** 2))

    def quantiles(self, mean: Floats, variance: Floats, wanted: Sequence[float]) -> Floats:
        """Quantiles [..., wanted] of totals [...] at corrected levels."""
        levels = np.interp(wanted, np.linspace(0, 1, len(self.levels)), self.levels)
        found = self.distribution(mean, variance)
        assert found.dispersion is not None
        return negative_binomial(mean[..., None], found.dispersion[..., None], levels)


class Totals(nn.Module):
    """What validation says of the totals of each kind: variances add up as of independent series, and an error in
    common, which a holiday or the weather makes, is a share of the mean; levels are then made conformal."""

    common: Tensor
    levels: Tensor
    counts: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self._schema, self._groups = schema, calibrated_groups(schema)
        self.shape = (len(schema.val_origins), len(self._groups), schema.horizon, len(COLUMNS))
        grid = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64)
        self.register_buffer("common", torch.zeros(ANY + 1, dtype=torch.float64))
        self.register_buffer("levels", grid.repeat(ANY + 1, 1))
        self.register_buffer("counts", torch.zeros(ANY + 1, dtype=torch.int64))
        before_loading: Any = self.register_load_state_dict_pre_hook
        before_loading(_with_defaults)

    @property
    def size(self) -> int:
        """Numbers of `add`."""
        return int(np.prod(self.shape))

    def add(self, sums: Floats, found: Distribution, batch: Windows) -> None:
        """Add a batch of validation windows to sums [classes of demand, size]."""
        rows, origins, groups = places(batch, self._schema, self._groups, self._schema.val_origins)
        is_known = (batch.target_status == KNOWN).cpu().numpy()
        target = batch.target.double().cpu().numpy()
        values = np.stack([found.mean, found.variance(), target], -1) * is_known[..., None]
        demand = batch.demand.cpu().numpy()
        of_class = sums.reshape(len(sums), *self.shape)
        np.add.at(of_class, (demand[rows], origins, groups), values[rows])

    def calibrate(self, sums: Floats) -> None:
        """Choose the errors in common and the levels, given the sums [size] of all of validation."""
        mean, variance, units = np.moveaxis(sums.reshape(self.shape), -1, 0)
        kind = np.array([KINDS.index(each) for each, _ in self._groups], np.int64)
        kinds = np.broadcast_to(kind[None, :, None], mean.shape)[mean > 0]
        cells = np.stack([part[mean > 0] for part in (mean, variance, units)])
        for row in range(ANY + 1):
            own = cells if row == ANY else cells[:, kinds == row]
            self.counts[row] = own.shape[1]
            self.common[row] = common = _common(*own)
            uncertainty = Uncertainty(common, np.zeros(0), 0, is_own=True)
            at = uncertainty.distribution(own[0], own[1])
            below, at_most = at.below(own[2]), at.at_most(own[2])
            counts = np.bincount(bins((below + at_most) / 2), minlength=NUM_BINS).astype(np.float64)
            self.levels[row] = torch.from_numpy(corrected_levels(counts))

    def of(self, kind: Kind) -> Uncertainty:
        """The uncertainty of a kind of totals; that of all kinds together where it has too few on validation."""
        counts = self.counts.tolist()
        own = KINDS.index(kind)
        row = own if counts[own] >= MIN_TOTALS else ANY
        levels = self.levels[row].cpu().numpy()
        if counts[row] < MIN_TOTALS:
            return Uncertainty(0.0, np.linspace(0, 1, NUM_BINS + 1), 0, is_own=False)
        return Uncertainty(float(self.common[row]), levels, counts[row], is_own=row == own)


def _common(mean: Floats, variance: Floats, units: Floats) -> float:
    """The error in common as a share of the mean: what the squared errors exceed independent ones by."""
    below = float((mean**2).sum())
    excess = float(((units - mean) ** 2 - variance).sum())
    return float(np.sqrt(max(excess, 0.0) / below)) if below else 0.0


def _with_defaults(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Weights of a model from before there were totals have none of this: its totals are not calibrated."""
    defaults: Mapping[str, Tensor] = dict(module.named_buffers())
    if not any(prefix + name in state for name in defaults):
        state.update({prefix + name: value for name, value in defaults.items()})
