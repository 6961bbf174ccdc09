"""Tracking: it never stops a training run, loses no calls, and resolves model URIs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs import evaluate
from jobs.cli.context import Context, DependencyDown, UsageFailure
from jobs.tracking.client import BUNDLE, Run, Tracking
from jobs.tracking.model_uri import locate_model, resolve_model
from jobs.tracking.registry import Registry
from jobs.tracking.spool import Spool
from models.errors import BundleRejected
from models.family import Family
from models.prepared import Prepared
from tests.kit.toy_models import write_toy_model

UNREACHABLE = "http://127.0.0.1:9"
"""The discard port, which is closed."""


class RecordingServer(ThreadingHTTPServer):
    """A fake MLflow server that records what a run logs; `broken` makes it respond with 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.broken = False

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: RecordingServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.broken:
            self.server.calls.append((self.path.rpartition("/")[2], json.loads(body)))
        self._answer()

    def log_message(self, format: str, *args: object) -> None: ...

    def _answer(self) -> None:
        content = b"" if self.server.broken else b"{}"
        self.send_response(503 if self.server.broken else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    recording = RecordingServer()
    thread = threading.Thread(target=recording.serve_forever)
    thread.start()
    yield recording
    recording.shutdown()
    thread.join()
    recording.server_close()


def test_an_unreachable_server_fails_quickly_and_is_named(context: Context) -> None:
    started = time.monotonic()
    with pytest.raises(DependencyDown, match=r"http://127\.0\.0\.1:9 does not respond.*MLFLOW_TRACKING_URI") as down:
        _start(_at(context, UNREACHABLE))
    assert down.value.exit_code == 5
    assert time.monotonic() - started < 15


def test_a_password_in_the_uri_is_not_shown(context: Context) -> None:
    with pytest.raises(DependencyDown) as down:
        _start(_at(context, "http://owner:secret@127.0.0.1:9"))
    assert "secret" not in str(down.value)


def test_undelivered_calls_are_delivered_later_in_order(
    context: Context, server: RecordingServer, tmp_path: Path
) -> None:
    run = Tracking(_at(context, server.uri)).resume_run("r1")
    run.log_metrics({"loss": 3.0}, step=1)
    server.broken = True
    run.log_metrics({"loss": 2.0}, step=2)
    run.set_tags({"note": "down"})
    server.broken = False
    run.log_metrics({"loss": 1.0}, step=3)
    run.end("FINISHED")
    assert [(path, _step(body)) for path, body in server.calls] == [
        ("log-batch", 1),
        ("log-batch", 2),
        ("set-tag", None),
        ("log-batch", 3),
        ("update", None),
    ]
    assert not Tracking(context).spool.pending("r1")


def test_a_run_continues_while_tracking_is_down_and_is_delivered_later(context: Context, tmp_path: Path) -> None:
    run_id = _start(context).run_id
    files = tmp_path / "files"
    files.mkdir()
    (files / "card.json").write_text("{}")
    cut_off = Tracking(_at(context, UNREACHABLE)).resume_run(run_id)
    cut_off.log_metrics({"loss": 0.5}, step=4)
    cut_off.log_artifacts(files, "data")
    cut_off.end("FINISHED")
    (files / "card.json").unlink()
    tracking = Tracking(context)
    assert tracking.deliver_spool() == 3
    assert tracking.run_info(run_id).status == "FINISHED"
    assert tracking.metric_history(run_id, "loss") == [(4, 0.5)]
    fetched = tracking.download(tracking.artifact_uri(run_id, "data"), tmp_path / "fetched")
    assert (fetched / "card.json").read_text() == "{}"
    assert tracking.deliver_spool() == 0


def test_a_verb_delivers_the_spool_when_it_starts(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    run = _start(context)
    Tracking(_at(context, UNREACHABLE)).resume_run(run.run_id).log_metrics({"loss": 0.5}, step=4)
    model = write_toy_model(toy, toy_data, tmp_path / "model")
    evaluate.run(context, toy, evaluate.Options(model=str(model), bootstrap=100), None)
    assert run.metric_history("loss") == [(4, 0.5)]


def test_a_rejected_call_does_not_block_later_ones(context: Context) -> None:
    run = _start(context)
    spool = Spool(context.store.spool)
    spool.append(run.run_id, {"call": "metrics", "metrics": {"what@ever": 1.0}, "step": 0, "time_ms": 0})
    spool.append(run.run_id, {"call": "tags", "tags": {"kept": "yes"}})
    Tracking(context).deliver_spool()
    assert run.info().tags["kept"] == "yes"
    refused = context.store.spool / f"{run.run_id}.refused.jsonl"
    assert json.loads(refused.read_text())["metrics"] == {"what@ever": 1.0}


def test_a_step_logged_twice_counts_once(context: Context) -> None:
    run = _start(context)
    for value in (0.5, 0.5, 0.4):
        run.log_metrics({"loss": value}, step=1)
    assert [step for step, _ in run.metric_history("loss")] == [1]


def test_a_trial_is_a_child_of_its_sweep_and_artifacts_lie_in_the_store(context: Context) -> None:
    tracking = Tracking(context)
    parent = tracking.start_run("toy", name="sweep", params={"a": 1}, tags={})
    child = tracking.start_run("toy", name="trial", params={}, tags={}, parent_run_id=parent.run_id)
    assert child.info().parent_run_id == parent.run_id
    assert parent.params() == {"a": "1"}
    assert tracking.artifact_uri(parent.run_id, "x").startswith(context.store.artifacts.as_uri())
    assert [run.name for run in tracking.list_runs("toy")] == ["trial", "sweep"]


def test_every_kind_of_model_uri_resolves_to_the_same_bundle(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    directory = write_toy_model(toy, toy_data, tmp_path / "model")
    run = _start(context)
    run.log_artifacts(directory, BUNDLE)
    registry = Registry(Tracking(context))
    version = registry.register("toy", run.run_id, directory, {})
    registry.set_alias("toy", "champion", version)
    manifest = (directory / "MANIFEST.json").read_bytes()
    for uri in (f"runs:/{run.run_id}", "models:/toy/1", "models:/toy@champion", str(directory)):
        assert (resolve_model(context, uri) / "MANIFEST.json").read_bytes() == manifest
    located = locate_model(context, "models:/toy@champion")
    assert (located.uri, located.run_id, located.name) == ("models:/toy/1", run.run_id, "1")


def test_a_modified_model_in_the_registry_is_rejected(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    directory = write_toy_model(toy, toy_data, tmp_path / "model")
    Registry(Tracking(context)).register("toy", None, directory, {})
    (locate_model(context, "models:/toy/1").directory / "config.json").write_text("{}")
    with pytest.raises(BundleRejected, match=r"config\.json differs from its manifest"):
        resolve_model(context, "models:/toy/1")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/toy@champion", r"models:/toy@champion does not exist; `shopkeeper promote toy --store "),
        ("models:/toy/3", r"toy has no version '3'.*there are: none"),
        ("runs:/0123", r"run '0123' is unknown to"),
        ("models:/toy", r"'models:/toy' is not a model URI; use runs:/RUN_ID"),
        ("no/such/directory", r"there is no directory 'no/such/directory'"),
    ],
)
def test_a_missing_model_is_a_usage_failure(context: Context, uri: str, message: str) -> None:
    with pytest.raises(UsageFailure, match=message) as failure:
        resolve_model(context, uri)
    assert failure.value.exit_code == 2


def test_a_run_without_a_model_is_a_usage_failure(context: Context) -> None:
    with pytest.raises(UsageFailure, match=r"\(running\) has no model"):
        resolve_model(context, f"runs:/{_start(context).run_id}")


def _at(context: Context, uri: str) -> Context:
    return Context(store=context.store, tracking_uri=uri)


def _start(context: Context) -> Run:
    return Tracking(context).start_run("toy", name="a run", params={}, tags={})


def _step(body: dict[str, object]) -> object:
    metrics = body.get("metrics")
    return metrics[0].get("step") if isinstance(metrics, list) and metrics else None
