"""The slices of an evaluation: by language, length and category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.reviews.data import Reviews
from models.reviews.schema import Schema
from models.reviews.text import LANGUAGES

LENGTHS = {20: "up to 20 characters", 100: "21 to 100 characters"}
LONGER = "more than 100 characters"
NO_CATEGORY = "no category"
ORDER = (*LANGUAGES, *LENGTHS.values(), LONGER)


def slices(batch: Reviews, schema: Schema) -> Mapping[str, Sequence[str]]:
    """Language and length of each text and, where the shop has them, its category."""
    found = {
        "language": [LANGUAGES[number] for number in batch.languages.tolist()],
        "length": [length_of(count) for count in batch.lengths.tolist()],
    }
    if schema.categories:
        found["category"] = [name or NO_CATEGORY for name in batch.categories]
    return found


def length_of(count: int) -> str:
    """How long a text of so many characters is."""
    return next((name for limit, name in LENGTHS.items() if count <= limit), LONGER)
