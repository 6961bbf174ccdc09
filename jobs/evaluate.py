"""`shopkeeper evaluate FAMILY`: a model on a split, compared with baselines, as metrics, JSON and an HTML report."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jobs.cli.context import Context, DependencyDown, Outcome, UsageFailure, is_writable, log
from jobs.cli.flags import check_at_least
from jobs.evaluation.baselines import baseline_scores
from jobs.evaluation.bootstrap import Comparison, Interval, compare_scores, metric_interval, score_intervals
from jobs.evaluation.report_page import render
from jobs.evaluation.result import Champion, Evaluation, SliceScore
from jobs.evaluation.scoring import load_model, one_thread, score, undefined
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import CHAMPION, Registry, champion_uri
from jobs.tracking.runs import dataset_of
from jobs.tracking.spool import CallRejected
from models.bundle import Bundle
from models.errors import BundleRejected
from models.evaluate import Model, Scores
from models.family import Family
from models.files import write_text
from models.prepared import Prepared
from models.report import Section

REPORT = "report.html"
NUMBERS = "evaluation.json"


@dataclass(frozen=True)
class Options:
    """What to evaluate and where to write the report."""

    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY@ALIAS, models:/FAMILY/VERSION or a directory; default is the champion."""
    split: Literal["val", "test"] = "test"
    """Split to evaluate on."""
    workers: int = 1
    """Processes: 1 uses all CPUs of this machine, more run on the cluster. Does not affect the metrics."""
    bootstrap: int = 1000
    """Bootstrap resamples for the confidence intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    report: str | None = None
    """Output directory for the report and its JSON; default is in the store."""

    def __post_init__(self) -> None:
        check_at_least(self, workers=1)
        if self.bootstrap < 100:
            raise ValueError(f"--bootstrap {self.bootstrap} is too few for a confidence interval; use 100 or more")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Evaluate a model; raises UsageFailure if there is no such model or no prepared data."""
    assert family is not None
    if options.report is None and not is_writable(context.store.root / family.name):
        raise UsageFailure(f"{context.store.root} is not writable; name another directory for the report with --report")
    data = context.store.current_data(family.name)
    tracking = Tracking(context)
    tracking.deliver_spool()
    located = locate_model(context, options.model or champion_uri(family.name), tracking=tracking)
    evaluation = evaluate(context, family, located, data=data, options=options)
    evaluation = dataclasses.replace(evaluation, learning_curve=_learning_curve(tracking, family, located))
    directory = _directory(context, evaluation, located, options)
    write_text(directory / REPORT, render(evaluation))
    write_text(directory / NUMBERS, evaluation.to_json())
    metrics = _metrics(evaluation)
    if located.run_id is not None:
        tracked = tracking.resume_run(located.run_id)
        tracked.log_dataset(dataset_of(family.name, data), context=options.split)
        tracked.log_artifacts(directory, f"evaluation/{options.split}")
        if options.split == "test":
            # Validation metrics stay as training logged them, per epoch.
            tracked.log_metrics(metrics, step=0)
    return Outcome(run_id=located.run_id, metrics=metrics, details=_details(evaluation, directory))


def evaluate(
    context: Context, family: Family, located: LocatedModel, *, data: Prepared, options: Options
) -> Evaluation:
    """Score a model, the champion and the family's baselines on a split of prepared data."""
    schema = data.schema(family.Schema, family.files)
    model = load_model(located.directory, family)
    scores = _score(context, "the model", model, data=data, options=options)
    metrics = _intervals(family, model.schema, scores, options)
    others = dict(baseline_scores(context, family, data, split=options.split, num_workers=options.workers))
    champion, champion_scores = _champion(context, family, model, scores, data=data, options=options)
    evaluation = Evaluation(
        family=family.name,
        model=located.uri,
        digest=model.digest,
        run_id=located.run_id,
        split=options.split,
        data_fingerprint=schema.fingerprint,
        num_examples=scores.num_examples,
        num_counted=scores.num_counted(family.metric),
        metric=family.metric.name,
        mode=family.metric.mode,
        metrics=metrics,
        baselines={name: _intervals(family, schema, each, options, is_optional=True) for name, each in others.items()},
        comparisons={name: _comparison(family, scores, other, options) for name, other in others.items()},
        slices={},
        card=data.card(),
        config=dataclasses.asdict(model.config),
        num_resamples=options.bootstrap,
        command=_command(context, family, located, options),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        counted=_counted(family, scores),
        trained_on=model.schema.fingerprint,
        champion=champion,
        sections=_sections(family, model, data, options.split),
        known_metrics=family.all_metrics,
        caveat=family.caveat,
    )
    best = others.get(evaluation.best_baseline or "")
    return dataclasses.replace(evaluation, slices=_slices(family, scores, best, champion_scores, options))


def _champion(
    context: Context, family: Family, model: Bundle, scores: Scores, *, data: Prepared, options: Options
) -> tuple[Champion | None, Scores | None]:
    """The champion on the same examples; None for the champion itself, and for one that cannot be loaded."""
    if context.tracking_uri is None and not (context.store.root / "mlflow.db").is_file():
        return None, None
    tracking = Tracking(context)
    try:
        version = Registry(tracking).get_alias(family.name, CHAMPION)
        if version is None:
            return None, None
        located = locate_model(context, f"models:/{family.name}/{version}", tracking=tracking)
        champion = load_model(located.directory, family)
    except (BundleRejected, DependencyDown, UsageFailure) as error:
        log.warning("the report has no comparison with the champion: %s", error)
        return None, None
    if champion.digest == model.digest:
        return None, None
    other = _score(context, "the champion", champion, data=data, options=options)
    metrics = _intervals(family, champion.schema, other, options, is_optional=True)
    is_defined = not math.isnan(metrics[family.metric.name].value)
    comparison = _comparison(family, scores, other, options) if is_defined else None
    return Champion(located.uri, champion.schema.fingerprint, metrics, comparison), other


