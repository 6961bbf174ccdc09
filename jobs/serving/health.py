"""Assesses what was found out about an endpoint: what state it is in, in words, and whether that is healthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jobs.serving.probe import Facts
from jobs.serving.state import degraded, num_replicas, num_wanted, reason

State = Literal[
    "ok",
    "down",
    "cluster dead",
    "no replica",
    "fewer replicas",
    "cannot restart",
    "degraded",
    "other version",
    "orphan",
    "stranger",
    "gcs dead",
    "no answer",
    "unknown",
]
BROKEN = ("DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True)
class Health:
    """The state of an endpoint."""

    state: State
    text: str
    """`ok`, `down`, or what is wrong."""

    @property
    def is_healthy(self) -> bool:
        return self.state == "ok"


def assess(facts: Facts, *, remedy: str) -> Health:
    """The worst that the facts say; `remedy` is the command that deploys again."""
    infos = model_infos(facts)
    if infos:
        return _of_answering(facts, infos)
    if all(each.is_refused for each in facts.answers):
        return _of_silent(facts, remedy)
    codes = sorted({each.status for each in facts.answers if each.status is not None})
    said = f"it responds with {', '.join(map(str, codes))}" if codes else "it does not respond"
    if facts.held_by is not None and facts.held_by.store != facts.store:
        whose = f" of the store {facts.held_by.store}" if facts.held_by.store else ""
        return Health(
            "stranger",
            f"port {facts.port} is held by {facts.held_by.process}{whose}, which is not this endpoint; {said}",
        )
    if facts.cluster in ("dead", "none") and facts.held_by is not None:
        return Health(
            "orphan",
            f"the cluster is dead, and {facts.held_by.process} that it left holds port {facts.port}; {said}; "
            f"`shopkeeper stop` ends it, `{remedy}` serves again",
        )
    if facts.gcs_error:
        return Health("gcs dead", f"{_gcs(facts)}; {said}; `shopkeeper stop`, then `{remedy}`")
    if not codes and not facts.serve:
        return Health("no answer", next(each.error for each in facts.answers if each.error) or "no answer")
    if codes and set(codes) <= {401, 403}:
        return Health(
            "unknown",
            f"it requires an API key and refuses the one of this store ({said}); `shopkeeper stop`, then `{remedy}`",
        )
    if facts.cluster in ("none", "elsewhere") and not any(code >= 500 for code in codes):
        return Health("stranger", f"another server answers at {facts.url}; {said}")
    said = f"{said}; {_count(facts)}" if facts.serve else said
    is_told = facts.serve is not None and facts.serve.get("status") != "RUNNING"
    why = f": {reason(facts.serve or {}, num_lines=1)}" if is_told else ""
    return Health("no replica", f"the proxy is up, but no replica answers ({said}){why}")


def model_infos(facts: Facts) -> list[Mapping[str, Any]]:
    """What the replicas that answered say of their model."""
    contents = [each.content for each in facts.answers if each.status == 200]
    return [each for each in contents if isinstance(each, dict) and "version" in each and "digest" in each]


def _of_silent(facts: Facts, remedy: str) -> Health:
    """Nothing listens."""
    if facts.cluster == "dead":
        return Health("cluster dead", f"down: the cluster of this store has died; `{remedy}` starts it again")
    if facts.gcs_error:
        return Health("gcs dead", f"down: {_gcs(facts)}")
    if facts.cluster == "running":
        return Health("down", f"down: nothing listens on port {facts.port}; the proxy is starting, or cannot")
    return Health("down", "down")


def _of_answering(facts: Facts, infos: list[Mapping[str, Any]]) -> Health:
    """At least one replica answers."""
    others = sorted({str(info["version"]) for info in infos} - {facts.version})
    failed = [each for each in facts.answers if each.status != 200]
    fault = degraded(infos)
    if facts.cluster == "dead":
        return Health("cluster dead", "it still answers, but its cluster has died and nothing restarts what fails")
    if facts.gcs_error:
        return Health("gcs dead", f"it still answers, but {_gcs(facts)}")
    if facts.serve is not None and facts.serve.get("status") in BROKEN:
        return Health("cannot restart", f"{_count(facts)}, and one cannot start: {reason(facts.serve, num_lines=1)}")
    if others:
        return Health("other version", f"version {', '.join(others)} is served")
    if fault:
        return Health("degraded", f"degraded: {fault}")
    if failed:
        what = failed[0].error or f"status {failed[0].status}"
        return Health("fewer replicas", f"{len(failed)} of {len(facts.answers)} requests failed: {what}")
    if facts.serve is not None and num_replicas(facts.serve, running=True) < _wanted(facts):
        return Health("fewer replicas", _count(facts))
    if facts.cluster == "running" and facts.serve is None:
        return Health("unknown", f"it answers, but its replicas are unknown: {facts.serve_error}")
    return Health("ok", "ok")


def _wanted(facts: Facts) -> int:
    return max(facts.min_replicas, num_wanted(facts.serve or {}))


def _count(facts: Facts) -> str:
    return f"{num_replicas(facts.serve or {}, running=True)} of {_wanted(facts)} replicas run"


def _gcs(facts: Facts) -> str:
    return f"the control service of the cluster (GCS) does not respond ({facts.gcs_error}), so nothing restarts"
