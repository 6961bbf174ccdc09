"""What a metric is: ratios of two sums over held-out examples, or a measure of the whole split; without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Kept = Mapping[str, NDArray[Any]]
"""Per-example values that an evaluation keeps for metrics of the whole split: name -> [N, ...]."""


@dataclass(frozen=True)
class Metric:
    """A measure of a model's quality, with its title and explanation for reports.

    Most metrics are ratios of two sums over the examples, which `evaluate` returns by name. Others, such as AUROC or
    macro F1, have a `compute`.
    """

    name: str
    """Plain words joined by underscores, e.g. `ndcg_at_10`."""
    mode: Literal["max", "min"]
    title: str = ""
    """Title for reports, e.g. `NDCG@10`; derived from the name if empty."""
    meaning: str = ""
    """One plain sentence that says what it measures."""
    compute: Callable[[Kept], float] | None = None
    """Computes the metric of any set of examples from their kept values; NaN where it is undefined. Its confidence
    interval is bootstrapped over examples."""
    curve: tuple[str, str, int] | None = None
    """For metrics that differ only in a number, such as a cutoff: (title without the number, what the number is, the
    number), e.g. `("NDCG", "length of the list", 10)`."""

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is better than `than`; any value is better than a NaN, which is better than nothing."""
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.mode == "max" else value < than

    def best(self, values: Mapping[str, float]) -> str | None:
        """The name with the best value, the first of equal ones; None if all are NaN."""
        choose = max if self.mode == "max" else min
        return choose((name for name in values if not math.isnan(values[name])), key=values.__getitem__, default=None)

    def computed(self, kept: Kept) -> float:
        """`compute` on a whole split; raises ValueError, which names the metric, if it fails on the kept values."""
        assert self.compute is not None
        try:
            return float(self.compute(kept))
        except KeyError as error:
            if error.args[:1] and error.args[0] in kept:
                raise
            raise ValueError(
                f"the metric {self.name} cannot be computed: it reads {error}, and `evaluate` keeps "
                f"{', '.join(sorted(kept)) or 'nothing'}; keep the values that its `compute` reads"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"the metric {self.name} cannot be computed: {error}; return NaN where it is undefined"
            ) from error

    def computed_or_nan(self, kept: Kept) -> float:
        """`compute` on a subset of a split, such as a resample; NaN where it raises ValueError, e.g. on one class."""
        assert self.compute is not None
        try:
            return float(self.compute(kept))
        except ValueError:
            return math.nan


def described(name: str, known: Sequence[Metric]) -> Metric:
    """The known metric of a name; that of `accuracy_colour` is derived from `accuracy`."""
    exact = [metric for metric in known if metric.name == name]
    if exact:
        return exact[0]
    starts = [metric for metric in known if name.startswith(f"{metric.name}_")]
    if not starts:
        return Metric(name, "max", name.replace("_", " ").capitalize())
    metric = max(starts, key=lambda one: len(one.name))
    rest = name.removeprefix(f"{metric.name}_").replace("_", " ")
    return dataclasses.replace(metric, name=name, title=f"{metric.title or metric.name}, {rest}", curve=None)


@dataclass(frozen=True)
class Ratio:
    """A metric of a batch as two vectors of shape [B]: each is summed over all examples, then divided once.

    An example whose denominator is 0 does not count.
    """

    numerator: Tensor
    denominator: Tensor


@dataclass(frozen=True)
class BatchMetrics:
    """Metrics of a network on a batch of B held-out examples."""

    ratios: Mapping[str, Ratio]
    """Metric -> a ratio of two tensors of shape [B]."""
    accumulators: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that add up over batches and workers, from which `summarise` makes metrics of the whole split."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """Per-example values [B, ...] for metrics with a `compute`. A value that is not finite means that the network has
    diverged; a missing one, such as a label, needs another marker."""
