"""A small prepared shop with known elasticities for the tests of prices, and what is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from models.prepared import Prepared
from models.pricing import FAMILY
from models.pricing.sample import Shop
from models.pricing.schema import Schema
from tests.kit import families
from tests.kit.families import scores_of

prepared, trained = partial(families.prepared, FAMILY), partial(families.trained, FAMILY)
__all__ = ["prepared", "scores_of", "trained"]


def prepared_shop(shop: Shop, directory: Path, **settings: Any) -> Prepared:
    """The prepared sales of a made-up shop."""
    tables = {"raw": str(shop.sales), "products": str(shop.products), "calendar": str(shop.calendar)}
    return prepared(directory, **tables, **settings)


def schema_of(data: Prepared) -> Schema:
    """The schema of prepared data."""
    return data.schema(Schema)


def weekly(path: Path, rows: Sequence[str], *, columns: str = "product_id,week,units,price") -> Path:
    """A CSV file of weekly sales; the week of a row is a number of weeks from 1 January 2024, written `w7`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return path
