"""A small prepared shop for the tests of forecasts, and what is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from models.forecast import FAMILY
from models.forecast.schema import Schema
from models.prepared import Prepared
from tests.kit import families
from tests.kit.families import scores_of

prepared, trained = partial(families.prepared, FAMILY), partial(families.trained, FAMILY)
__all__ = ["prepared", "scores_of", "trained"]


DAILY = Schema(
    family="forecast",
    fingerprint="0" * 64,
    num_shards=1,
    num_examples={},
    period="day",
    first=19_723,
    num_periods=200,
    horizon=4,
    val_origins=[192],
    test_origins=[196],
    static={"category": ["", "tea"]},
)
"""Of daily sales, without data."""


def sales_file(path: Path, units: Mapping[str, Sequence[object]], *, more: str = "") -> Path:
    """A CSV file of daily sales from 1 January 2024, by product; None has no row."""
    lines = [f"product_id,date,units{more}"]
    for product, sold in units.items():
        for number, unit in enumerate(sold):
            if unit is not None:
                lines.append(f"{product},{date(2024, 1, 1) + timedelta(days=number)},{unit}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def schema_of(data: Prepared) -> Schema:
    """The schema of prepared data."""
    return data.schema(Schema)
