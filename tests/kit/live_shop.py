"""A small shop with live items, and replicas of it in one process."""

from __future__ import annotations

import asyncio
import json
from copy import copy
from pathlib import Path
from shutil import copyfile
from typing import Any

from fastapi.testclient import TestClient

from jobs.cli.context import Store
from models import FAMILIES
from models.features import write_store
from models.prepared import Prepared
from models.recommender.schema import Schema
from serve.live_items import LiveCatalogue
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit.bundles import write_bundle
from tests.kit.logs import KINDS, prepared

FAMILY = FAMILIES["recommender"]


class Shop:
    """A shop of four kinds of items, each with eight, whose users stay with a kind; and replicas that serve it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.items = directory / "items.sqlite"
        self.data = data = _data(directory)
        self.schema = data.schema(Schema)
        write_store(self.features, FAMILY.features, data)
        config = FAMILY.Config(network="transitions")
        network = FAMILY.build(config, self.schema)
        FAMILY.initialise(network, data, self.schema)
        self.bundle = write_bundle(
            FAMILY, directory / "bundle", network=network.eval(), schema=self.schema, config=config
        )

    def copied_to(self, directory: Path) -> Shop:
        """The same with other live items and a feature store of its own, which a test may break."""
        other = copy(self)
        other.directory, other.items = directory, directory / "items.sqlite"
        copyfile(self.features, other.features)
        return other

    @property
    def features(self) -> Path:
        """The feature store."""
        return self.directory / "features.sqlite"

    def replica(self, **settings: Any) -> Replica:
        service = Service("recommender")
        own = {"items": str(self.items), "feature_store": self.features, **settings}
        asyncio.run(service.load(Settings(version="1", bundle=self.bundle, **own)))
        return Replica(service)


class Replica:
    """A service and an HTTP client of it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.client = TestClient(make_app(service), raise_server_exceptions=False)

    @property
    def live(self) -> LiveCatalogue:
        assert self.service.current is not None and self.service.current.live is not None
        return self.service.current.live

    def put(self, *items: Any) -> Any:
        response = self.client.put("/v1/items", json=list(items))
        assert response.status_code == 200, response.text
        return response.json()

    def recommended(self, *history: str, path: str = "recommendations", **more: Any) -> dict[str, str]:
        """Item id -> reason."""
        body = {"item_id": history[0]} if path == "similar_items" else {"history": list(history)}
        response = self.client.post(f"/v1/{path}", json={**body, "count": 20, **more})
        assert response.status_code == 200, response.text
        return {item["item_id"]: item["reason"] for item in response.json()["items"]}


def _data(directory: Path) -> Prepared:
    lines = [
        " ".join([f"u{user}", *(f"{KINDS[user % 4]}{(user + step * (1 + user % 3)) % 8}" for step in range(6))])
        for user in range(200)
    ]
    items = [
        {"item_id": f"{kind}{place}", "kind": kind, "price": 10 * place, "in_stock": place != 7}
        for kind in KINDS
        for place in range(8)
    ]
    (directory / "log.txt").write_text("\n".join(lines))
    (directory / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    store = Store(directory / "store")
    return prepared(store, directory / "log.txt", items=str(directory / "items.jsonl"), split="leave-one-out")
