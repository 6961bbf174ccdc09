"""The schema of prepared reviews: the classes of sentiment, and how texts are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.family import Schema as AnySchema

CLASSES = ("negative", "neutral", "positive")
SPLITS = ("train", "val", "test")
WITHOUT_CLASS = "unlabelled"
"""Split of the texts without a class that a network may be pretrained on: none of them is held out."""
NUM_SHARDS = 8
NUM_FOLDS = 3
"""Parts of the training texts for cross-fitting: each text is scored by what was fitted without its part."""
UNLABELLED = -1


class Schema(AnySchema):
    """What a network and an endpoint must know of the reviews."""

    classes: list[str]
    """Those of `CLASSES` that the training texts have, in this order."""
    class_counts: list[int]
    """Training texts of each class."""
    class_ratings: list[float] | None = None
    """Mean rating of the reviews of each class that were trained on; None without ratings."""
    max_chars: int
    """Characters of a text that are read; the rest is cut off."""
    categories: list[str] = Field(default_factory=list)
    split: Literal["text", "time"] = "text"
    split_seed: int = 0
    hold_out: list[str] = Field(default_factory=list)
    """The column and the value whose texts are the test split; empty without."""
    fractions: list[float]
    """Shares of validation and test."""
    has_users: bool = False
    term_counts: dict[str, int] = Field(default_factory=dict)
    """Labelled aspect terms of each split; empty without labelled aspects."""
    term_languages: list[str] = Field(default_factory=list)
    """Languages of the labelled sentences that were trained on."""
    num_unlabelled: int = 0
    """Texts without a class that a network may be pretrained on, beside those of training."""
