"""Small prepared reviews for the tests of the family, and what is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.reviews import FAMILY
from tests.kit import families
from tests.kit.families import scores_of

prepared, trained = partial(families.prepared, FAMILY), partial(families.trained, FAMILY)
__all__ = ["prepared", "scores_of", "trained"]


def written(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """A Parquet file of reviews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path
