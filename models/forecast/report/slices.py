"""The slices of an evaluation: by class of demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.forecast.data import Windows
from models.forecast.schema import Schema
from models.raw.demand import CLASSES

ORDER = CLASSES


def slices(batch: Windows, schema: Schema) -> Mapping[str, Sequence[str]]:
    """The class of demand of each window's series before validation, see `models.raw.demand`."""
    return {"demand": [CLASSES[demand] for demand in batch.demand.tolist()]}
