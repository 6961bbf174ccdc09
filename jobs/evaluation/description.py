"""The description of a registered version: its score with an interval, its data, and what the gate found."""

from __future__ import annotations

from jobs.evaluation.bootstrap import metric_interval
from jobs.evaluation.gate_result import GateResult
from models.evaluate import Scores
from models.family import Family

NUM_RESAMPLES = 1000


def describe(
    family: Family, scores: Scores, result: GateResult, *, fingerprint: str, candidate: str, reason: str | None
) -> str:
    """Markdown for MLflow's UI; the gate's lines name what the model was compared with."""
    metric = family.metric
    found = metric_interval(scores, metric, num_resamples=NUM_RESAMPLES, seed=0)
    lines = [
        f"{metric.title or metric.name} {found.value:.4f} on the test split, 95 % interval {found.low:.4f} to "
        f"{found.high:.4f}, over {scores.num_counted(metric):,} examples.",
        "",
        f"Data {fingerprint[:16]}, candidate {candidate}.",
        "",
        "```",
        *result.lines(),
        "```",
        *(["", f"Reason given: {reason}"] if reason else []),
    ]
    return "\n".join(lines)
