"""Model directories of the toy family for the tests of the service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.family import Family
from tests.kit.bundles import write_bundle
from tests.kit.live_shop import Shop


@pytest.fixture
def toy_bundle(toy: Family, tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *, seed: int = 0) -> Path:
        schema = toy.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
        torch.manual_seed(seed)
        network = toy.build(toy.Config(), schema)
        return write_bundle(toy, tmp_path / name, network=network, schema=schema, config=toy.Config())

    return write


@pytest.fixture(scope="session")
def prepared_live_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def live_shop(prepared_live_shop: Shop, tmp_path: Path) -> Shop:
    """A shop without live items, in files of its own."""
    return prepared_live_shop.copied_to(tmp_path)
