"""An endpoint of the toy family with API keys, without a cluster, whose clock the test moves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from models.keys import Key, Scope, make_key, read_keys, write_keys
from serve.access.guard import LOOK_EVERY_S
from serve.routes import make_app
from serve.service import Service, Settings

NUMBERS = {"numbers": [1.0, 2.0]}


class Clock:
    """Both clocks of a guard."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class GuardedToy:
    """A service of the toy family with a key file, without a cluster."""

    def __init__(self, directory: Path, bundle: Path, **settings: Any) -> None:
        self.path = directory / "keys.json"
        self.clock = Clock()
        self.service = Service("toy")
        self.service.guard._monotonic = self.service.guard._epoch_s = self.clock
        self.bundle = bundle
        self.load(**settings)
        self.app = make_app(self.service)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def load(self, **settings: Any) -> None:
        wanted = Settings(version="7", bundle=self.bundle, keys=self.path, **settings)
        asyncio.run(self.service.load(wanted))

    def add(self, *scopes: Scope, name: str = "web", **changes: Any) -> dict[str, str]:
        """Add a key and return the header that sends it."""
        keys = read_keys(self.path)
        key, secret = make_key(name, scopes=scopes, requests_per_s=changes.pop("requests_per_s", None))
        self.write(*(keys.by_id.values() if keys else ()), key.model_copy(update=changes))
        return {"Authorization": f"Bearer {secret}"}

    def write(self, *keys: Key) -> None:
        write_keys(self.path, keys)
        self.clock.now_s += LOOK_EVERY_S

    def ask(self, headers: dict[str, str] | None = None) -> Any:
        return self.client.post("/v1/colours", json=NUMBERS, headers=headers)