def _learning_curve(tracking: Tracking, family: Family, located: LocatedModel) -> dict[str, list[tuple[int, float]]]:
    """The tracked training loss and validation metric by epoch; none for a model without a run."""
    if located.run_id is None:
        return {}
    try:
        names = ("train_loss", f"val_{family.metric.name}")
        return {name: tracking.metric_history(located.run_id, name) for name in names}
    except (CallRejected, DependencyDown) as error:
        log.warning("the report has no learning curve: %s", error)
        return {}


def _counted(family: Family, scores: Scores) -> dict[str, int]:
    """How many examples count for each metric that is computed from examples."""
    computed = {metric.name: scores.num_examples for metric in family.metrics if metric.compute is not None}
    return {name: int((denominator > 0).sum()) for name, denominator in scores.denominators.items()} | computed


def _comparison(family: Family, scores: Scores, other: Scores, options: Options) -> Comparison:
    return compare_scores(family.metric, scores, other, num_resamples=options.bootstrap, seed=options.seed)


def _score(context: Context, name: str, model: Model, *, data: Prepared, options: Options) -> Scores:
    log.info("scoring %s on the %s split", name, options.split)
    return score(context, model, data=data, split=options.split, num_workers=options.workers)


def _intervals(
    family: Family, schema: Any, scores: Scores, options: Options, *, is_optional: bool = False
) -> dict[str, Interval]:
    """Every metric with its confidence interval; those of `summarise` have none, nor has an undefined one.

    Raises UsageFailure if the family's metric is undefined, unless it is optional, as for a baseline.
    """
    exact = score_intervals(scores, family.all_metrics, num_resamples=options.bootstrap, seed=options.seed)
    name = family.metric.name
    if name not in exact and is_optional:
        exact[name] = Interval(math.nan, math.nan, math.nan)
    if name not in exact:
        raise UsageFailure(undefined(family, scores, options.split))
    whole = family.summarise(scores.accumulators, schema)
    return exact | {name: Interval(float(value), math.nan, math.nan) for name, value in whole.items()}


def _sections(family: Family, model: Model, data: Prepared, split: str) -> Sequence[Section]:
    if family.report is None:
        return ()
    log.info("analysing predictions on the %s split", split)
    with one_thread():
        return family.report(model.network, data, split, schema=model.schema, config=model.config)


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """The metrics and the numbers of the report sections, by their names in MLflow."""
    values = {name: interval.value for name, interval in evaluation.metrics.items()}
    numbers = {name: value for section in evaluation.sections for name, value in section.numbers.items()}
    assert not values.keys() & numbers.keys(), "a number of a report section must not have the name of a metric"
    return {f"{evaluation.split}_{name}": value for name, value in (values | numbers).items()}


def _slices(
    family: Family, scores: Scores, best: Scores | None, champion: Scores | None, options: Options
) -> dict[str, list[SliceScore]]:
    metric = family.metric
    found: dict[str, list[SliceScore]] = {}
    for dimension, labels in scores.slices.items():
        rows = []
        for label in np.unique(labels):
            among = labels == label
            if math.isnan(scores.value(metric, among)):
                continue
            rows.append(
                SliceScore(
                    str(label),
                    int(among.sum()),
                    scores.num_counted(metric, among),
                    metric_interval(scores, metric, among=among, num_resamples=options.bootstrap, seed=options.seed),
                    *(math.nan if other is None else other.value(metric, among) for other in (best, champion)),
                )
            )
        found[dimension] = sorted(rows, key=lambda row: (family.slice_rank(row.label), -row.num_examples))
    return found


def _command(context: Context, family: Family, located: LocatedModel, options: Options) -> str:
    flags = {"model": located.uri, "split": options.split, "bootstrap": options.bootstrap, "seed": options.seed}
    given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())
    return context.command(f"evaluate {family.name} {given}")


def _directory(context: Context, evaluation: Evaluation, located: LocatedModel, options: Options) -> Path:
    if options.report is not None:
        return Path(options.report).absolute()
    name = f"{located.name}-{options.split}-{evaluation.data_fingerprint[:8]}"
    return context.store.root / evaluation.family / "reports" / name


def _details(evaluation: Evaluation, directory: Path) -> dict[str, Any]:
    """Details for the JSON line; everything else is in the evaluation's own JSON file."""
    score = evaluation.metrics[evaluation.metric]
    return {
        "model": evaluation.model,
        "split": evaluation.split,
        "num_examples": evaluation.num_examples,
        "num_counted": evaluation.num_counted,
        "interval": [score.low, score.high],
        "baselines": {name: _values(metrics, evaluation.metric) for name, metrics in evaluation.baselines.items()},
        "report": str(directory / REPORT),
        "numbers": str(directory / NUMBERS),
    }


def _values(metrics: Mapping[str, Interval], metric: str) -> dict[str, float]:
    value = metrics[metric].value
    return {} if math.isnan(value) else {metric: value}
