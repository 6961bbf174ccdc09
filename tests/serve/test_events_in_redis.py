"""Events over HTTP where they are kept in Redis: read-your-writes over replicas, and a server that is down."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from models.events.store import open_events
from tests.kit.redis_servers import redis_server
from tests.serve.test_events import Shop, recommended, view
from tests.serve.test_service import assert_problem, shop_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop_bundle(tmp_path_factory.mktemp("bundle") / "v1")


def test_a_server_that_is_down_refuses_events_and_leaves_answers_and_comes_back(tmp_path: Path, bundle: Path) -> None:
    shop = Shop(tmp_path, bundle)
    with redis_server(tmp_path / "redis", requirepass="hunter2") as server:
        address = server.address.replace("//", "//:hunter2@")
        open_events(address).close()  # as `deploy` does
        one, two = shop.replica(events=address), shop.replica(events=address)
        assert one.post("/v1/events", json=view("item-3", user_id="ann", event_id="e1")).status_code == 200
        assert recommended(two, user_id="ann") == ("personal", {"item-1", "item-2", "item-3"})

        server.kill()
        refused = one.post("/v1/events", json=view("item-4", user_id="ann", event_id="e2"))
        source, seen = recommended(two, user_id="ann")
        server.start()

        assert_problem(refused, 503)
        assert "cannot be reached" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) > 0
        assert "hunter2" not in refused.text
        assert (source, seen) == ("personal", {"item-1", "item-2"}), "the prepared history alone"
        assert one.post("/v1/events", json=view("item-4", user_id="ann", event_id="e2")).status_code == 200
        deadline, seen = time.monotonic() + 60, set()
        while len(seen) < 4 and time.monotonic() < deadline:  # a replica leaves a store that is down alone for a second
            _, seen = recommended(two, user_id="ann")
        assert seen == {"item-1", "item-2", "item-3", "item-4"}
