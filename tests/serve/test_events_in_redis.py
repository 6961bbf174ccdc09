"""Events over HTTP where they are kept in Redis: read-your-writes over replicas, and a server that is down."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from models.erasure.tombstones import Tombstones
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


def test_an_erased_user_is_gone_from_the_server_and_unknown(tmp_path: Path, bundle: Path) -> None:
    shop = Shop(tmp_path, bundle)
    with redis_server(tmp_path / "redis") as server:
        open_events(server.address).close()
        one, two = (shop.replica(events=server.address, erased=tmp_path / "erased.sqlite") for _ in range(2))
        sent = [view("item-3", user_id="ann", session_id="s1"), view("item-4", session_id="s1")]
        assert one.post("/v1/events", json=sent).json()["accepted"] == 2

        erased = one.delete("/v1/users/ann").json()

        assert ("events", "deleted", 2) in [
            (each["what"], each["state"], each.get("count")) for each in erased["traces"]
        ]
        assert Tombstones(tmp_path / "erased.sqlite").has("ann")
        assert recommended(two, user_id="ann")[0] == "popular"
        assert two.post("/v1/events", json=view("item-3", user_id="ann")).status_code == 422
        with closing(open_events(server.address)) as store:
            assert [each for block in store.scan(after_seq=0, until_seq=store.last_seq()) for each in block] == []
