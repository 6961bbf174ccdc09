"""A rollback, a scale-down and a stop cut no request; status says what a broken replica lacks. On one cluster."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs import deploy, rollback, status, stop
from jobs.cli.context import Context, Failure, Store
from jobs.cluster.local_head import headers, running_head, start_head, stop_head
from jobs.cluster.ports import free_port
from jobs.serving.api import ServeApi, read_json
from jobs.serving.config import config_path, read_config, user_config
from jobs.serving.state import num_replicas
from jobs.tracking.model_uri import LocatedModel
from models import bundle
from models.prepared import Prepared
from tests.kit.polling import until
from tests.kit.shop import SHOP, prepare_shop, write_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]
BODY = json.dumps({"user_id": "u3", "count": 4})


@dataclass
class Shop:
    """A store with models and a cluster of its own."""

    context: Context
    data: Prepared
    port: int
    models: Path

    def located(self, name: str) -> LocatedModel:
        return LocatedModel(directory=self.models / name, uri=name, version=name)

    def deploy(self, name: str, **options: Any) -> dict[str, Any]:
        wanted = deploy.Options(model=str(self.models / name), port=self.port, **options)
        return deploy.run(self.context, SHOP, wanted, None).details

    def roll_back(self, name: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        return rollback._serve(self.context, SHOP, self.located(name), timeout_s=timeout_s)

    def info(self) -> Any:
        return read_json(f"http://127.0.0.1:{self.port}/v1/models")

    def served(self) -> dict[str, Any]:
        """The applied settings."""
        return user_config(read_config(config_path(self.context.store)), SHOP)

    def serve_state(self) -> dict[str, Any]:
        head = running_head(self.context.store)
        assert head is not None
        found: dict[str, Any] = ServeApi(head.dashboard_url, headers(head)).details()["applications"][SHOP.name]
        return found

    def is_rolled_out(self) -> bool:
        """Whether every replica has what was applied last."""
        found = self.serve_state()
        return found["status"] == "RUNNING" and {each["status"] for each in found["deployments"].values()} == {
            "HEALTHY"
        }

    def health(self) -> dict[str, Any]:
        found = status.run(self.context, SHOP, status.Options(timeout_s=60), None)
        shown: dict[str, Any] = found.details["families"][SHOP.name]["deployed"]
        return shown


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    store = Store(directory / "store")
    data = prepare_shop(store)
    for name, network in (("v1", "transitions"), ("v2", "popularity"), ("v3", "item_knn")):
        write_model(SHOP, data, directory / name, network=network)
    start_head(store)
    yield Shop(Context(store=store), data, free_port(), directory)
    stop_head(store)


@contextmanager
def load(port: int, *, num_clients: int = 4) -> Iterator[Counter[str]]:
    """Requests by several clients on connections that they keep; counts the outcomes."""
    outcomes: Counter[str] = Counter()
    is_over, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        connection: http.client.HTTPConnection | None = None
        while not is_over.is_set():
            outcome, connection = _ask(port, connection)
            with lock:
                outcomes[outcome] += 1

    threads = [threading.Thread(target=ask) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: outcomes.total() > 20)
        yield outcomes
        so_far = outcomes.total()
        until(lambda: outcomes.total() > so_far + 20)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _ask(port: int, connection: http.client.HTTPConnection | None) -> tuple[str, http.client.HTTPConnection | None]:
    """The outcome of one request, and the connection if it stays open."""
    try:
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.connect()
    except OSError:
        return "refused", None
    try:
        connection.request("POST", "/v1/recommendations", BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        return f"cut: {error!r}", None
    said = json.loads(content)["model_version"] if response.status == 200 else str(response.status)
    return said, None if response.will_close else connection


def test_a_rollback_swaps_in_the_model_in_memory_and_a_second_one_returns(shop: Shop) -> None:
    shop.deploy("v1", min_replicas=2)
    shop.deploy("v2")
    until(lambda: {shop.info()["standby"] for _ in range(8)} == {"v1"})

    with load(shop.port) as outcomes:
        first = shop.roll_back("v1")
        after_first = (shop.info()["version"], shop.served()["version"], shop.served()["standby"]["version"])
        second = shop.roll_back("v2")

    assert (first["status"], first["version"], first["previous_version"]) == ("switched", "v1", "v2")
    assert after_first == ("v1", "v1", "v2")
    assert (second["status"], shop.info()["version"]) == ("switched", "v2")
    assert set(outcomes) == {"v1", "v2"}, "no request failed"
    assert shop.roll_back("v2")["status"] == "unchanged"


def test_a_rollback_that_fails_leaves_what_was_serving(shop: Shop) -> None:
    applied = config_path(shop.context.store).read_bytes()

    with pytest.raises(Failure, match=r"version v1 did not respond .* version v2 keeps serving"):
        shop.roll_back("v1", timeout_s=0.0)

    assert config_path(shop.context.store).read_bytes() == applied
    until(shop.is_rolled_out)  # and not only in the replicas that answer first
    until(lambda: {shop.info()["version"] for _ in range(8)} == {"v2"})


def test_a_model_that_breaks_in_the_replicas_leaves_what_was_serving(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(*arguments: Any) -> None:  # after the checks of deploy, before the replicas read it
        (shop.context.store.serve / "models" / SHOP.name / "v3" / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(deploy, "check_config", damage)

    with pytest.raises(Failure, match=r"a replica rejected version v3: .* version v2 keeps serving"):
        shop.deploy("v3")

    assert {shop.info()["version"] for _ in range(8)} == {"v2"}
    assert shop.served()["version"] == "v2"


def test_after_a_deploy_that_was_killed_half_way_the_next_one_goes_on(shop: Shop) -> None:
    arguments = ["--model", str(shop.models / "v3"), "--store", str(shop.context.store.root)]
    process = subprocess.Popen([sys.executable, "-m", "jobs", "deploy", SHOP.name, *arguments], cwd=ROOT)
    until(lambda: shop.info()["version"] == "v3" or process.poll() is not None)
    process.kill()
    process.wait()

    shop.deploy("v3")

    assert {shop.info()["version"] for _ in range(8)} == {"v3"}
    assert shop.served()["standby"]["version"] == "v2"


def test_a_scale_down_under_load_cuts_no_request(shop: Shop) -> None:
    assert num_replicas(shop.serve_state(), running=True) == 2

    with load(shop.port) as outcomes:
        shop.deploy("v3", min_replicas=1, max_replicas=1)
        until(lambda: num_replicas(shop.serve_state()) == 1)

    assert set(outcomes) == {"v3"}
    assert outcomes.total() > 100


def test_status_says_why_a_replica_cannot_restart(shop: Shop) -> None:
    assert shop.health()["state"] == "ok"
    pinned, hidden = shop.context.store.serve / "models" / SHOP.name / "v3", shop.models / "hidden"
    shutil.move(pinned, hidden)
    (deployment,) = shop.serve_state()["deployments"].values()
    os.kill(deployment["replicas"][0]["pid"], signal.SIGKILL)

    until(lambda: "is not a model directory" in shop.health()["health"])

    assert shop.health()["state"] in ("no replica", "cannot restart")
    shutil.move(hidden, pinned)
    assert bundle.verify(pinned)
    until(lambda: shop.health()["state"] == "ok")


def test_a_stop_answers_what_it_has_accepted(shop: Shop) -> None:
    with load(shop.port) as outcomes:
        stop.run(shop.context, None, stop.Options(), None)

    assert set(outcomes) == {"v3", "refused"}
    assert running_head(shop.context.store) is None
