"""The numbers of an evaluated model, as the report shows them and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.evaluation.bootstrap import Comparison, Interval
from jobs.evaluation.section_html import section_json
from models.metric import Metric, described
from models.report import Section


@dataclass(frozen=True)
class SliceScore:
    """The metric on one group of examples, for the model, the best baseline and the champion; NaN if unknown."""

    label: str
    num_examples: int
    num_counted: int
    """Examples of the group that count for the metric."""
    score: Interval
    baseline: float
    champion: float = math.nan


@dataclass(frozen=True)
class Champion:
    """The champion's metrics on the same examples."""

    model: str
    """Its address, e.g. `models:/recommender/2`."""
    data_fingerprint: str
    """The data that it was trained on."""
    metrics: dict[str, Interval]
    comparison: Comparison | None
    """Of the evaluated model with the champion; None where one of the metrics is undefined."""


@dataclass(frozen=True)
class Evaluation:
    """The complete evaluation of a model on a split."""

    family: str
    model: str
    """The model's address, e.g. `models:/recommender/3`."""
    digest: str
    run_id: str | None
    split: str
    data_fingerprint: str
    num_examples: int
    num_counted: int
    """Examples that count for `metric`."""
    metric: str
    mode: Literal["max", "min"]
    metrics: dict[str, Interval]
    baselines: dict[str, dict[str, Interval]]
    comparisons: dict[str, Comparison]
    """Baseline -> paired comparison of the model's metric with the baseline's."""
    slices: dict[str, list[SliceScore]]
    """Dimension -> groups in their order."""
    card: dict[str, Any]
    config: dict[str, Any]
    num_resamples: int
    command: str
    created: str
    """RFC 3339."""
    counted: dict[str, int] = field(default_factory=dict)
    """Metric -> examples that count for it; metrics of the whole split are left out."""
    trained_on: str | None = None
    """Fingerprint of the data that the model was trained on."""
    champion: Champion | None = None
    """The champion, where another model is evaluated."""
    learning_curve: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Tracked metric -> (epoch, value)."""
    sections: Sequence[Section] = ()
    """The family's own sections of the report."""
    known_metrics: Sequence[Metric] = ()
    """Titles and meanings of the metrics."""
    caveat: str = ""
    """Limits of the metrics, in a sentence."""

    @property
    def best_baseline(self) -> str | None:
        """The baseline with the best metric; None if it is undefined for all of them."""
        values = {name: metrics[self.metric].value for name, metrics in self.baselines.items()}
        return Metric(self.metric, self.mode).best(values)

    def describe(self, metric: str) -> Metric:
        """Title and meaning of a metric."""
        return described(metric, self.known_metrics)

    def to_json(self) -> str:
        """The evaluation as JSON, without the images of the report sections."""
        plain = dataclasses.asdict(dataclasses.replace(self, sections=(), known_metrics=()))
        del plain["known_metrics"]
        plain["sections"] = [section_json(section) for section in self.sections]
        return json.dumps(_without_nan(plain), ensure_ascii=False, indent=1, allow_nan=False)


def _without_nan(content: Any) -> Any:
    """The content with null for NaN and infinity, which JSON lacks."""
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
