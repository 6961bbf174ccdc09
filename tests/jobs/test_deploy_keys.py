"""Keys and metrics of an endpoint that is served by two replicas on a cluster."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import deploy, keys, status
from jobs.cli.context import Context, Failure, Store
from jobs.cluster.local_head import start_head, stop_head
from jobs.cluster.ports import free_port
from jobs.deploy import Options
from jobs.serving.api import read_file, read_json
from tests.kit.shop import SHOP, prepare_shop, write_model

SEEN_WITHIN_S = 50.0
"""Ten times the promise, as the machine may be loaded."""


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def status_of(url: str, key: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        assert error.headers["content-type"] == "application/problem+json"
        return error.code


@pytest.mark.ray
def test_a_deployed_endpoint_follows_its_keys_and_has_the_metrics_of_all_replicas_at_one_address(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    context, port = Context(store=store), free_port()
    data = prepare_shop(store)
    models = [write_model(SHOP, data, tmp_path / name, network="popularity") for name in ("v1", "v2")]
    url = f"http://127.0.0.1:{port}"

    def create(name: str, scope: str) -> str:
        made = keys.run(context, None, keys.Options(command=("create", name), scopes=(scope,)), None)
        return str(made.details["key"])

    def deployed(model: Path) -> dict[str, Any]:
        options = Options(model=str(model), port=port, min_replicas=2, max_replicas=2)
        return deploy.run(context, SHOP, options, None).details

    start_head(store)
    try:
        deployed(models[0])
        assert status_of(f"{url}/v1/models") == 200
        reader, operator = create("web", "read"), create("operator", "admin")
        eventually(lambda: all(status_of(f"{url}/v1/models") == 401 for _ in range(8)))

        details = deployed(models[1])

        assert read_json(f"{url}/v1/models", key=reader)["version"] == "v2"
        assert (
            status.run(context, SHOP, status.Options(), None).details["families"]["recommender"]["deployed"]["health"]
            == "ok"
        )
        with pytest.raises(Failure, match="403"):
            read_json(details["metrics"], key=reader)
        for _ in range(20):
            read_json(f"{url}/v1/recommendations", {"user_id": "u3"}, key=reader)

        def page() -> str:
            return read_file(details["metrics"], key=operator).content.decode()

        eventually(lambda: 'shopkeeper_replicas{family="recommender"} 2' in page())
        asked = 'shopkeeper_requests_total{family="recommender",method="POST",route="/v1/recommendations",code="200"}'
        # And one by each of two deployments, the golden request.
        eventually(lambda: f"{asked} 22" in page())
        assert "shopkeeper_proxy_up 1" in page()
        assert "haproxy_frontend_http_requests_total" in page()
        keys.run(context, None, keys.Options(command=("revoke", reader.split("_")[1])), None)
        eventually(lambda: all(status_of(f"{url}/v1/models", reader) == 401 for _ in range(8)))
    finally:
        stop_head(store)
