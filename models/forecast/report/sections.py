"""What the forecast family adds to a report: coverage, stock at service levels, errors by period."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.forecast.config import Config
from models.forecast.data import Windows, collate, dataset
from models.forecast.networks.answers import MEDIAN, QUANTILES, Answers
from models.forecast.networks.forecaster import MIXED, OPTIONS, Forecaster
from models.forecast.report.totals import totals_section
from models.forecast.schema import KNOWN, Schema
from models.prepared import Prepared
from models.raw.demand import CLASSES
from models.report import Cell, Section, Table
from models.sampling import evenly

MAX_WINDOWS = 4_000
BLOCK = 512
SERVICE_LEVELS = (0.9, 0.95, 0.99)

Floats = npt.NDArray[np.float64]


def report(network: Forecaster, data: Prepared, split: str, *, schema: Schema, config: Config) -> Sequence[Section]:
    """Coverage, stock at service levels, errors by period ahead, totals, and what was blended."""
    windows = dataset(data, split, range(data.num_shards), schema=schema, config=config, epoch=0)
    chosen = evenly(windows, MAX_WINDOWS)
    batches = [collate(chosen[start : start + BLOCK]) for start in range(0, len(chosen), BLOCK)]
    seen = list(_seen(network, batches))
    if not seen:
        return ()
    own = data.schema(Schema)
    origins = own.val_origins if split == "val" else own.test_origins
    shift = own.first - schema.first
    totals = totals_section(network, windows, [shift + origin for origin in origins], schema=schema)
    return [_coverage(seen), _service(seen), _ahead(seen), totals, _blends(network)]


def _seen(network: Forecaster, batches: Sequence[Windows]) -> Iterator[tuple[Windows, Answers]]:
    with torch.inference_mode():
        device = next(iter(network.state_dict().values())).device
        yield from ((batch, network.answers(batch.to(device))) for batch in batches)


def _coverage(seen: Sequence[tuple[Windows, Answers]]) -> Section:
    """The share of periods inside the 90 % interval and at or below each quantile, by class of demand."""
    inside, below, demand = [], [], []
    for batch, found in seen:
        is_known, target = _known(batch)
        inside.append(((target >= found.interval[..., 0]) & (target <= found.interval[..., 1]))[is_known])
        below.append((target[..., None] <= found.quantiles)[is_known])
        demand.append(np.repeat(batch.demand.cpu().numpy()[:, None], target.shape[1], 1)[is_known])
    all_inside, all_below, all_demand = (np.concatenate(part) for part in (inside, below, demand))
    table: list[list[Cell]] = []
    for number, name in [*enumerate(CLASSES), (-1, "all")]:
        chosen = all_demand == number if number >= 0 else np.ones(len(all_demand), np.bool_)
        if chosen.any():
            shares = [float(all_below[chosen, place].mean()) for place in range(len(QUANTILES))]
            table.append([name, int(chosen.sum()), float(all_inside[chosen].mean()), *shares])
    head = ["demand", "periods", "inside 90 % interval", *(f"at most q{level:g}" for level in QUANTILES)]
    return Section(
        "Intervals and quantiles",
        "The share inside the 90 % interval should be about 0.9, and the share at most q0.95 about 0.95; where most "
        "periods have no demand, low quantiles are 0 and hold more.",
        [Table("coverage", head, table)],
        {"coverage_90": float(all_inside.mean()), "bias": _bias(seen)},
    )


def _service(seen: Sequence[tuple[Windows, Answers]]) -> Section:
    """What stock each service level needs, and what share of demand it would have met."""
    table: list[list[Cell]] = []
    for level in SERVICE_LEVELS:
        place = QUANTILES.index(level)
        stock = met = wanted = served = count = 0.0
        for batch, found in seen:
            is_known, target = _known(batch)
            held, units = found.quantiles[..., place][is_known], target[is_known]
            stock += float(held.sum())
            met += float(np.minimum(held, units).sum())
            wanted += float(units.sum())
            served += float((units <= held).sum())
            count += len(units)
        table.append([f"{level:.0%}", served / max(count, 1), met / max(wanted, 1e-9), stock / max(wanted, 1e-9)])
    return Section(
        "Stock at service levels",
        "If each period began with the stock of the quantile: the share of periods in which it lasted, the share of "
        "demand it met, and the stock in multiples of demand.",
        [Table("service_levels", ["service level", "periods it lasted", "demand met", "stock by demand"], table)],
    )


def _ahead(seen: Sequence[tuple[Windows, Answers]]) -> Section:
    """Errors by period ahead."""
    horizon = seen[0][0].target.shape[1]
    error, units, loss = np.zeros(horizon), np.zeros(horizon), np.zeros(horizon)
    for batch, found in seen:
        is_known, target = _known(batch)
        error += (np.abs(found.distribution.mean - target) * is_known).sum(0)
        loss += (np.abs(found.quantiles[..., MEDIAN] - target) * is_known).sum(0)
        units += (target * is_known).sum(0)
    below = np.maximum(units, 1e-9)
    rows = [[step + 1, float(error[step] / below[step]), float(loss[step] / below[step])] for step in range(horizon)]
    return Section(
        "Periods ahead",
        "How errors grow with the time ahead: absolute errors by the units of all series.",
        [Table("periods_ahead", ["period ahead", "WAPE of the mean", "WAPE of the median"], rows, folded=horizon > 12)],
    )


def _blends(network: Forecaster) -> Section:
    """What validation chose for each class of demand."""
    if network.trees is None:
        return Section("Chosen by class of demand", "Nothing was mixed in.", [])
    rows = [[name, *OPTIONS[option].tolist()] for name, option in zip(CLASSES, network.option.tolist(), strict=True)]
    return Section(
        "Chosen by class of demand",
        "The shares of the network, of simple forecasts and of trees in the mean forecast, as validation chose.",
        [Table("blends", ["demand", "network", *MIXED], rows)],
    )


def _bias(seen: Sequence[tuple[Windows, Answers]]) -> float:
    """Sum of the mean forecasts minus the units, by the units; 0 where nothing was sold."""
    error = units = 0.0
    for batch, found in seen:
        is_known, target = _known(batch)
        error += float((found.distribution.mean - target)[is_known].sum())
        units += float(target[is_known].sum())
    return error / units if units else 0.0


def _known(batch: Windows) -> tuple[npt.NDArray[np.bool_], Floats]:
    return (batch.target_status == KNOWN).cpu().numpy(), batch.target.double().cpu().numpy()
