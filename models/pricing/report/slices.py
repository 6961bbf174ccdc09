"""The slices of an evaluation: by class of demand, and by whether a product's history can say how price matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.pricing.data import SalesBatch
from models.pricing.schema import Schema
from models.raw.demand import CLASSES

TRUSTED, FLAGGED = "trusted", "flagged"
ORDER = (*CLASSES, TRUSTED, FLAGGED)


def slices(batch: SalesBatch, schema: Schema) -> Mapping[str, Sequence[str]]:
    """The class of demand of each row's product in its store, and whether prepare flagged the product."""
    flagged = [bool(product.flags) for product in schema.products] + [True]
    return {
        "demand": [CLASSES[demand] for demand in batch.rows.demand.tolist()],
        "history": [FLAGGED if flagged[product] else TRUSTED for product in batch.rows.product.tolist()],
    }
