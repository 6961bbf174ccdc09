"""Classes of reviews: from the shop's labels in any spelling, or from ratings."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.mapping import parse_mapping
from models.reviews.prepare.settings import PrepareConfig
from models.reviews.schema import CLASSES, UNLABELLED

NEGATIVE, NEUTRAL, POSITIVE = range(3)
LOW, HIGH = 0.375, 0.625
"""Where ratings end to be negative and begin to be positive, from 0 to 1: 1 and 2 of 5, and 4 and 5 of 5."""

_WORDS: Mapping[str, int] = {
    **dict.fromkeys(("negative", "neg", "bad", "false", "no", "n", "差评", "负面", "消极", "负"), NEGATIVE),
    **dict.fromkeys(("neutral", "neu", "mixed", "中评", "中性", "中立"), NEUTRAL),
    **dict.fromkeys(("positive", "pos", "good", "true", "yes", "p", "好评", "正面", "积极", "正"), POSITIVE),
}
_NUMBERS: tuple[Mapping[str, int], ...] = (
    {"0": NEGATIVE, "1": POSITIVE},
    {"-1": NEGATIVE, "0": NEUTRAL, "1": POSITIVE},
    {"0": NEGATIVE, "1": NEUTRAL, "2": POSITIVE},
)
MAX_SHOWN = 8

Classes = npt.NDArray[np.int8]


def meaning(values: Collection[str], config: PrepareConfig, source: str) -> dict[str, int]:
    """Label -> index of CLASSES for all labels of the data; raises DataRejected for those that cannot be known."""
    given = parse_mapping(config.label_names, names=CLASSES)
    if given:
        of = {theirs: CLASSES.index(ours) for ours, theirs in given.items()}
    else:
        lower = {value: value.lower() for value in values}
        spellings = (_WORDS, *_NUMBERS)
        known = next((each for each in spellings if set(lower.values()) <= each.keys()), None)
        of = {} if known is None else {value: known[word] for value, word in lower.items()}
    unknown = sorted(set(values) - of.keys())
    if unknown:
        raise DataRejected(
            f"{source} has the labels {', '.join(sorted(values)[:MAX_SHOWN])}, of which {unknown[0]!r} is not known: "
            "say what they mean, e.g. --label-names negative=bad,positive=good, or drop the other rows"
        )
    return of


def classes_of(rows: pa.Table, config: PrepareConfig, source: str) -> tuple[Classes, npt.NDArray[np.bool_]]:
    """The class of each row, an index of CLASSES or UNLABELLED, and whether its label and its rating contradict."""
    label = rows["label"].combine_chunks()
    of = meaning([value for value in pc.unique(label).to_pylist() if value is not None], config, source)
    by_label = np.array([UNLABELLED if value is None else of[value] for value in label.to_pylist()], np.int8)
    rating = rows["rating"].to_numpy()
    share = (rating - 1) / (config.rating_max - 1)
    with np.errstate(invalid="ignore"):
        by_rating = np.where(share < LOW, NEGATIVE, np.where(share > HIGH, POSITIVE, NEUTRAL)).astype(np.int8)
    by_rating[np.isnan(rating)] = UNLABELLED
    contradicts = (np.minimum(by_label, by_rating) == NEGATIVE) & (np.maximum(by_label, by_rating) == POSITIVE)
    if config.neutral == "drop":
        by_rating[by_rating == NEUTRAL] = UNLABELLED
    found: Classes = np.where(by_label != UNLABELLED, by_label, by_rating)
    return found, contradicts
