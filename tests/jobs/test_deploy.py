"""Deployment: the Serve config, rollout and rollback of versions on one cluster, and submitted jobs."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from jobs import deploy, status, stop, submit
from jobs.cli.context import Context, Failure, Store, UsageFailure
from jobs.cluster.local_head import ClusterInfo, headers, running_head, start_head, stop_head
from jobs.cluster.ports import free_port
from jobs.deploy import Options
from jobs.serving.api import ServeApi, read_json
from jobs.serving.config import (
    PinnedModel,
    Size,
    application,
    check_config,
    config_path,
    empty_config,
    read_config,
    with_application,
    write_config,
)
from jobs.serving.switch import Acceptance, wait_until_served
from models import FAMILIES, bundle
from models.prepared import Prepared
from serve.service import Settings
from tests.kit import served_toy
from tests.kit.register import TOY
from tests.kit.shop import SHOP, prepare_shop, prepare_toy, write_model

ROOT = Path(__file__).resolve().parents[2]


# Without a cluster


def pinned(version: str = "4") -> PinnedModel:
    return PinnedModel(version=version, directory=Path("/shop/models/4"), digest="d" * 64)


def test_the_rendered_config_is_valid_for_serve(tmp_path: Path) -> None:
    added = application(SHOP, pinned(), feature_store=tmp_path / "features.sqlite", size=Size(max_replicas=3))
    config = with_application(empty_config(host="127.0.0.1", port=8000), added)

    check_config(config)
    (written,) = config["applications"]
    assert Settings.model_validate(written["deployments"][0]["user_config"]).version == "4"


def test_a_config_with_an_unknown_key_is_rejected() -> None:
    added = application(SHOP, pinned(), feature_store=None, size=Size())
    added["deployments"][0]["max_ongoing_request"] = 3

    with pytest.raises(Failure, match=r"applications\.deployments\.max_ongoing_request"):
        check_config(with_application(empty_config(host="127.0.0.1", port=8000), added))


def test_the_example_config_has_the_keys_that_deploy_renders() -> None:
    example = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    check_config(example)

    (shown,) = [one for one in example["applications"] if one["name"] == "recommender"]
    written = application(SHOP, pinned(), feature_store=Path("x"), size=Size())
    assert set(shown["deployments"][0]) == set(written["deployments"][0])
    assert set(shown["deployments"][0]["user_config"]) == set(written["deployments"][0]["user_config"])


def test_adding_an_application_keeps_those_of_other_families() -> None:
    other = {"name": "image", "route_prefix": "/v1/images", "import_path": "serve.app:build"}
    config = {**empty_config(host="127.0.0.1", port=8000), "applications": [other]}

    added = with_application(config, application(SHOP, pinned("1"), feature_store=None, size=Size()))
    replaced = with_application(added, application(SHOP, pinned("2"), feature_store=None, size=Size()))

    assert [one["name"] for one in replaced["applications"]] == ["image", "recommender"]
    assert replaced["applications"][0] == other
    assert replaced["applications"][1]["deployments"][0]["user_config"]["version"] == "2"


def test_two_families_at_one_route_are_rejected() -> None:
    other = {"name": "image", "route_prefix": "/", "import_path": "serve.app:build"}

    with pytest.raises(UsageFailure, match="image is already deployed at '/'"):
        with_application({"applications": [other]}, application(SHOP, pinned(), feature_store=None, size=Size()))


@pytest.mark.parametrize(
    "wrong", [{"min_replicas": 0}, {"max_replicas": 0}, {"min_replicas": 3, "max_replicas": 2}, {"port": 0}]
)
def test_invalid_options_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        Options(**wrong)


def test_a_model_with_a_wrong_golden_answer_is_not_deployed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = write_model(SHOP, prepare_shop(store), tmp_path / "broken", network="transitions")
    content = json.loads((model / "golden.json").read_text())
    content["response"]["items"][0]["item_id"] = "no-such-item"
    (model / "golden.json").write_text(json.dumps(content))
    bundle.seal(model)

    with pytest.raises(Failure, match="golden answer"):
        deploy.run(Context(store=store), SHOP, Options(model=str(model)), None)
    assert not store.serve.exists()


def test_a_port_in_use_is_rejected_before_anything_starts(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = write_model(SHOP, prepare_shop(store), tmp_path / "v1", network="transitions")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])

        with pytest.raises(UsageFailure, match=f"--port {port}"):
            deploy.run(Context(store=store), SHOP, Options(model=str(model), port=port), None)
    assert running_head(store) is None


def test_a_deployment_succeeds_even_if_an_old_model_cannot_be_deleted(tmp_path: Path, caplog: Any) -> None:
    models = tmp_path / "serve" / "models" / "recommender"
    models.mkdir(parents=True)
    (models / "2").write_text("no directory")
    deploy._prune(Store(tmp_path), SHOP, None)
    assert f"could not delete {models / '2'}" in caplog.text


def test_stop_succeeds_when_nothing_is_running(tmp_path: Path) -> None:
    outcome = stop.run(Context(store=Store(tmp_path)), None, stop.Options(), None)

    assert outcome.status == "unchanged"


def test_status_works_on_an_empty_store_and_creates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "nothing")

    outcome = status.run(Context(store=store), None, status.Options(), None)

    assert outcome.details["families"]["recommender"]["prepared"] is None
    assert outcome.details["families"]["recommender"]["deployed"] is None
    assert outcome.details["cluster"] is None
    assert not store.root.exists()


def test_status_reports_that_the_tracking_server_and_the_endpoint_are_down(tmp_path: Path) -> None:
    store = Store(tmp_path)
    prepare_shop(store)
    config = with_application(
        empty_config(host="127.0.0.1", port=free_port()), application(SHOP, pinned(), feature_store=None, size=Size())
    )
    write_config(config_path(store), config)
    context = Context(store=store, tracking_uri=f"http://127.0.0.1:{free_port()}")

    found = status.run(context, SHOP, status.Options(), None).details["families"]["recommender"]

    assert found["prepared"]["splits"]["test"] == 40
    assert "does not respond" in found["tracking_error"]
    assert found["deployed"]["version"] == "4"
    assert found["deployed"]["health"] == "down"


# On one cluster, in this order


@dataclasses.dataclass
class Shop:
    """A store with two models and a cluster of its own."""

    context: Context
    info: ClusterInfo
    data: Prepared
    port: int
    models: Path

    def deploy(self, name: str, **options: Any) -> dict[str, Any]:
        wanted = Options(model=str(self.models / name), port=self.port, **{"min_replicas": 1, **options})
        return deploy.run(self.context, SHOP, wanted, None).details

    def ask(self, path: str, body: Any = None) -> Any:
        return read_json(f"http://127.0.0.1:{self.port}{path}", body)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    store = Store(directory / "store")
    data = prepare_shop(store)
    write_model(SHOP, data, directory / "v1", network="transitions")
    write_model(SHOP, data, directory / "v2", network="popularity")
    info = start_head(store)
    yield Shop(Context(store=store), info, data, free_port(), directory)
    stop_head(store)


@pytest.mark.ray
def test_a_running_cluster_is_reused_and_its_token_is_private(shop: Shop) -> None:
    assert start_head(shop.context.store) == shop.info
    assert running_head(shop.context.store) == shop.info
    assert stat.S_IMODE(Path(shop.info.token_path).stat().st_mode) == 0o600
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{shop.info.dashboard_url}/api/jobs/", timeout=10)


@pytest.mark.ray
def test_a_failed_first_deployment_is_removed_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    # The cluster's processes do not know the toy family, so its replicas cannot start.
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    store = shop.context.store
    model = write_model(TOY, prepare_toy(store), shop.models / "toy-1", network="linear")

    with pytest.raises(Failure, match="unknown family 'toy'"):
        deploy.run(shop.context, TOY, Options(model=str(model), port=shop.port, min_replicas=1), None)

    assert read_config(config_path(store)) is None
    applications = ServeApi(shop.info.dashboard_url, headers(shop.info)).details()["applications"]
    assert applications.get("toy", {"status": "DELETING"})["status"] == "DELETING"


@pytest.mark.ray
def test_answers_carry_the_version_of_the_model_and_use_events_that_a_deployment_keeps(shop: Shop) -> None:
    details = shop.deploy("v1")

    assert details["version"] == "v1"
    assert shop.ask("/v1/models")["version"] == "v1"
    assert shop.ask("/healthz") == {"status": "ok"}
    answer = shop.ask("/v1/recommendations", {"user_id": "u3", "count": 4})
    assert (answer["model_version"], answer["source"], len(answer["items"])) == ("v1", "personal", 4)
    assert shop.ask("/v1/recommendations", {"user_id": "nobody"})["source"] == "popular"
    for outcome in ("accepted", "duplicate"):
        assert shop.ask("/v1/events", {"event_id": "e1", "user_id": "nobody", "item_id": "item-4"})[outcome] == 1
        assert shop.ask("/v1/recommendations", {"user_id": "nobody"})["source"] == "personal"
        shop.deploy("v1")


@pytest.mark.ray
def test_a_new_model_takes_over_and_a_failed_deployment_is_rolled_back(shop: Shop) -> None:
    shop.deploy("v2")
    assert shop.ask("/v1/models")["network"] == "popularity"
    applied = config_path(shop.context.store).read_bytes()
    write_model(SHOP, shop.data, shop.models / "v3", network="item_knn")

    with pytest.raises(Failure, match=r"version v3 did not respond .* version v2 keeps serving"):
        shop.deploy("v3", timeout_s=0.0)

    assert config_path(shop.context.store).read_bytes() == applied
    api = ServeApi(shop.info.dashboard_url, headers(shop.info))
    two = PinnedModel("v2", shop.models / "v2", bundle.verify(shop.models / "v2"))
    wait_until_served(api, SHOP, two, url=f"http://127.0.0.1:{shop.port}", acceptance=Acceptance({}, timeout_s=30))
    assert shop.ask("/v1/recommendations", {"count": 1})["model_version"] == "v2"


@pytest.mark.ray
def test_problem_responses_pass_through_the_proxy(shop: Shop) -> None:
    with pytest.raises(Failure, match=r"422: .*count"):
        shop.ask("/v1/recommendations", {"count": 10**9})
    with pytest.raises(Failure, match="413"):
        shop.ask("/v1/recommendations", {"history": ["item-1"] * 10**6})


@pytest.mark.ray
def test_two_families_are_served_at_the_same_time(shop: Shop) -> None:
    image, data = FAMILIES["image"], shop.context.store.data("image") / "drawings"
    assert image.sample is not None
    sample = image.sample(shop.models / "drawings")
    data.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        image.prepare(image.PrepareConfig(**sample.prepare), data, executor)
    (data.parent / "CURRENT").write_text(data.name)
    model = write_model(image, Prepared(data), shop.models / "image-1", network="prior")

    deploy.run(shop.context, image, Options(model=str(model), port=shop.port, min_replicas=1), None)
    shop.deploy("v2")

    picture = sample.questions[0].request
    assert shop.ask("/v1/recommendations", {"count": 1})["model_version"] == "v2"
    assert shop.ask("/v1/images/recognise", picture)["model_version"] == "image-1"
    assert shop.ask("/v1/images/similar", picture)["indexed"] == 1200
    body = urllib.request.Request(
        f"http://127.0.0.1:{shop.port}/v1/images/recognise?count=2",
        data=base64.b64decode(picture["image"]),
        headers={"Content-Type": "image/png"},
    )
    with urllib.request.urlopen(body, timeout=10) as response:
        assert len(json.load(response)["attributes"][0]["best"]) == 2


@pytest.mark.ray
def test_the_store_keeps_the_current_and_the_previous_model(shop: Shop) -> None:
    store, data = shop.context.store, shop.context.store.current_data("image")

    def deployed(name: str) -> tuple[set[str], set[str]]:
        model = write_model(FAMILIES["image"], data, shop.models / name, network="prior", seed=int(name[-1]))
        deploy.run(shop.context, FAMILIES["image"], Options(model=str(model), port=shop.port, min_replicas=1), None)
        kept = [{path.name for path in (store.serve / kind / "image").iterdir()} for kind in ("models", "indexes")]
        return kept[0], {name.split("-")[0] for name in kept[1]}

    def digests(*names: str) -> set[str]:
        return {bundle.verify(shop.models / name)[:16] for name in names}

    assert deployed("image-2") == ({"image-1", "image-2"}, digests("image-1", "image-2"))
    assert deployed("image-3") == ({"image-2", "image-3"}, digests("image-2", "image-3"))
    assert {path.name for path in (store.serve / "models" / "recommender").iterdir()} >= {"v2"}


@pytest.mark.ray
def test_a_file_a_stream_and_a_live_feature_are_served_through_the_proxy(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.serving.config.BUILDER", served_toy.BUILDER)
    monkeypatch.setitem(FAMILIES, "toy", served_toy.FAMILY)
    data = prepare_toy(shop.context.store)
    model = write_model(served_toy.FAMILY, data, shop.models / "toy-2", network="linear")

    deploy.run(shop.context, served_toy.FAMILY, Options(model=str(model), port=shop.port, min_replicas=1), None)

    assert [shop.ask("/v1/toy/visits", {"visitor_id": "v1"})["number"] for _ in range(2)] == [1, 2]
    with connect(f"ws://127.0.0.1:{shop.port}/v1/toy/talk") as client:
        client.send("2")
        client.send("2")
        assert json.loads(client.recv(10))["model_version"] == "toy-2"
        assert len(client.recv(10)) == 1
        client.send("warm")
        assert json.loads(client.recv(10))["status"] == 422
        client.send("x" * 1025)
        with pytest.raises(ConnectionClosed, match="1009"):
            client.recv(10)


@pytest.mark.ray
def test_status_shows_the_deployment(shop: Shop) -> None:
    details = status.run(shop.context, SHOP, status.Options(), None).details

    assert details["families"]["recommender"]["deployed"]["version"] == "v2"
    assert details["families"]["recommender"]["deployed"]["health"] == "ok"
    assert details["cluster"]["dashboard_url"] == shop.info.dashboard_url


@pytest.mark.ray
def test_another_port_is_rejected_while_the_endpoint_is_running(shop: Shop) -> None:
    with pytest.raises(UsageFailure, match=f"listens on 127.0.0.1:{shop.port}"):
        deploy.run(shop.context, SHOP, Options(model=str(shop.models / "v1"), port=free_port()), None)


@pytest.mark.ray
def test_a_submitted_verb_runs_on_the_cluster_and_returns_its_result(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = submit.run(shop.context, None, submit.Options(command=("status", "recommender")), None)

    assert outcome.details["submitted"] == "status recommender"
    assert outcome.details["families"]["recommender"]["deployed"]["health"] == "ok"
    assert "recommender" in capfd.readouterr().err


@pytest.mark.ray
def test_a_submitted_verb_returns_its_exit_code(shop: Shop) -> None:
    with pytest.raises(Failure, match="unknown family 'nothing'") as caught:
        submit.run(shop.context, None, submit.Options(command=("status", "nothing")), None)

    assert caught.value.exit_code == 2


@pytest.mark.ray
def test_a_verb_connects_to_the_local_cluster_and_stop_stops_it(shop: Shop) -> None:
    script = (
        "from pathlib import Path; from jobs.cluster.connection import connect;"
        "from jobs.cli.context import Context, Store;"
        f"connect(Context(store=Store(Path({str(shop.context.store.root)!r}))));"
        "import ray; print(ray.get_runtime_context().gcs_address, ray.cluster_resources()['CPU'] >= 1)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == [shop.info.address, "True"], found.stderr

    outcome = stop.run(shop.context, None, stop.Options(), None)

    assert outcome.status == "stopped"
    assert running_head(shop.context.store) is None
    assert not Path(shop.info.temp_dir).exists()
    with pytest.raises(OSError):
        shop.ask("/healthz")
