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
from jobs.erasure.lineage import knows_erased_users
from jobs.evaluation.baselines import baseline_scores
from jobs.evaluation.description import describe
from jobs.evaluation.gate import References, check_latency, check_quality, check_size
from jobs.evaluation.gate_result import GateResult
from jobs.evaluation.scoring import load_model, score, undefined
from jobs.evaluation.slice_gate import Limits
from jobs.tracking.client import TAG_FINGERPRINT, Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import CHAMPION, TAG_PREVIOUS, Registry
from models.bundle import Bundle
from models.erasure.tombstones import Tombstones
from models.errors import BundleRejected
from models.evaluate import Model, Scores
from models.family import Family
from models.prepared import Prepared

EVIDENCE = "promotion.json"
MAX_TAG_LENGTH = 5000


@dataclass(frozen=True)
class Options:
    """The model to promote, and the levels and tolerance of the gate."""

    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY/VERSION or a directory; default is the run with the best validation score."""
    force: bool = False
    """Promote even if a check fails; requires --reason."""
    reason: str | None = None
    """Reason for --force or --slice-tolerance; stored with the version."""
    slice_tolerance: float | None = None
    """Share of its floor, the best baseline's score, by which the metric of a group may fall. A higher one than the
    family's, which is the default, requires --reason."""
    p_value: float = 0.05
    """Significance level: of the one-sided test that the candidate is better, and of the groups' tests together."""
    bootstrap: int = 10_000
    """Bootstrap resamples for the p-value."""
    workers: int = 1
    """Processes for scoring: 1 uses all CPUs of this machine, more run on the cluster."""

    def __post_init__(self) -> None:
        if not 0 < self.p_value < 1:
            raise ValueError(f"--p-value {self.p_value} is not between 0 and 1; use a probability such as 0.05")
        if self.slice_tolerance is not None and not 0 <= self.slice_tolerance < 1:
            raise ValueError(f"--slice-tolerance {self.slice_tolerance} is not a share; use one such as 0.2 for 20 %")
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
    _require_reason(family, options)
    tracking = Tracking(context)
    tracking.deliver_spool()
    pair = _load_pair(context, family, tracking, options)
    if pair.champion and pair.champion_model and pair.champion_model.digest == pair.model.digest:
        log.info("%s is already the champion", pair.candidate.uri)
        return Outcome(status="unchanged", run_id=pair.candidate.run_id, details={"version": pair.champion.version})
    scores = _score(context, "the candidate", pair.model, pair.data, options)
    result = _gate(context, family, pair, scores, options)
    failed = result.failed
    metrics = _metrics(family, scores)
    log.info("%s", "\n".join(result.lines()))
    if failed and not options.force:
        raise GateNotMet(
            _rejection(family, pair, result),
            failed=failed,
            metrics=metrics,
            candidate=pair.candidate.uri,
            **result.numbers(),
        )
    for message in failed:
        log.warning("forced despite a failed check: %s", message)
    version = _register_champion(tracking, family, pair, result, scores, options)
    return Outcome(
        status="promoted",
        run_id=pair.candidate.run_id,
        metrics=metrics,
        details={
            "version": version,
            "model": f"models:/{tracking.name_of(family.name)}/{version}",
            "previous_version": pair.previous,
            "forced": bool(failed),
            **result.numbers(),
        },
        summary=f"  models:/{family.name}/{version} is the champion, before it was {pair.previous or 'none'}; "
        f"{family.metric.name} {metrics[f'test_{family.metric.name}']:.5f} on the test split",
    )


def _metrics(family: Family, scores: Scores) -> dict[str, float]:
    return {f"test_{name}": value for name, value in scores.values(family.all_metrics).items()}


def _require_reason(family: Family, options: Options) -> None:
    """Raise UsageFailure if a flag that loosens the gate has no reason."""
    is_looser = options.slice_tolerance is not None and options.slice_tolerance > family.gate.slice_tolerance
    for flag, is_given in (("--force", options.force), (f"--slice-tolerance {options.slice_tolerance}", is_looser)):
        if is_given and not (options.reason or "").strip():
            raise UsageFailure(f"{flag} needs --reason TEXT, which is stored with the version")


def _load_pair(context: Context, family: Family, tracking: Tracking, options: Options) -> _ModelPair:
    data = context.store.current_data(family.name)
    uri = options.model or _best_run(context, family, tracking, data)
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


def _best_run(context: Context, family: Family, tracking: Tracking, data: Prepared) -> str:
    fingerprint = data.fingerprint
    metric = f"val_{family.metric.name}"
    best = tracking.find_best_run(family.name, metric, family.metric.mode, fingerprint)
    if best is None:
        raise UsageFailure(
            f"no finished run of {family.name} on the current data ({fingerprint[:16]}) has a model and {metric}; "
            f"run `{context.command(f'train {family.name}')}` first, or name a model with --model"
        )
    return f"runs:/{best.run_id}"


