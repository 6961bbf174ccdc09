"""Keys and metrics of an endpoint that is served by two replicas on a cluster."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import deploy, keys, rollback, status
from jobs.cli.context import Context, Failure, Store
from jobs.cluster.local_head import start_head, stop_head
from jobs.cluster.ports import free_port
from jobs.deploy import Options
from jobs.serving.api import read_file, read_json
from jobs.tracking.model_uri import LocatedModel
from tests.kit.polling import until
from tests.kit.shop import SHOP, prepare_shop, write_model

SEEN_WITHIN_S = 50.0
"""Ten times the promise, as the machine may be loaded."""


def status_of(url: str, key: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        assert error.headers["content-type"] == "application/problem+json"
        return error.code


class Shop:
    """A store with two models, and an endpoint of two replicas."""

    def __init__(self, directory: Path) -> None:
        self.context = Context(store=Store(directory / "store"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.models = directory
        data = prepare_shop(self.context.store)
        for name in ("v1", "v2"):
            write_model(SHOP, data, directory / name, network="popularity")

    def deploy(self, name: str) -> dict[str, Any]:
        options = Options(model=str(self.models / name), port=self.port, min_replicas=2, max_replicas=2)
        return deploy.run(self.context, SHOP, options, None).details

    def located(self, name: str) -> LocatedModel:
        return LocatedModel(directory=self.models / name, uri=name, version=name)

    def keys(self, *command: str, scopes: tuple[str, ...] = ()) -> dict[str, Any]:
        return keys.run(self.context, None, keys.Options(command=command, scopes=scopes), None).details

    def is_refused_by_all(self, key: str | None = None) -> bool:
        return all(status_of(f"{self.url}/v1/models", key) == 401 for _ in range(8))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    start_head(made.context.store)
    yield made
    stop_head(made.context.store)


@pytest.mark.ray
def test_a_deployed_endpoint_follows_its_keys_and_has_the_metrics_of_all_replicas_at_one_address(shop: Shop) -> None:
    shop.deploy("v1")
    assert status_of(f"{shop.url}/v1/models") == 200
    reader = shop.keys("create", "web", scopes=("read",))
    operator = shop.keys("create", "operator", scopes=("admin",))["key"]
    until(shop.is_refused_by_all, within_s=SEEN_WITHIN_S)

    details = shop.deploy("v2")
    returned = rollback._serve(shop.context, SHOP, shop.located("v1"), timeout_s=60)

    assert (returned["status"], returned["version"]) == ("switched", "v1")
    assert read_json(f"{shop.url}/v1/models", key=reader["key"])["version"] == "v1"
    found = status.run(shop.context, SHOP, status.Options(), None).details["families"]["recommender"]["deployed"]
    assert found["health"] == "ok"
    with pytest.raises(Failure, match="403"):
        read_json(details["metrics"], key=reader["key"])
    for _ in range(20):
        read_json(f"{shop.url}/v1/recommendations", {"user_id": "u3"}, key=reader["key"])

    def page() -> str:
        return read_file(details["metrics"], key=operator).content.decode()

    until(lambda: 'shopkeeper_replicas{family="recommender"} 2' in page(), within_s=SEEN_WITHIN_S)
    asked = 'shopkeeper_requests_total{family="recommender",method="POST",route="/v1/recommendations",code="200"}'
    # And the golden request of each of two deployments and of the rollback.
    until(lambda: f"{asked} 23" in page(), within_s=SEEN_WITHIN_S)
    assert "shopkeeper_proxy_up 1" in page()
    assert "haproxy_frontend_http_requests_total" in page()
    shop.keys("revoke", reader["id"])
    until(lambda: shop.is_refused_by_all(reader["key"]), within_s=SEEN_WITHIN_S)
