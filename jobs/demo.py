"""`shopkeeper demo`: the whole pipeline on a small synthetic shop, from raw data to a request to the endpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs import deploy, prepare, promote, sweep, train
from jobs.cli.context import Context, Failure, Outcome, Store, UsageFailure, log
from jobs.cli.flags import check_at_least
from jobs.cluster import connection
from jobs.cluster.local_head import start_head, stop_head
from jobs.cluster.ports import free_port
from jobs.serving.access import internal_key
from jobs.serving.api import bearer
from jobs.tracking.mlflow_ui import start_ui, stop_ui
from models import FAMILIES
from models.family import Family
from models.files import write_text

ANSWER_TIMEOUT_S = 30.0
PREFERRED_PORT = 8000
SHOWN_CHARACTERS = 60
MARKER = ".shopkeeper-demo"
"""File in a store that the next demo may delete; 0.1.0 did not write one."""


@dataclass(frozen=True)
class Options:
    """Size of the demo, and whether it keeps running."""

    stay: bool = False
    """Leave the endpoint, the cluster and the MLflow UI running; `shopkeeper stop --store STORE/demo` stops them."""
    trials: int = 3
    """Number of trials in the sweep."""
    workers: int = 2
    """Data-parallel training processes."""
    port: int | None = None
    """Port of the endpoint; unset is 8000, or a free one if that is taken."""

    def __post_init__(self) -> None:
        check_at_least(self, trials=1, workers=1)


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Run every step in a fresh store below the given one; stops everything at the end unless --stay is set."""
    family = family or _first_with_sample()
    if family.sample is None:
        raise UsageFailure(f"{family.name} has no synthetic data; add a `sample` to it")
    if context.address:
        raise UsageFailure(f"demo starts its own cluster on this machine; omit --address {context.address}")
    context = dataclasses.replace(context, store=Store(context.store.root / "demo"))
    _clear(context.store)
    with contextlib.ExitStack() as at_end:
        at_end.callback(_stop, context.store)
        outcome = _run_steps(context, family, options)
        if options.stay:
            at_end.pop_all()
    return outcome


def _run_steps(context: Context, family: Family, options: Options) -> Outcome:
    assert family.sample is not None
    seconds: dict[str, float] = {}
    with _step("generate a synthetic shop", seconds):
        sample = family.sample(context.store.root / "raw")
    with _step("start a local Ray cluster", seconds):
        head = start_head(context.store)
    with _step("prepare", seconds):
        prepared = prepare.run(context, family, prepare.Options(), family.PrepareConfig(**sample.prepare))
        log.info("%s", prepared.summary)
    with _step("sweep", seconds):
        swept = sweep.run(context, family, sweep.Options(trials=options.trials), family.Config(**sample.train))
    with _step("train", seconds):
        best = family.Config(**{**sample.train, **swept.details["best_config"]})
        trained = train.run(context, family, train.Options(workers=str(options.workers)), best)
    with _step("promote", seconds):
        promoted = promote.run(context, family, promote.Options(model=f"runs:/{trained.run_id}"), None)
    with _step("deploy", seconds):
        wanted = deploy.Options(port=options.port or free_port(PREFERRED_PORT), min_replicas=1)
        deployed = deploy.run(context, family, wanted, None)
    url, key = deployed.details["url"], internal_key(context.store)
    with _step("query the endpoint", seconds):
        answers = {question.title: _query(url, family, question, key=key) for question in sample.questions}
    metrics = {**trained.metrics, **promoted.metrics}
    return Outcome(
        run_id=trained.run_id,
        metrics={name: value for name, value in metrics.items() if name.endswith(family.metric.name)},
        details={
            "family": family.name,
            "sweep_run_id": swept.run_id,
            "answers": answers,
            "seconds": seconds,
            "where": {
                "endpoint": url,
                "ray_dashboard": head.dashboard_url,
                "mlflow": _mlflow_url(context, stay=options.stay),
                "stays": options.stay,
            },
        },
    )


@contextlib.contextmanager
def _step(title: str, seconds: dict[str, float]) -> Iterator[None]:
    log.info("demo: %s", title)
    started = time.monotonic()
    yield
    seconds[title] = round(time.monotonic() - started, 1)


def _query(url: str, family: Family, question: Any, *, key: str | None) -> dict[str, Any]:
    """The answer of the first endpoint, next to the right one."""
    body = json.dumps(question.request).encode("utf-8")
    address = f"{url.rstrip('/')}{family.endpoints[0].path}"
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json", **bearer(key)})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
            answer = json.load(response)
    except OSError as error:
        raise Failure(f"POST {address} with {_shown(question.request)} failed: {error}") from error
    return {"request": _shown(question.request), "right_answer": question.right_answer, "answer": answer}


def _shown(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request without its long values, such as an image in base64."""
    return {
        name: f"{value[:SHOWN_CHARACTERS]}..." if isinstance(value, str) and len(value) > SHOWN_CHARACTERS else value
        for name, value in request.items()
    }


def _mlflow_url(context: Context, *, stay: bool) -> str:
    if stay:
        return start_ui(context.store)
    return context.command("ui")


def _first_with_sample() -> Family:
    for family in FAMILIES.values():
        if family.sample is not None:
            return family
    raise UsageFailure("no family has synthetic data; add a `sample` to one")


def _clear(store: Store) -> None:
    """Stop and delete the store of an earlier demo; raises UsageFailure for a directory that no demo wrote."""
    is_of_0_1_0 = (store.cluster / "head.log").is_file() and (store.root / "raw").is_dir()
    if store.root.exists() and any(store.root.iterdir()) and not is_of_0_1_0 and not (store.root / MARKER).is_file():
        raise UsageFailure(f"{store.root} exists and no demo wrote it; move it, or name another --store")
    _stop(store)
    if store.root.exists():
        shutil.rmtree(store.root)
    write_text(store.root / MARKER, "The next demo deletes this directory.\n")


def _stop(store: Store) -> None:
    connection.disconnect()
    stop_ui(store)
    stop_head(store)
