"""The section of a report on totals: their errors beside the seasonal naive, and the coverage of their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.family import Dataset
from models.forecast.data import Window, collate
from models.forecast.groups import KINDS, all_groups, places
from models.forecast.networks.answers import COVERAGE, ends
from models.forecast.networks.forecaster import Forecaster
from models.forecast.networks.simple import seasonal_naive
from models.forecast.networks.totals import ANY, MIN_TOTALS
from models.forecast.schema import KNOWN, Schema
from models.report import Cell, Section, Table

BLOCK = 512
COLUMNS = ("mean", "variance", "units", "naive")

Floats = npt.NDArray[np.float64]


def totals_section(network: Forecaster, windows: Dataset[Window], origins: Sequence[int], *, schema: Schema) -> Section:
    """Errors of the totals of all windows of a split, whose forecasts begin at the given origins."""
    groups = all_groups(schema)
    sums = _sums(network, windows, origins, schema=schema)
    kind_of = np.array([KINDS.index(kind) for kind, _ in groups])
    rows: list[list[Cell]] = []
    numbers: dict[str, float] = {}
    for place, kind in enumerate(KINDS):
        part = sums[:, kind_of == place]
        mean, variance, units, naive = np.moveaxis(part[part[..., 0] > 0], -1, 0)
        if not len(mean):
            continue
        found = network.totals.of(kind).quantiles(mean, variance, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2, COVERAGE))
        interval = ends(found[..., 0], found[..., 1], found[..., 2])
        inside = (units >= interval[..., 0]) & (units <= interval[..., 1])
        below = max(float(units.sum()), 1e-9)
        wape, of_naive = (float(np.abs(each - units).sum()) / below for each in (mean, naive))
        num_groups = int((part[..., 0] > 0).any((0, 2)).sum())
        rows.append([kind, num_groups, len(mean), wape, of_naive, float(inside.mean())])
        numbers |= {f"total_wape_{kind}": wape, f"naive_total_wape_{kind}": of_naive}
    return Section(
        "Totals",
        "Forecasts of totals are the sums of those of their series, over the periods in which demand is known. The "
        "seasonal naive is the total of the season before. " + _told(network),
        [Table("totals", ["total of", "groups", "periods", "WAPE", "WAPE of naive", "inside 90 % interval"], rows)],
        numbers,
    )


def _sums(network: Forecaster, windows: Dataset[Window], origins: Sequence[int], *, schema: Schema) -> Floats:
    """Sums of COLUMNS over the series of each group [origins, groups, H, COLUMNS] where demand is known."""
    groups = all_groups(schema)
    found = np.zeros((len(origins), len(groups), schema.horizon, len(COLUMNS)))
    device = next(iter(network.state_dict().values())).device
    for start in range(0, len(windows), BLOCK):
        batch = collate([windows[row] for row in range(start, min(start + BLOCK, len(windows)))]).to(device)
        with torch.inference_mode():
            forecast = network.blended(batch)
            naive = seasonal_naive(batch, schema.season).double().cpu().numpy()
        is_known = (batch.target_status == KNOWN).cpu().numpy()
        columns = (forecast.mean, forecast.variance(), batch.target.double().cpu().numpy(), naive)
        values = np.stack(columns, -1) * is_known[..., None]
        rows, origin, group = places(batch, schema, groups, origins)
        np.add.at(found, (origin, group), values[rows])
    return found


def _told(network: Forecaster) -> str:
    counts = network.totals.counts.tolist()
    if counts[ANY] < MIN_TOTALS:
        return "Validation had too few totals: intervals take errors of series for independent and may be too narrow."
    own = [kind for kind, count in zip(KINDS, counts, strict=False) if count >= MIN_TOTALS]
    return (
        f"Intervals were calibrated on {counts[ANY]:,} totals of validation, by kind for: {', '.join(own) or 'none'}."
    )
