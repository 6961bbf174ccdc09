"""Model directories of the toy family for the tests of the service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.family import Family
from tests.kit.bundles import write_bundle


@pytest.fixture
def toy_bundle(toy: Family, tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *, seed: int = 0) -> Path:
        schema = toy.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
        torch.manual_seed(seed)
        network = toy.build(toy.Config(), schema)
        return write_bundle(toy, tmp_path / name, network=network, schema=schema, config=toy.Config())

    return write
