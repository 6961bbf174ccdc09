"""An endpoint with keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.family import Family
from tests.kit.guarded_toy import GuardedToy


@pytest.fixture
def endpoint(toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path) -> GuardedToy:
    return GuardedToy(tmp_path, toy_bundle("v1"))