def _score(context: Context, name: str, model: Model, data: Prepared, options: Options) -> Scores:
    log.info("scoring %s on the test split", name)
    return score(context, model, data=data, split="test", num_workers=options.workers)


def _gate(context: Context, family: Family, pair: _ModelPair, scores: Scores, options: Options) -> GateResult:
    """Every check against the champion and the baselines."""
    if math.isnan(scores.value(family.metric)):
        raise UsageFailure(undefined(family, scores, "test"))
    champion = None
    if pair.champion_model is not None:
        champion = _score(context, "the champion", pair.champion_model, pair.data, options)
    others = dict(baseline_scores(context, family, pair.data, split="test", num_workers=options.workers))
    references = References(others, champion, f"champion {pair.previous}", _champion_knows_erased(context, pair))
    limits = Limits(options.slice_tolerance, options.p_value, options.bootstrap)
    checks = check_quality(family, scores, references, limits)
    checks += [check_latency(family, pair.model), check_size(family, pair.candidate.directory)]
    return GateResult(checks, references.floor(family.metric), limits.tolerance_of(family))


def _champion_knows_erased(context: Context, pair: _ModelPair) -> bool:
    """Whether the champion was trained with a user who was erased since, and the candidate was not."""
    tombstones = Tombstones(context.store.tombstones)
    if pair.champion_model is None or knows_erased_users(tombstones, pair.model.schema.fingerprint):
        return False
    if not knows_erased_users(tombstones, pair.champion_model.schema.fingerprint):
        return False
    log.info("the champion was trained with users who were erased since: a model that is no worse replaces it")
    return True


def _rejection(family: Family, pair: _ModelPair, result: GateResult) -> str:
    unchanged = f"models:/{family.name}@{CHAMPION} stays at version {pair.champion.version}" if pair.champion else ""
    gains = ", ".join(f"{gain:+.1%} on {name}" for name, gain in result.gains.items())
    remedy = "--force --reason TEXT promotes it anyway"
    if result.only_groups_failed:
        remedy = f"--slice-tolerance SHARE --reason TEXT accepts a larger loss in a group, {remedy}"
    return (
        f"{pair.candidate.uri} was not promoted: {'; '.join(result.failed)}. "
        f"{f'Overall gain of {family.metric.name}: {gains}. ' if gains else ''}"
        f"{unchanged or 'There is still no champion'}; {remedy}"
    )


def _register_champion(
    tracking: Tracking,
    family: Family,
    pair: _ModelPair,
    result: GateResult,
    scores: Scores,
    options: Options,
) -> str:
    """Register the candidate with the evidence for its promotion, then move the alias."""
    registry = Registry(tracking)
    facts: dict[str, Any] = {
        TAG_PREVIOUS: pair.previous or "",
        TAG_FINGERPRINT: pair.data.fingerprint,
        "candidate": pair.candidate.uri,
        "digest": pair.model.digest,
        "promoted": datetime.now(UTC).isoformat(timespec="seconds"),
        "forced": str(bool(result.failed)).lower(),
        "reason": options.reason or "",
        "test_metrics": _metrics(family, scores),
        "checks": {check.name: {"passed": check.passed, **check.numbers} for check in result.checks},
    }
    evidence = {**facts, **result.evidence(), "options": dataclasses.asdict(options)}
    version = registry.register(
        family.name,
        pair.candidate.run_id,
        pair.candidate.directory,
        {name: _tag(value) for name, value in facts.items()},
        {EVIDENCE: json.dumps(evidence, ensure_ascii=False, indent=1)},
        description=_description(family, pair, result, scores, options),
    )
    if registry.get_alias(family.name, CHAMPION) != pair.previous:
        raise Failure(f"the champion of {family.name} changed during this promotion; run promote again")
    registry.set_alias(family.name, CHAMPION, version)
    log.info("models:/%s@%s is now version %s", family.name, CHAMPION, version)
    return version


def _description(family: Family, pair: _ModelPair, result: GateResult, scores: Scores, options: Options) -> str:
    fingerprint, candidate = pair.data.fingerprint, pair.candidate.uri
    return describe(family, scores, result, fingerprint=fingerprint, candidate=candidate, reason=options.reason)


def _tag(value: Any) -> str:
    """The value of a tag: text unchanged, anything else as JSON; a pointer to the evidence if it is too long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= MAX_TAG_LENGTH else f"too long, see {EVIDENCE}"
