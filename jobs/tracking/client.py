"""MLflow client for runs with params, metrics and artifacts."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.cli.context import Context, DependencyDown, UsageFailure, log
from jobs.tracking.connection import Connection
from jobs.tracking.liveness import process_tags
from jobs.tracking.spool import Call, CallRejected, Spool

if TYPE_CHECKING:  # seconds to import
    from mlflow import MlflowClient, entities
    from mlflow.entities.model_registry import ModelVersion as ModelVersion

BUNDLE = "bundle"
"""Artifact path of a run's model directory."""

TAG_FINGERPRINT = "data_fingerprint"
TAG_PARENT = "mlflow.parentRunId"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's UI open an experiment with its runs, instead of the traces of GenAI applications."""

MAX_PARAMS_PER_CALL = 100
MAX_RUNS = 1000

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunInfo:
    """A run as stored by the tracking server; times are epoch milliseconds."""

    run_id: str
    name: str
    status: str
    started_ms: int
    ended_ms: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def parent_run_id(self) -> str | None:
        """The sweep's run, if this run is a trial."""
        return self.tags.get(TAG_PARENT)


@dataclass(frozen=True)
class DatasetInfo:
    """The data of a run, for MLflow's UI."""

    name: str
    digest: str
    source: str
    """Where the raw data lay."""
    profile: Mapping[str, Any]
    """Counts."""


