"""The verb promote: a candidate against the champion on the same test split; moves the alias if it is better."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.cli.context import Context, Failure, GateNotMet, Outcome, UsageFailure, log
from jobs.cli.flags import check_at_least
from jobs.evaluation.gate import Check, check_better, check_latency, check_size, check_slices
from jobs.evaluation.scoring import baselines, load_model, score
from jobs.tracking.client import TAG_FINGERPRINT, Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import CHAMPION, TAG_PREVIOUS, Registry
from models import bundle
from models.errors import BundleRejected
from models.evaluate import Model, Scores
from models.family import Family
from models.prepared import Prepared

EVIDENCE = "promotion.json"
MAX_TAG_LENGTH = 5000


@dataclass(frozen=True)
class Options:
    """Which model to promote, and how sure to be."""

    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY/VERSION or a directory; none is the best run on this data by validation score."""
    force: bool = False
    """Promote although a check fails; needs --reason."""
    reason: str | None = None
    """Why; stored with the version."""
    p_value: float = 0.05
    """The candidate may be better by chance with this probability at the most."""
    bootstrap: int = 10_000
    """Resamples of the examples for that probability."""
    workers: int = 1
    """Processes that share the scoring; one uses all processors of this machine, more run on the cluster."""

    def __post_init__(self) -> None:
        if not 0 < self.p_value < 1:
            raise ValueError(f"--p-value {self.p_value} is no probability; use a number between 0 and 1, such as 0.05")
        if self.bootstrap < 1000:
            raise ValueError(f"--bootstrap {self.bootstrap} is too few to tell p = {self.p_value}; use 1000 or more")
        check_at_least(self, workers=1)


