"""The schema of prepared images: label heads, class counts, image size and channel statistics."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

import models.family
from models.image.text.titles import Form

SPLITS = ("train", "val", "test")
NUM_SHARDS = 32
"""Prepared images are hash-partitioned by product into this many shards."""

MISSING = -1
"""Label index of an image without a label for a head; the head ignores it."""
UNKNOWN = -2
"""Label index of a class that is newer than the model; any prediction of the model is an error."""


class Schema(models.family.Schema):
    """The classes and statistics of prepared images."""

    order: list[str] = Field(default_factory=list)
    """Label columns in the order of the heads, since JSON objects are unordered."""
    heads: dict[str, list[str]]
    """Label column -> class names, sorted; a label is an index into this list, or MISSING. Sweeps and promotion follow
    the first head."""
    label_counts: dict[str, list[int]]
    """Label column -> number of training images of each class."""
    channels: int
    """Colour channels of the stored images: 1 (grey) or 3 (RGB)."""
    size: int
    """Side of the stored square images, in pixels."""
    mean: list[float]
    """Mean of each channel over the training images, scaled to 0 .. 1."""
    std: list[float]
    """Standard deviation of each channel over the training images, scaled to 0 .. 1; never 0."""
    forms: list[Form] = Field(default_factory=list)
    """Vocabulary of the title generator, in the order of the tokens; empty without titles."""
    item_ids: bool
    """Whether the images have product ids; without them each image is its own product."""

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, given: Any) -> Any:
        """Sort the heads by `order`, or set `order` from the heads."""
        if not isinstance(given, dict) or not isinstance(given.get("heads"), dict):
            return given
        heads = given["heads"]
        order = [head for head in given.get("order", ()) if head in heads] or list(heads)
        if len(order) != len(heads):
            raise ValueError(f"the order {order} does not name each of the heads {list(heads)} once")
        return {**given, "order": order, "heads": {head: heads[head] for head in order}}
