"""`shopkeeper status`: prepared data, runs, champion and deployment of each family, and which servers are down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from jobs.cli.context import EXIT_DEPENDENCY_DOWN, Context, DependencyDown, Failure, Outcome, described, log
from jobs.cluster.local_head import running_head
from jobs.cluster.processes import age_of_process_s
from jobs.serving.config import config_path, former_root, read_config, user_config
from jobs.serving.health import assess, model_infos
from jobs.serving.probe import Deadline, probe
from jobs.submission.ended import job_has_ended
from jobs.tracking.client import TAG_FINGERPRINT, RunInfo, Tracking
from jobs.tracking.liveness import TAG_SUBMISSION, process_is_gone
from jobs.tracking.mlflow_ui import running_ui
from jobs.tracking.registry import CHAMPION, TAG_PREVIOUS, Registry
from jobs.tracking.runs import PLAN
from models import FAMILIES
from models.family import Family

T = TypeVar("T")
NO_RUNS: dict[str, Any] = {"running": [], "dead": [], "finished": [], "champion": None}
MAX_START_S = 30.0
"""A process that is older was not started for this command."""
END_S = 0.4
"""What it takes to print the result and end."""
MIN_SHARE = 0.3
"""Share of the time limit that is there for questions however long the start took, as on a loaded machine."""


@dataclass(frozen=True)
class Options:
    """How many runs to show."""

    runs: int = 5
    """Number of finished runs per family, newest first."""
    timeout_s: float = 5.0
    """Seconds after which what has not responded is reported as such, the start of the command included."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"--timeout-s {self.timeout_s} is not a duration; use more than 0, such as 5")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Report on one family or all; changes nothing and does not fail if a server is down.

    Everything is asked at once and with a time limit. The exit code is 5 if a family that was deployed is not served as
    it should be.
    """
    families = [family] if family is not None else list(FAMILIES.values())
    deadline = Deadline(_remaining_s(options))
    deployed = {one.name: deadline.start(partial(_deployed, context, one, deadline)) for one in families}
    tracked = deadline.start(lambda: {one.name: _tracked(context, one, options) for one in families})
    cluster = deadline.start(partial(_cluster, context))
    details: dict[str, Any] = {
        "store": str(context.store.root),
        "families": {one.name: _family(context, one, deadline, tracked, deployed[one.name]) for one in families},
        "cluster": _in_time(deadline, cluster, {"address": "unknown"}),
        "mlflow": _in_time(deadline, deadline.start(partial(running_ui, context.store)), None) or context.tracking_uri,
    }
    states = [one["deployed"] for one in details["families"].values() if one["deployed"]]
    is_healthy = all(one["state"] == "ok" for one in states)
    return Outcome(
        status="ok" if is_healthy else "unhealthy",
        details={**details, "healthy": is_healthy},
        summary="\n".join(_table(details)),
        exit_code=0 if is_healthy else EXIT_DEPENDENCY_DOWN,
    )


def _remaining_s(options: Options) -> float:
    """The time limit less what the start of the command took; a process that lives long was not started for this."""
    age_s = age_of_process_s()
    if age_s > MAX_START_S:
        return options.timeout_s
    return max(options.timeout_s - age_s - END_S, MIN_SHARE * options.timeout_s)


def _family(
    context: Context,
    family: Family,
    deadline: Deadline,
    tracked: Future[dict[str, dict[str, Any]]],
    deployed: Future[dict[str, Any] | None],
) -> dict[str, Any]:
    found: dict[str, Any] = {"prepared": _prepared(context, family), **NO_RUNS}
    late = {"version": None, "state": "unknown", "health": "unknown: it could not be found out in time"}
    found["deployed"] = _in_time(deadline, deployed, late)
    try:
        found |= deadline.result(tracked)[family.name]
    except DependencyDown as error:
        found["tracking_error"] = str(error)
    except TimeoutError:
        found["tracking_error"] = "runs and champion could not be read in time; raise --timeout-s"
    return found


def _in_time(deadline: Deadline, future: Future[T], late: T) -> T:
    try:
        return deadline.result(future)
    except TimeoutError:
        return late
    except PermissionError as error:  # the store of another user
        log.warning("%s", described(error))
        return late


def _prepared(context: Context, family: Family) -> dict[str, Any] | None:
    try:
        data = context.store.current_data(family.name)
        schema, card = data.schema(family.Schema).model_dump(mode="json"), data.card()
    except (Failure, OSError, ValueError):
        return None
    return {
        "fingerprint": schema.get("fingerprint"),
        "data": str(data.path),
        "rows": card.get("rows"),
        "splits": schema.get("num_examples"),
    }


def _tracked(context: Context, family: Family, options: Options) -> dict[str, Any]:
    if context.tracking_uri is None and not (context.store.root / "mlflow.db").is_file():
        return {}
    tracking = Tracking(context)
    running = tracking.list_runs(family.name, where="attributes.status = 'RUNNING'")
    finished = tracking.list_runs(family.name, limit=options.runs, where="attributes.status != 'RUNNING'")
    dead = _dead(context, running)
    return {
        "running": [_run(context, family, info) for info in running if info.run_id not in dead],
        "dead": [_run(context, family, info, status="dead") for info in running if info.run_id in dead],
        "finished": [_run(context, family, info) for info in finished],
        "champion": _champion(Registry(tracking), family),
    }


def _dead(context: Context, running: Sequence[RunInfo]) -> set[str]:
    """Ids of the runs whose process was killed before it could end them; a trial is as dead as its sweep."""
    by_id = {info.run_id: info for info in running}
    drivers = {info.run_id: by_id.get(info.parent_run_id or "", info) for info in running}
    has_ended = {run_id: _has_ended(context, by_id[run_id]) for run_id in {each.run_id for each in drivers.values()}}
    return {run_id for run_id, driver in drivers.items() if has_ended[driver.run_id]}


def _has_ended(context: Context, info: RunInfo) -> bool:
    """Whether what drives a run is known to have ended: its submitted job, of which retries count, or its process."""
    job_id = info.tags.get(TAG_SUBMISSION)
    of_job = job_has_ended(context, job_id) if job_id else None
    return bool(process_is_gone(info.tags) if of_job is None else of_job)


def _run(context: Context, family: Family, info: RunInfo, *, status: str | None = None) -> dict[str, Any]:
    best, last, test = (f"{prefix}_{family.metric.name}" for prefix in ("best_val", "val", "test"))
    names = (best if best in info.metrics else last, test)
    return {
        "run_id": info.run_id,
        "name": info.name,
        "data": info.tags.get(TAG_FINGERPRINT),
        "status": status or info.status.lower(),
        "started": datetime.fromtimestamp(info.started_ms / 1000, UTC).isoformat(timespec="seconds"),
        "parent_run_id": info.parent_run_id,
        "metrics": {name: info.metrics[name] for name in names if name in info.metrics},
        "resume": _resume_command(context, family, info),
    }


def _resume_command(context: Context, family: Family, info: RunInfo) -> str | None:
    """The command that resumes a run, if it was interrupted or may have been killed before it could say so."""
    has_plan = (context.store.run_directory(family.name, info.run_id) / PLAN).is_file()
    if info.status not in ("RUNNING", "KILLED") or not has_plan:
        return None
    return context.command(f"{info.tags.get('job', 'train')} {family.name} --resume {info.run_id}")


def _champion(registry: Registry, family: Family) -> dict[str, Any] | None:
    version = registry.get_alias(family.name, CHAMPION)
    if version is None:
        return None
    info = registry.version_info(family.name, version)
    try:
        metrics = json.loads(info.tags.get("test_metrics", "{}"))
    except ValueError:  # too long for a tag
        metrics = {}
    return {
        "version": version,
        "run_id": info.run_id,
        "promoted": info.tags.get("promoted"),
        "metrics": dict(sorted(metrics.items(), key=lambda item: item[0] != f"test_{family.metric.name}")),
        "previous": info.tags.get(TAG_PREVIOUS) or None,
    }


def _deployed(context: Context, family: Family, deadline: Deadline) -> dict[str, Any] | None:
    """The deployment that was applied last, and what is served there now."""
    path = config_path(context.store)
    try:
        config = read_config(path, check=False)
        served = user_config(config, family)
        if config is None or not served:
            return None
        facts = probe(context, family, config, deadline)
        former = former_root(path)
    except PermissionError as error:
        return {"version": None, "state": "unknown", "health": f"unknown: {described(error)}"}
    except (Failure, LookupError, TypeError, ValueError) as error:
        said = str(error) if isinstance(error, Failure) else f"{path} is damaged ({error}); remove it and deploy again"
        return {"version": None, "state": "unknown", "health": f"unknown: {said}"}
    deploy = context.command(f"deploy {family.name}")
    found, infos = assess(facts, remedy=deploy), model_infos(facts)
    state, health = str(found.state), found.text
    if former is not None and infos:
        state, health = "moved", f"served from {former}, where the store was before; run `{deploy}` again"
    return {
        "version": served["version"],
        "url": facts.url,
        "state": state,
        "health": health,
        "unreachable": [each for each in (facts.serve_error, facts.gcs_error) if each],
        "standby": (served.get("standby") or {}).get("version"),
        "answering": infos[0] if infos else None,
    }


def _cluster(context: Context) -> dict[str, Any] | None:
    if context.address is not None:
        return {"address": context.address}
    info = running_head(context.store)
    if info is None:
        return None
    return {"address": info.address, "dashboard_url": info.dashboard_url, "pid": info.pid}


def _table(details: Mapping[str, Any]) -> list[str]:
    """The summary for people."""
    lines = [f"store     {details['store']}"]
    for name, found in details["families"].items():
        nothing, none = ("unknown", "unknown") if "tracking_error" in found else ("nothing", "none")
        lines += [
            name,
            f"  prepared  {_prepared_line(found['prepared'])}",
            *([_run_line(one, found["prepared"]) for one in found["running"]] or [f"  running   {nothing}"]),
            *(_run_line(one, found["prepared"]) for one in found["dead"]),
            *(_run_line(one, found["prepared"]) for one in found["finished"]),
            f"  champion  {_version_line(found['champion'], none)}",
            f"  deployed  {_version_line(found['deployed'])}",
            *(f"  no answer {one}" for one in (found["deployed"] or {}).get("unreachable", ())),
        ]
        if "tracking_error" in found:
            lines.append(f"  unknown   {found['tracking_error']}")
    cluster = details["cluster"]
    return [*lines, f"cluster   {(cluster.get('dashboard_url') or cluster['address']) if cluster else 'none'}"]


def _prepared_line(prepared: Mapping[str, Any] | None) -> str:
    if prepared is None:
        return "nothing"
    splits = ", ".join(f"{split} {size:,}" for split, size in (prepared["splits"] or {}).items())
    return f"{prepared['fingerprint'][:16]}: {splits}"


def _run_line(one: Mapping[str, Any], prepared: Mapping[str, Any] | None) -> str:
    """A run; of one on other data than those in use, whose metrics do not compare, this is said."""
    words = [f"  {one['status']:<9}", one["run_id"], one["started"], one["name"], _metrics(one)]
    if one["data"] and prepared is not None and one["data"] != prepared["fingerprint"]:
        words.append(f"(on other data, {one['data'][:16]})")
    if one["resume"]:
        # A process on another machine may have ended, or not.
        when = {"running": "if its process has ended, ", "dead": "its process was lost; "}
        words.append(f"({when.get(one['status'], 'interrupted; ')}`{one['resume']}` resumes it)")
    return " ".join(filter(None, words))


def _version_line(entry: Mapping[str, Any] | None, none: str = "none") -> str:
    if entry is None:
        return none
    return f"version {entry['version']} {entry.get('health') or _metrics(entry)}"


def _metrics(entry: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in list(entry["metrics"].items())[:3])