@dataclass(frozen=True)
class _Trial:
    """A candidate and what it is held against."""

    candidate: LocatedModel
    model: Model
    champion: LocatedModel | None
    champion_model: Model | None
    previous: str | None
    """Version that the alias points at, which is the champion's unless that cannot be loaded."""
    data: Prepared


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Judge the candidate and move the alias; raises GateNotMet, with every failed check, and leaves the alias."""
    assert family is not None
    if options.force and not (options.reason or "").strip():
        raise UsageFailure("--force needs --reason TEXT, which is stored with the version")
    tracking = Tracking(context)
    tracking.deliver_spool()
    trial = _prepare(context, family, tracking, options)
    if trial.champion and bundle.verify(trial.champion.directory) == bundle.verify(trial.candidate.directory):
        log.info("%s is the champion already", trial.candidate.uri)
        return Outcome(status="unchanged", run_id=trial.candidate.run_id, details={"version": trial.champion.version})
    scores = _score(context, "the candidate", trial.model, trial.data, options)
    checks = _check(context, family, trial, scores, options)
    failed = [check.message for check in checks if not check.passed]
    metrics = {f"test_{name}": value for name, value in scores.values(family.all_metrics).items()}
    if failed and not options.force:
        raise GateNotMet(_refusal(family, trial, failed), failed=failed, metrics=metrics, candidate=trial.candidate.uri)
    for message in failed:
        log.warning("forced although: %s", message)
    version = _sign_off(tracking, family, trial, checks, metrics, options)
    return Outcome(
        status="promoted",
        run_id=trial.candidate.run_id,
        metrics=metrics,
        details={
            "version": version,
            "model": f"models:/{family.name}/{version}",
            "previous_version": trial.previous,
            "forced": bool(failed),
            "checks": [check.message for check in checks],
        },
    )


def _prepare(context: Context, family: Family, tracking: Tracking, options: Options) -> _Trial:
    data = context.store.current_data(family.name)
    uri = options.model or _best_run(family, tracking, data)
    candidate = locate_model(context, uri, tracking=tracking)
    champion, champion_model = None, None
    previous = Registry(tracking).get_alias(family.name, CHAMPION)
    if previous is not None:
        try:
            champion = locate_model(context, f"models:/{family.name}/{previous}", tracking=tracking)
            champion_model = load_model(champion.directory, family)
        except BundleRejected as error:
            if not options.force:
                raise
            log.warning("the champion cannot be compared with: %s", error)
            champion = None
    log.info("candidate %s, champion %s", candidate.uri, champion.uri if champion else "none")
    return _Trial(candidate, load_model(candidate.directory, family), champion, champion_model, previous, data)


def _best_run(family: Family, tracking: Tracking, data: Prepared) -> str:
    fingerprint = data.fingerprint
    metric = f"val_{family.metric.name}"
    best = tracking.find_best_run(family.name, metric, family.metric.mode, fingerprint)
    if best is None:
        raise UsageFailure(
            f"no finished run of {family.name} on the current data ({fingerprint[:16]}) has a model and {metric}; "
            f"run `shopkeeper train {family.name}` first, or name a model with --model"
        )
    return f"runs:/{best.run_id}"


def _score(context: Context, name: str, model: Model, data: Prepared, options: Options) -> Scores:
    log.info("scoring %s on the test split", name)
    return score(context, model, data=data, split="test", num_workers=options.workers)


def _check(context: Context, family: Family, trial: _Trial, scores: Scores, options: Options) -> list[Check]:
    """Against the champion, or where there is none against every baseline."""

    def better(other: Scores, than: str) -> Check:
        resamples = options.bootstrap
        return check_better(family, scores, other, than=than, p_value=options.p_value, num_resamples=resamples)

    if math.isnan(scores.value(family.metric)):
        raise UsageFailure(f"no example of the test split counts for {family.metric.name}; prepare more data")
    checks = []
    if trial.champion_model is not None:
        champion = _score(context, "the champion", trial.champion_model, trial.data, options)
        checks += [better(champion, f"champion {trial.previous}"), *check_slices(family, scores, champion)]
    else:
        schema = trial.data.schema(family.Schema, family.files)
        for name, model in baselines(family, trial.data, schema):
            checks.append(better(_score(context, name, model, trial.data, options), name))
    return [*checks, check_latency(family, trial.model), check_size(family, trial.candidate.directory)]


def _refusal(family: Family, trial: _Trial, failed: list[str]) -> str:
    stays = f"models:/{family.name}@{CHAMPION} stays at version {trial.champion.version}" if trial.champion else ""
    return (
        f"{trial.candidate.uri} was not promoted: {'; '.join(failed)}. "
        f"{stays or 'There is still no champion'}; --force --reason TEXT promotes all the same"
    )


def _sign_off(
    tracking: Tracking,
    family: Family,
    trial: _Trial,
    checks: list[Check],
    metrics: dict[str, float],
    options: Options,
) -> str:
    """Register the candidate with what it was signed off on, then move the alias as the last act."""
    registry = Registry(tracking)
    facts: dict[str, Any] = {
        TAG_PREVIOUS: trial.previous or "",
        TAG_FINGERPRINT: trial.data.fingerprint,
        "candidate": trial.candidate.uri,
        "digest": bundle.verify(trial.candidate.directory),
        "promoted": datetime.now(UTC).isoformat(timespec="seconds"),
        "forced": str(any(not check.passed for check in checks)).lower(),
        "reason": options.reason or "",
        "test_metrics": metrics,
        "checks": {check.name: {"passed": check.passed, **check.numbers} for check in checks},
    }
    evidence = {
        **facts,
        "checks": [dataclasses.asdict(check) for check in checks],
        "options": dataclasses.asdict(options),
    }
    version = registry.register(
        family.name,
        trial.candidate.run_id,
        trial.candidate.directory,
        {name: _tag(value) for name, value in facts.items()},
        {EVIDENCE: json.dumps(evidence, ensure_ascii=False, indent=1)},
    )
    if registry.get_alias(family.name, CHAMPION) != trial.previous:
        raise Failure(f"the champion of {family.name} changed meanwhile; run promote again")
    registry.set_alias(family.name, CHAMPION, version)
    log.info("models:/%s@%s is now version %s", family.name, CHAMPION, version)
    return version


def _tag(value: Any) -> str:
    """Text as it is, all else as compact JSON; the whole is in the evidence where a tag is too short for it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= MAX_TAG_LENGTH else f"too long, see {EVIDENCE}"