class Run:
    """A run; logging calls never fail or block for long: what the server does not accept is spooled."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self.run_id = run_id
        self._tracking = tracking

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params, which are immutable."""
        self._send({"call": "params", "params": {name: str(value) for name, value in params.items()}})

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log metrics of one step, such as an epoch."""
        numbers = {name: float(value) for name, value in metrics.items()}
        self._send({"call": "metrics", "metrics": numbers, "step": step, "time_ms": _now_ms()})

    def log_dataset(self, dataset: DatasetInfo, *, context: str) -> None:
        """Log the data that the run used; `context` says what for, such as training or test."""
        self._send({"call": "dataset", "context": context, **asdict(dataset)})

    def log_artifacts(self, directory: Path, name: str) -> bool:
        """Log a directory as artifact `name`, BUNDLE for a model directory; returns False if it is lost."""
        return self._send({"call": "artifacts", "directory": str(directory), "name": name})

    def log_text(self, text: str, name: str) -> None:
        """Log a text file, e.g. `data/card.json`."""
        self._send({"call": "text", "text": text, "name": name})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        self._send({"call": "tags", "tags": dict(tags)})

    def end(self, status: Status) -> None:
        """End the run."""
        self._send({"call": "status", "status": status, "time_ms": _now_ms()})

    def info(self) -> RunInfo:
        """The run as stored by the server; raises UsageFailure if it is unknown."""
        return self._tracking.run_info(self.run_id)

    def params(self) -> dict[str, str]:
        """The run's params as text; raises UsageFailure if the run is unknown."""
        return self.info().params

    def metric_history(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric in order of steps; the later value if a step was logged twice."""
        return self._tracking.metric_history(self.run_id, name)

    def _send(self, call: Call) -> bool:
        return self._tracking.send(self.run_id, call)


class Tracking(Connection):
    """Runs on the tracking server of a context, or in the SQLite database of its store; connects lazily."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.spool = Spool(context.store.spool)
        self._context = context

    # Runs

    def start_run(
        self,
        family: str,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
    ) -> Run:
        """Start a run in the family's experiment; raises DependencyDown if the server does not respond."""
        if self.is_read_only:
            raise UsageFailure(f"{self.root} is not writable; name another --store or change its permissions")
        parent = {TAG_PARENT: parent_run_id} if parent_run_id else {}
        with self.reached():
            experiment = self.make_experiment(family)
            known = process_tags(self._context.submission_id)
            created = self.client.create_run(experiment, run_name=name, tags={**known, **tags, **parent})
        run = Run(self, created.info.run_id)
        run.log_params(params)
        return run

    def resume_run(self, run_id: str, *, reopen: bool = False) -> Run:
        """An existing run, from this or another process; does not contact the server, so it cannot fail.

        `reopen` sets its status to running, in this process.
        """
        run = Run(self, run_id)
        if reopen:
            run.set_tags(process_tags(self._context.submission_id))
            self.send(run_id, {"call": "status", "status": "RUNNING", "time_ms": None})
        return run

    def run_info(self, run_id: str) -> RunInfo:
        """The run as stored by the server; raises UsageFailure if it is unknown."""
        try:
            with self.reached():
                return _run_info(self.client.get_run(run_id))
        except CallRejected:
            raise UsageFailure(
                f"run {run_id!r} is unknown to {self.shown_uri}; `{self._context.command('status')}` lists the runs"
            ) from None

    def list_runs(self, family: str, *, limit: int = 20, where: str = "") -> list[RunInfo]:
        """Runs of a family, newest first; `where` is an MLflow filter such as `status = 'FINISHED'`."""
        with self.reached():
            experiment = self.experiment_id(family)
            if experiment is None:
                return []
            order = ["attributes.start_time DESC"]
            found = self.client.search_runs([experiment], filter_string=where, max_results=limit, order_by=order)
            return [_run_info(run) for run in found]

    def find_best_run(
        self, family: str, metric: str, mode: Literal["max", "min"], fingerprint: str | None
    ) -> RunInfo | None:
        """The finished run on this data that has a model and the best `metric`, or None.

        A run's `best_<metric>`, if logged, takes precedence over the last value of `metric`.
        """
        where = "status = 'FINISHED'"
        if fingerprint is not None:
            where += f" and tags.{TAG_FINGERPRINT} = '{fingerprint}'"
        scored = [
            (run.metrics.get(f"best_{metric}", run.metrics.get(metric)), run)
            for run in self.list_runs(family, limit=MAX_RUNS, where=where)
        ]
        known = [(value, run) for value, run in scored if value is not None and value == value]
        for _, run in sorted(known, key=lambda pair: pair[0], reverse=mode == "max"):
            if self.has_bundle(run.run_id):
                return run
        return None

    def has_bundle(self, run_id: str) -> bool:
        """Whether the run has a model directory."""
        with self.reached():
            return bool(self.client.list_artifacts(run_id, BUNDLE))

    def metric_history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric in order of steps; the later value if a step was logged twice."""
        with self.reached():
            points = sorted(self.client.get_metric_history(run_id, name), key=lambda point: point.timestamp)
            return sorted({point.step: point.value for point in points}.items())

    def artifact_uri(self, run_id: str, name: str) -> str:
        """URI of a run's artifact, for `download`."""
        with self.reached():
            return f"{self.client.get_run(run_id).info.artifact_uri.rstrip('/')}/{name}"

    def download(self, uri: str, to: Path) -> Path:
        """A local directory with an artifact: the original if it is on this disk, else a copy in `to`."""
        with self.reached():
            from mlflow.artifacts import download_artifacts

            target = None if uri.startswith("file:") else str(to)
            found = download_artifacts(artifact_uri=uri, dst_path=target, tracking_uri=self.uri, registry_uri=self.uri)
        return Path(found)

    # Delivery

    def send(self, run_id: str, call: Call) -> bool:
        """Perform a call now, or after the spooled ones of the run; never raises if the server is down.

        Returns whether it was performed, or is in the spool.
        """
        if self.is_read_only:
            log.warning("%s is not writable, so its run %s stays unchanged (%s)", self.root, run_id, call["call"])
            return False
        if self.spool.pending(run_id):
            is_kept = self._keep(run_id, call)
            self._deliver(run_id)
            return is_kept
        try:
            self._perform(run_id, call)
        except DependencyDown as error:
            log.warning("%s; tracking calls of run %s are spooled and delivered later", error, run_id)
            return self._keep(run_id, call)
        except CallRejected as error:
            log.warning("a tracking call of run %s was rejected: %s", run_id, error)
            return False
        return True

    def deliver_spool(self) -> int:
        """Deliver spooled calls of earlier runs; returns their number. Called when a verb starts."""
        return 0 if self.is_read_only else sum(self._deliver(run_id) for run_id in self.spool.run_ids())

    def _deliver(self, run_id: str) -> int:
        return self.spool.deliver(run_id, lambda call: self._perform(run_id, call))

    def _keep(self, run_id: str, call: Call) -> bool:
        try:
            self.spool.append(run_id, call)
        except OSError as error:
            log.error(
                "lost a tracking call of run %s, since %s is not writable: %s", run_id, self.spool.directory, error
            )
            return False
        return True

    def _perform(self, run_id: str, call: Call) -> None:
        with self.reached(probe=self._was_down):
            client = self.client
            match call["call"]:
                case "params":
                    _log_params(client, run_id, call["params"])
                case "metrics":
                    _log_metrics(client, run_id, call)
                case "artifacts":
                    client.log_artifacts(run_id, call["directory"], artifact_path=call["name"])
                case "text":
                    client.log_text(run_id, call["text"], call["name"])
                case "dataset":
                    _log_dataset(client, run_id, call)
                case "tags":
                    for name, value in call["tags"].items():
                        client.set_tag(run_id, name, value)
                case "status" if call["status"] == "RUNNING":
                    client.update_run(run_id, status="RUNNING")
                case "status":
                    client.set_terminated(run_id, call["status"], end_time=call["time_ms"])

    # Experiments

    def experiment_id(self, family: str) -> str | None:
        """Id of the experiment of a family, or None; use it inside `reached`."""
        name = self.name_of(family)
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise UsageFailure(
                f"experiment {name!r} is deleted in {self.shown_uri}; `mlflow experiments restore` restores it"
            )
        return None if found is None else str(found.experiment_id)

    def make_experiment(self, family: str) -> str:
        """Id of the experiment of a family, created if missing; use it inside `reached`."""
        from mlflow.exceptions import MlflowException

        # A server chooses its artifact location; without one, artifacts would go into the working directory.
        location = None if self.is_remote else self._artifacts.as_uri()
        try:
            return self.experiment_id(family) or self.client.create_experiment(
                self.name_of(family), artifact_location=location, tags=EXPERIMENT_TAGS
            )
        except MlflowException as error:
            created_meanwhile = self.experiment_id(family) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if created_meanwhile is None:
                raise
            return created_meanwhile

    def experiment_with_runs_first(self, family: str) -> str | None:
        """Like `experiment_id`, for one whose page in MLflow's UI opens with its runs; use it inside `reached`."""
        found = self.experiment_id(family)
        if found is not None and not self.client.get_experiment(found).tags.keys() >= EXPERIMENT_TAGS.keys():
            for name, value in EXPERIMENT_TAGS.items():  # earlier releases did not set them
                self.client.set_experiment_tag(found, name, value)
        return found

    def name_of(self, family: str) -> str:
        """The name of a family's experiment and registered model in MLflow."""
        return self._context.name_in_mlflow(family)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    entries = [Param(name, value) for name, value in params.items()]
    for start in range(0, len(entries), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + MAX_PARAMS_PER_CALL])


def _log_metrics(client: MlflowClient, run_id: str, call: Call) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(name, value, call["time_ms"], call["step"]) for name, value in call["metrics"].items()]
    client.log_batch(run_id, metrics=metrics)


def _log_dataset(client: MlflowClient, run_id: str, call: Call) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=call["name"],
        digest=call["digest"],
        source_type="local",
        source=json.dumps({"uri": call["source"]}),
        profile=json.dumps(call["profile"]),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", call["context"])])])


def _run_info(run: entities.Run) -> RunInfo:
    return RunInfo(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
