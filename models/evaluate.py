"""From a shard of held-out examples to what each scores, block by block: for validation and for every evaluation.

A block never crosses a shard, and each example is seen once, so the numbers do not depend on the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.family import Batch, Family
from models.metrics import Metric
from models.prepared import Prepared

BLOCK_SIZE = 512
"""Examples that are evaluated together."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What evaluation needs of a model, whether it was trained or only counted."""

    family: Family
    config: Any
    schema: Any
    network: Any


@dataclass(frozen=True)
class Scores:
    """What each example adds to every metric, in the order of the data; N examples."""

    numerators: dict[str, Floats]
    """Ratio -> [N]."""
    denominators: dict[str, Floats]
    """Ratio -> [N]; 0 where the example does not take part."""
    slices: dict[str, NDArray[np.str_]]
    """Slice dimension -> label of each example [N]."""
    accumulators: dict[str, Tensor]
    """What is added up for metrics of the whole split."""
    kept: dict[str, NDArray[Any]]
    """What is kept of each example for metrics with a `compute`: name -> [N, ...]."""
    num_examples: int
    """Examples in the split."""

    def value(self, metric: Metric, among: NDArray[np.bool_] | None = None) -> float:
        """A metric over all examples or `among` some; NaN when none takes part."""
        if metric.compute is not None:
            return float(metric.compute(self.kept if among is None else rows_of(self.kept, among)))
        return self.ratio(metric.name, among)

    def ratio(self, name: str, among: NDArray[np.bool_] | None = None) -> float:
        """A ratio over all examples or `among` some; NaN when none takes part."""
        if name not in self.numerators:
            return math.nan
        chosen = slice(None) if among is None else among
        # fsum rounds once, so the value does not depend on the order of the examples either.
        below = math.fsum(self.denominators[name][chosen])
        return math.fsum(self.numerators[name][chosen]) / below if below else math.nan

    def values(self, metrics: Sequence[Metric]) -> dict[str, float]:
        """Every ratio, and every one of `metrics` with a `compute`, that at least one example takes part in."""
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


@torch.inference_mode()
def evaluate_shard(
    model: Model, data: Prepared, split: str, shard: int, *, device: torch.device | str = "cpu"
) -> Scores | None:
    """What the examples of a shard score, or None for one without examples; the network is in evaluation mode."""
    family, parts = model.family, []
    for batch, size in blocks(family, data, split, shard, schema=model.schema, config=model.config):
        # Slices first: a network may write into its batch.
        slices = {name: np.asarray(labels, np.str_) for name, labels in family.slices(batch, model.schema).items()}
        found = family.evaluate(model.network, batch.to(device))
        parts.append(
            Scores(
                numerators={name: ratio.numerator.double().cpu().numpy() for name, ratio in found.ratios.items()},
                denominators={name: ratio.denominator.double().cpu().numpy() for name, ratio in found.ratios.items()},
                slices=slices,
                accumulators={name: value.cpu() for name, value in found.accumulators.items()},
                kept={name: _array(value) for name, value in found.kept.items()},
                num_examples=size,
            )
        )
    return join(parts)


def join(parts: Sequence[Scores | None]) -> Scores | None:
    """The scores of several shards or blocks, in order; None where none of them has an example."""
    full = [part for part in parts if part is not None]
    if not full:
        return None
    return Scores(
        numerators=_concatenated([part.numerators for part in full]),
        denominators=_concatenated([part.denominators for part in full]),
        slices=_concatenated([part.slices for part in full]),
        accumulators=reduce(_added, [part.accumulators for part in full]),
        kept=_concatenated([part.kept for part in full]),
        num_examples=sum(part.num_examples for part in full),
    )


def rows_of(kept: Mapping[str, NDArray[Any]], rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What was kept of some examples, given by a mask [N] or by their indices."""
    return {name: values[rows] for name, values in kept.items()}


def _array(values: Tensor) -> NDArray[Any]:
    """The values in NumPy, which has no bfloat16."""
    array: NDArray[Any] = (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
    return array


def _concatenated(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    assert all(part.keys() == parts[0].keys() for part in parts), "every batch must give the same metrics and slices"
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _added(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: first[name] + second[name] for name in first}
