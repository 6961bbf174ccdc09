"""Evaluates a model on a shard of held-out examples, block by block; for validation and for every evaluation.

A block never crosses a shard, and each example is used once, so metrics do not depend on the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.family import Batch, Family
from models.metric import Metric
from models.prepared import Prepared

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK_SIZE = 512
"""Examples that are evaluated together."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A network, trained or count-based, with what it was built from."""

    family: Family
    config: Any
    schema: Any
    network: Any


@dataclass(frozen=True)
class Scores:
    """What each of N examples contributes to every metric, in the order of the data."""

    numerators: dict[str, Floats]
    """Ratio -> [N]."""
    denominators: dict[str, Floats]
    """Ratio -> [N]; 0 where the example does not count."""
    slices: dict[str, NDArray[np.str_]]
    """Slice dimension -> label of each example [N]."""
    accumulators: dict[str, Tensor]
    """Sums for metrics of the whole split."""
    kept: dict[str, NDArray[Any]]
    """Per-example values for metrics with a `compute`: name -> [N, ...]."""
    num_examples: int
    """Examples in the split."""

    def value(self, metric: Metric, among: NDArray[np.bool_] | None = None) -> float:
        """A metric over all examples, or over those of a mask; NaN when none counts."""
        if metric.compute is not None:
            return metric.computed(self.kept) if among is None else metric.computed_or_nan(rows_of(self.kept, among))
        return self.ratio(metric.name, among)

    def ratio(self, name: str, among: NDArray[np.bool_] | None = None) -> float:
        """A ratio over all examples, or over those of a mask; NaN when none counts."""
        if name not in self.numerators:
            return math.nan
        chosen = slice(None) if among is None else among
        # fsum rounds once, so the value does not depend on the order of the examples either.
        below = math.fsum(self.denominators[name][chosen])
        return math.fsum(self.numerators[name][chosen]) / below if below else math.nan

    def num_counted(self, metric: Metric, among: NDArray[np.bool_] | None = None) -> int:
        """How many examples count for a metric, of all or of those of a mask."""
        chosen = np.ones(self.num_examples, np.bool_) if among is None else among
        if metric.compute is not None:
            return int(chosen.sum())
        return int((chosen & (self.denominators[metric.name] > 0)).sum())

    def values(self, metrics: Sequence[Metric]) -> dict[str, float]:
        """Every ratio, and every one of `metrics` with a `compute`, that is defined."""
        found = {name: self.ratio(name) for name in self.numerators}
        found |= {metric.name: self.value(metric) for metric in metrics if metric.compute is not None}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def blocks(
    family: Family, data: Prepared, split: str, shard: int, *, schema: Any, config: Any
) -> Iterator[tuple[Batch, int]]:
    """The examples of a shard as (batch, number of examples), in order."""
    dataset = family.dataset(data, split, [shard], schema=schema, config=config, epoch=0)
    for start in range(0, len(dataset), BLOCK_SIZE):
        examples = [dataset[row] for row in range(start, min(start + BLOCK_SIZE, len(dataset)))]
        yield family.collate(examples), len(examples)


def evaluate_shard(
    model: Model, data: Prepared, split: str, shard: int, *, device: torch.device | str = "cpu"
) -> Scores | None:
    """Scores of the examples of a shard, None for one without examples; the network must be in evaluation mode.

    Raises ValueError unless `evaluate` and `slices` give one value per example, under the same names for every block.
    """
    import torch

    with torch.inference_mode():
        found = blocks(model.family, data, split, shard, schema=model.schema, config=model.config)
        return join([_scored(model, batch, size, device) for batch, size in found])


def _scored(model: Model, batch: Batch, size: int, device: torch.device | str) -> Scores:
    family = model.family
    # Slices first: a network may modify its batch.
    slices = {name: np.asarray(labels, np.str_) for name, labels in family.slices(batch, model.schema).items()}
    found = family.evaluate(model.network, batch.to(device))
    part = Scores(
        numerators={name: ratio.numerator.double().cpu().numpy() for name, ratio in found.ratios.items()},
        denominators={name: ratio.denominator.double().cpu().numpy() for name, ratio in found.ratios.items()},
        slices=slices,
        accumulators={name: value.cpu() for name, value in found.accumulators.items()},
        kept={name: _array(value) for name, value in found.kept.items()},
        num_examples=size,
    )
    _check_rows(family, part)
    return part


def join(parts: Sequence[Scores | None]) -> Scores | None:
    """Concatenate the scores of several shards or blocks, in order; None if none of them has an example.

    Raises ValueError for parts with other metrics or slices than the first.
    """
    full = [part for part in parts if part is not None]
    if not full:
        return None
    return Scores(
        numerators=_concatenated("ratios", [part.numerators for part in full]),
        denominators=_concatenated("ratios", [part.denominators for part in full]),
        slices=_concatenated("slices", [part.slices for part in full]),
        accumulators=_total([part.accumulators for part in full]),
        kept=_concatenated("kept values", [part.kept for part in full]),
        num_examples=sum(part.num_examples for part in full),
    )


def rows_of(kept: Mapping[str, NDArray[Any]], rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The kept values of some examples, given by a mask [N] or by indices."""
    return {name: values[rows] for name, values in kept.items()}


def check_same_names(kind: str, parts: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError, which names the difference, unless all parts of a split have the same names."""
    for part in parts[1:]:
        if different := sorted(part.keys() ^ parts[0].keys()):
            raise ValueError(
                f"`evaluate` and `slices` must give the same names for every batch; {different[0]!r}, one of the "
                f"{kind}, is missing for some"
            )


def _check_rows(family: Family, part: Scores) -> None:
    """Raise ValueError, which names the metric and both numbers, unless each example of a block has one row."""
    for name in part.numerators:
        for of, values in (("numerator", part.numerators[name]), ("denominator", part.denominators[name])):
            if values.ndim != 1:
                raise ValueError(
                    f"`evaluate` of {family.name} gives a {of} of shape {list(values.shape)} for the ratio {name} of a "
                    f"batch of {part.num_examples} examples; give a vector with one number per example"
                )
            _check_length(family, f"`evaluate` of {family.name} gives a {of}", f"the ratio {name}", values, part)
    for name, kept in part.kept.items():
        _check_length(family, f"`evaluate` of {family.name} keeps values", name, kept, part)
    for name, labels in part.slices.items():
        _check_length(family, f"`slices` of {family.name} gives labels", name, labels, part)


def _check_length(family: Family, what: str, name: str, values: NDArray[Any], part: Scores) -> None:
    num_rows = len(values) if values.ndim else 0
    if num_rows != part.num_examples:
        raise ValueError(
            f"{what} with {num_rows} rows for {name}, and the batch was collated from {part.num_examples} examples; "
            f"give one row per example, and check that `collate` of {family.name} drops and repeats none"
        )


def _array(values: Tensor) -> NDArray[Any]:
    """The values in NumPy, which has no bfloat16."""
    import torch

    array: NDArray[Any] = (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
    return array


def _concatenated(kind: str, parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    check_same_names(kind, parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _total(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    check_same_names("accumulators", parts)
    return {name: reduce(add, [part[name] for part in parts]) for name in parts[0]}
