"""`shopkeeper promote FAMILY`: makes a candidate champion if it passes the gate on the test split."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.cli.context import Context, Failure, GateNotMet, Outcome, UsageFailure, log
from jobs.cli.flags import check_at_least
from jobs.evaluation.description import describe
from jobs.evaluation.gate import Check, check_better, check_latency, check_size, check_slices
from jobs.evaluation.scoring import baselines, load_model, score, undefined
from jobs.tracking.client import TAG_FINGERPRINT, Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import CHAMPION, TAG_PREVIOUS, Registry
from models.bundle import Bundle
from models.errors import BundleRejected
from models.evaluate import Model, Scores
from models.family import Family
from models.prepared import Prepared

EVIDENCE = "promotion.json"
MAX_TAG_LENGTH = 5000


@dataclass(frozen=True)
class Options:
    """The model to promote, and the significance level of the gate."""

    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY/VERSION or a directory; default is the run with the best validation score."""
    force: bool = False
    """Promote even if a check fails; requires --reason."""
    reason: str | None = None
    """Reason for --force; stored with the version."""
    p_value: float = 0.05
    """Significance level of the one-sided test that the candidate is better."""
    bootstrap: int = 10_000
    """Bootstrap resamples for the p-value."""
    workers: int = 1
    """Processes for scoring: 1 uses all CPUs of this machine, more run on the cluster."""

    def __post_init__(self) -> None:
        if not 0 < self.p_value < 1:
            raise ValueError(f"--p-value {self.p_value} is not between 0 and 1; use a probability such as 0.05")
        if self.bootstrap < 1000:
            raise ValueError(f"--bootstrap {self.bootstrap} is too few for p = {self.p_value}; use 1000 or more")
        check_at_least(self, workers=1)


@dataclass(frozen=True)
class _ModelPair:
    """The candidate, and the champion that it is compared with."""

    candidate: LocatedModel
    model: Bundle
    champion: LocatedModel | None
    champion_model: Bundle | None
    previous: str | None
    """Version that the alias points to; the champion's, unless that cannot be loaded."""
    data: Prepared


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Evaluate the candidate and move the alias; raises GateNotMet with every failed check, and moves nothing then."""
    assert family is not None
    if options.force and not (options.reason or "").strip():
        raise UsageFailure("--force needs --reason TEXT, which is stored with the version")
    tracking = Tracking(context)
    tracking.deliver_spool()
    pair = _load_pair(context, family, tracking, options)
    if pair.champion and pair.champion_model and pair.champion_model.digest == pair.model.digest:
        log.info("%s is already the champion", pair.candidate.uri)
        return Outcome(status="unchanged", run_id=pair.candidate.run_id, details={"version": pair.champion.version})
    scores = _score(context, "the candidate", pair.model, pair.data, options)
    checks = _check(context, family, pair, scores, options)
    failed = [check.message for check in checks if not check.passed]
    metrics = {f"test_{name}": value for name, value in scores.values(family.all_metrics).items()}
    if failed and not options.force:
        raise GateNotMet(_rejection(family, pair, failed), failed=failed, metrics=metrics, candidate=pair.candidate.uri)
    for message in failed:
        log.warning("forced despite a failed check: %s", message)
    description = describe(
        family,
        scores,
        checks,
        fingerprint=pair.data.fingerprint,
        candidate=pair.candidate.uri,
        reason=options.reason if failed else None,
    )
    version = _register_champion(tracking, family, pair, checks, metrics, options, description)
    return Outcome(
        status="promoted",
        run_id=pair.candidate.run_id,
        metrics=metrics,
        details={
            "version": version,
            "model": f"models:/{tracking.name_of(family.name)}/{version}",
            "previous_version": pair.previous,
            "forced": bool(failed),
            "checks": [check.message for check in checks],
        },
    )


def _load_pair(context: Context, family: Family, tracking: Tracking, options: Options) -> _ModelPair:
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
            log.warning("skipping the comparison with the champion, which cannot be loaded: %s", error)
            champion = None
    log.info("candidate %s, champion %s", candidate.uri, champion.uri if champion else "none")
    return _ModelPair(candidate, load_model(candidate.directory, family), champion, champion_model, previous, data)


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


def _check(context: Context, family: Family, pair: _ModelPair, scores: Scores, options: Options) -> list[Check]:
    """The checks against the champion, or against every baseline if there is none."""

    def better(other: Scores, name: str) -> Check:
        resamples = options.bootstrap
        return check_better(family, scores, other, name=name, p_value=options.p_value, num_resamples=resamples)

    if math.isnan(scores.value(family.metric)):
        raise UsageFailure(undefined(family, scores, "test"))
    checks = []
    if pair.champion_model is not None:
        champion = _score(context, "the champion", pair.champion_model, pair.data, options)
        checks += [better(champion, f"champion {pair.previous}"), *check_slices(family, scores, champion)]
    else:
        schema = pair.data.schema(family.Schema, family.files)
        for name, model in baselines(family, pair.data, schema):
            checks.append(better(_score(context, name, model, pair.data, options), name))
    return [*checks, check_latency(family, pair.model), check_size(family, pair.candidate.directory)]


def _rejection(family: Family, pair: _ModelPair, failed: list[str]) -> str:
    unchanged = f"models:/{family.name}@{CHAMPION} stays at version {pair.champion.version}" if pair.champion else ""
    return (
        f"{pair.candidate.uri} was not promoted: {'; '.join(failed)}. "
        f"{unchanged or 'There is still no champion'}; --force --reason TEXT promotes it anyway"
    )


def _register_champion(
    tracking: Tracking,
    family: Family,
    pair: _ModelPair,
    checks: list[Check],
    metrics: dict[str, float],
    options: Options,
    description: str,
) -> str:
    """Register the candidate with the evidence for its promotion, then move the alias."""
    registry = Registry(tracking)
    facts: dict[str, Any] = {
        TAG_PREVIOUS: pair.previous or "",
        TAG_FINGERPRINT: pair.data.fingerprint,
        "candidate": pair.candidate.uri,
        "digest": pair.model.digest,
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
        pair.candidate.run_id,
        pair.candidate.directory,
        {name: _tag(value) for name, value in facts.items()},
        {EVIDENCE: json.dumps(evidence, ensure_ascii=False, indent=1)},
        description=description,
    )
    if registry.get_alias(family.name, CHAMPION) != pair.previous:
        raise Failure(f"the champion of {family.name} changed during this promotion; run promote again")
    registry.set_alias(family.name, CHAMPION, version)
    log.info("models:/%s@%s is now version %s", family.name, CHAMPION, version)
    return version


def _tag(value: Any) -> str:
    """The value of a tag: text unchanged, anything else as JSON; a pointer to the evidence if it is too long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= MAX_TAG_LENGTH else f"too long, see {EVIDENCE}"
