"""What networks and endpoints know of a shop's images: the label heads, how often each class was seen, the size."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

import models.family
from models.image.text.titles import Form

NUM_SHARDS = 32
"""Prepared images are always hash-partitioned by product into this many shards, whatever their number."""

MISSING = -1
"""Label index of an image that a head has no label for: it is not judged there."""
UNKNOWN = -2
"""Label index of a class that the model has no place for, as it is older than the data: it cannot be right there."""


class Schema(models.family.Schema):
    """The classes and statistics of prepared images."""

    order: list[str] = Field(default_factory=list)
    """Label columns in the order of the heads, which an object of JSON does not keep."""
    heads: dict[str, list[str]]
    """Label column -> names of its classes, in order of name; a label is a place in this list, or MISSING. The first
    head is the one that sweeps and promotion follow."""
    label_counts: dict[str, list[int]]
    """Label column -> images of each class in the training split."""
    channels: int
    """Colours of a stored image: 1 (grey) or 3 (red, green, blue)."""
    size: int
    """Side of the stored images, which are square, in pixels."""
    mean: list[float]
    """Mean of each channel over the training images, on the scale 0 .. 1."""
    std: list[float]
    """Standard deviation of each channel over the training images, on the scale 0 .. 1; never 0."""
    forms: list[Form] = Field(default_factory=list)
    """Phrases of the shop's titles that a learnt title may hold, in the order of their tokens; none without titles."""
    item_ids: bool
    """Whether the images carry product ids; without them each image is its own product."""

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, given: Any) -> Any:
        """The heads as `order` has them, or, without one, that order as the heads have it."""
        if not isinstance(given, dict) or not isinstance(given.get("heads"), dict):
            return given
        heads = given["heads"]
        order = [head for head in given.get("order", ()) if head in heads] or list(heads)
        if len(order) != len(heads):
            raise ValueError(f"the order {order} does not name each of the heads {list(heads)} once")
        return {**given, "order": order, "heads": {head: heads[head] for head in order}}
