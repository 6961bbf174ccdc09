"""The event store of a deployment: the file of the store, another address, or none; and never a file on many hosts."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.cli.context import Context, DependencyDown, Failure, Store, UsageFailure
from jobs.serving import event_store
from jobs.serving.event_store import event_address
from models import FAMILIES
from models.errors import EventsUnavailable
from models.events.store import open_events
from tests.kit.event_writers import event, stored_ids

SHOP = FAMILIES["recommender"]
REDIS = "redis://10.0.0.5:6379/0"


class Opened:
    """An event store on a server that always answers."""

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store, "open_events", lambda each: Opened() if "://" in each else open_events(each))


@pytest.fixture(params=[1, 3])
def cluster(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Context, int]:
    """A cluster with an address, and its number of hosts."""

    class Api:
        def __init__(self, *where: Any) -> None: ...

        def num_hosts(self) -> int:
            return int(request.param)

    monkeypatch.setattr(event_store, "ServeApi", Api)
    monkeypatch.setattr(event_store, "dashboard", lambda context: (context.address, {}))
    return Context(store=store, address="http://head:8265"), request.param


def deployed(**settings: str | None) -> dict[str, Any]:
    return {"applications": [{"name": "recommender", "deployments": [{"user_config": {"version": "1", **settings}}]}]}


def test_the_file_of_the_store_is_created_once_and_never_replaced(store: Store) -> None:
    address = event_address(Context(store=store), SHOP, None, None)
    assert address == str(store.events)
    events = open_events(address)
    events.append([event("a")])

    for before in (deployed(), deployed(events=address), deployed(events="/moved/store/events.sqlite")):
        assert event_address(Context(store=store), SHOP, None, before) == address

    assert stored_ids(events) == ["a"]
    events.close()


@pytest.mark.usefixtures("with_redis")
def test_another_address_is_kept_by_later_deployments(store: Store) -> None:
    context = Context(store=store)

    assert event_address(context, SHOP, REDIS, deployed()) == REDIS
    assert event_address(context, SHOP, None, deployed(events=REDIS)) == REDIS
    assert event_address(context, SHOP, "none", deployed(events=REDIS)) is None
    assert event_address(context, SHOP, None, deployed(events=None)) is None
    assert event_address(context, SHOP, str(store.events), deployed(events=None)) == str(store.events)


@pytest.mark.usefixtures("with_redis")
def test_a_file_is_refused_where_the_cluster_has_several_hosts(cluster: tuple[Context, int]) -> None:
    context, num_hosts = cluster
    assert event_address(context, SHOP, REDIS, None) == REDIS
    assert event_address(context, SHOP, "none", None) is None

    if num_hosts == 1:
        assert event_address(context, SHOP, None, None) == str(context.store.events)
    else:
        with pytest.raises(UsageFailure, match=r"3 hosts, and SQLite.* deploy with --events redis://HOST:PORT/DB"):
            event_address(context, SHOP, None, None)
        assert not context.store.events.exists()


def test_what_cannot_be_used_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(store=store)
    with pytest.raises(UsageFailure, match=r"elsewhere\.sqlite is neither redis://HOST:PORT/DB nor none"):
        event_address(context, SHOP, "elsewhere.sqlite", None)
    with pytest.raises(UsageFailure, match="image takes no events"):
        event_address(context, FAMILIES["image"], REDIS, None)
    assert event_address(context, FAMILIES["image"], None, None) is None
    store.root.mkdir()
    store.events.write_bytes(b"x" * 4096)
    with pytest.raises(Failure, match=r"not deployed: .*events\.sqlite is damaged"):
        event_address(context, SHOP, None, None)

    def down(address: str) -> Any:
        raise EventsUnavailable(f"{address} does not answer")

    monkeypatch.setattr(event_store, "open_events", down)
    with pytest.raises(DependencyDown, match="does not answer"):
        event_address(context, SHOP, REDIS, None)
