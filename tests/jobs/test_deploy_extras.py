"""Deployment of optional parts of a family: live features, and a golden answer that is a file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs import deploy
from jobs.cli.context import Context, Failure, Store
from jobs.serving import switch as switching
from jobs.serving.config import PinnedModel, empty_config, user_config
from jobs.serving.switch import Acceptance, Endpoint, check_golden, switch, wait_until_served
from models import FAMILIES, bundle
from models.family import Family
from models.features import ABSENT, Change, FeatureStore, create_live_store
from models.prepared import Prepared
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit import toy_extras
from tests.kit.shop import write_model
from tests.kit.toy_extras import NOTES, SOUNDS, VISITS, Visit, first


def test_the_live_feature_store_is_created_once_and_never_overwritten(toy_data: Prepared, store: Store) -> None:
    deploy._fill_features(store, toy_extras.FAMILY)
    live = FeatureStore(store.live_feature_store("toy"))
    live.compare_and_set([Change("notes", "ann", ["a"], ABSENT)])

    counts = deploy._fill_features(store, toy_extras.FAMILY)

    assert counts == {"visitor": 800}
    assert live.read([NOTES], Visit(visitor_id="ann")).values == {"notes": {"ann": ["a"]}}
    filled = FeatureStore(store.feature_store("toy"), read_only=True)
    assert filled.read([NOTES], Visit(visitor_id="ann")).values == {"notes": {}}


@pytest.mark.parametrize(("endpoints_write", "has_live_store"), [(True, True), (False, False)])
def test_replicas_get_the_live_store_of_a_family_that_has_one(
    toy: Family, store: Store, endpoints_write: bool, has_live_store: bool
) -> None:
    family = toy_extras.FAMILY if endpoints_write else toy
    model = PinnedModel(version="1", directory=Path("models/1"), digest="d" * 64)

    config = deploy._target_config(Context(store=store), family, deploy.Options(), model, None, index=None)

    settings = Settings.model_validate(user_config(config, family))
    assert settings.live_feature_store == (store.live_feature_store("toy") if has_live_store else None)
    assert settings.feature_store == store.feature_store("toy")


def test_the_urls_of_all_endpoints_and_streams_are_printed() -> None:
    urls = deploy.endpoint_urls(toy_extras.FAMILY, "http://127.0.0.1:8000")

    endpoints = [f"http://127.0.0.1:8000{endpoint.path}" for endpoint in toy_extras.FAMILY.endpoints]
    assert urls == [*endpoints, f"ws://127.0.0.1:8000{toy_extras.TALK.path}"]


@pytest.fixture
def served_sounds(toy_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """The golden answer of a model whose answers are audio files, and the URL at which it is served."""
    family = first(SOUNDS)
    monkeypatch.setitem(FAMILIES, "toy", family)
    create_live_store(tmp_path / "live.sqlite")
    model = write_model(family, toy_data, tmp_path / "sounds")
    service = Service("toy")
    asyncio.run(service.load(Settings(version="1", bundle=model, live_feature_store=tmp_path / "live.sqlite")))
    assert service.current is not None
    client = TestClient(make_app(service))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = client.post(self.path, content=body, headers={"Content-Type": self.headers["Content-Type"]})
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(client.get(self.path).content)

        def log_message(self, *arguments: Any) -> None:
            """Discard the access log."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield service.current.model.golden, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_golden_answer_that_is_a_file_is_checked_over_http(served_sounds: tuple[Any, str]) -> None:
    expected, url = served_sounds

    check_golden(first(SOUNDS), expected, url)

    assert expected["response"]["media_type"] == "audio/wav"
    for name, wrong in (("media_type", "audio/ogg"), ("num_bytes", 45.0)):
        other = {**expected, "response": {**expected["response"], name: wrong}}
        with pytest.raises(Failure, match=f"does not return the golden answer: response.{name} was"):
            check_golden(first(SOUNDS), other, url)


def test_a_golden_request_that_is_rejected_over_http_is_a_failure(served_sounds: tuple[Any, str]) -> None:
    expected, url = served_sounds

    with pytest.raises(Failure, match="422"):
        check_golden(first(SOUNDS), {**expected, "request": {"visitor_id": "nobody"}}, url)
    assert VISITS.update is not None


class FakeServe:
    """Serve's API, which records what it is given and is at once in that state."""

    def __init__(self) -> None:
        self.applied: list[Any] = []

    def apply(self, config: Any) -> None:
        self.applied.append(config)

    def details(self) -> dict[str, Any]:
        deployment = {"status": "HEALTHY", "replicas": [{}]}
        return {"applications": {"toy": {"status": "RUNNING", "deployments": {"Model": deployment}}}}


def test_a_deployment_that_cannot_be_recorded_is_switched_back(served_sounds: tuple[Any, str], tmp_path: Path) -> None:
    expected, url = served_sounds
    api: Any = FakeServe()
    (tmp_path / "file").touch()
    endpoint = Endpoint(api, url, tmp_path / "file" / "config.yaml")  # as on a full disk, it cannot be written
    model = PinnedModel(version="1", directory=tmp_path / "sounds", digest=bundle.verify(tmp_path / "sounds"))
    wanted, before = empty_config(host="127.0.0.1", port=1), empty_config(host="127.0.0.1", port=2)

    with pytest.raises(OSError):
        switch(
            *(endpoint, first(SOUNDS), model),
            wanted=wanted,
            before=before,
            acceptance=Acceptance(expected, timeout_s=60),
        )

    assert api.applied == [wanted, before]


def test_a_degraded_version_is_refused_by_deploy_but_not_by_a_rollback(
    served_sounds: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, url = served_sounds
    api: Any = FakeServe()
    family, model = first(SOUNDS), PinnedModel("1", tmp_path / "sounds", bundle.verify(tmp_path / "sounds"))
    fault = "the feature store is damaged"
    monkeypatch.setattr(Service, "fault", lambda service: fault)
    monkeypatch.setattr(switching, "DEGRADED_S", 0.0)
    refused, allowed = Acceptance(expected, timeout_s=60), Acceptance(expected, timeout_s=60, allows_degraded=True)

    with pytest.raises(Failure, match=f"version 1 is degraded: {fault}"):
        wait_until_served(api, family, model, url=url, acceptance=refused)
    wait_until_served(api, family, model, url=url, acceptance=allowed)
