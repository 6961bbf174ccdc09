"""Splits reviews by text: all reviews with the same text are one example, in one split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.errors import DataRejected
from models.reviews.schema import NUM_FOLDS, NUM_SHARDS, SPLITS, UNLABELLED, WITHOUT_CLASS

UNUSED = ""
"""Split of a row that is no example: one more with the same text, or unlabelled and held out."""


def digest_of(plain: str) -> str:
    """What equal texts share: sha256 of the normalised text without blanks."""
    return hashlib.sha256(plain.replace(" ", "").encode("utf-8", "surrogatepass")).hexdigest()


def assign(frame: pd.DataFrame, rule: dict[str, Any]) -> pd.DataFrame:
    """Rows with the columns digest, class (index or UNLABELLED) and those of the raw rows, in their final order.

    Adds split, weight, shard and fold. `rule` has the fields of the schema that say how texts are split. Texts with
    several classes are trained on with each, by their shares; they are never held out.
    """
    order = ["digest", "product_id", "user_id", "time_us", "rating", "class", "category", "text", "aspects"]
    frame = frame.sort_values(order, ignore_index=True, na_position="first")
    frame["shard"] = [int(digest[:4], 16) % NUM_SHARDS for digest in frame["digest"]]
    frame["fold"] = [int(digest[4:8], 16) % NUM_FOLDS for digest in frame["digest"]]
    frame["split"], frame["weight"] = UNUSED, 0.0
    labelled = frame[frame["class"] != UNLABELLED]
    examples = labelled.drop_duplicates(["digest", "class"])
    counts = labelled.groupby(["digest", "class"]).size()
    of_text = labelled.groupby("digest").size()
    keys = pd.MultiIndex.from_frame(examples[["digest", "class"]])
    weight = counts.loc[keys].to_numpy() / of_text.loc[examples["digest"]].to_numpy()
    frame.loc[examples.index, "weight"] = weight
    frame.loc[examples.index, "split"] = _splits(frame, examples, weight < 1, rule)
    return frame


def mark_unlabelled(frame: pd.DataFrame, rule: dict[str, Any]) -> None:
    """Give the texts without a class that may be pretrained on their split, each once, in place.

    Not those that are held out too, that belong to the group of `hold_out`, or that are as new as the validation texts
    of a split by time.
    """
    is_free = ~frame["digest"].isin(frame.loc[frame["split"] != UNUSED, "digest"])
    if rule["hold_out"]:
        column, value = rule["hold_out"]
        is_free &= ~frame["digest"].isin(frame.loc[frame[column] == value, "digest"])
    if rule["split"] == "time":
        first = frame.groupby("digest")["time_us"].transform("min")
        is_free &= first < first[frame["split"].isin(SPLITS[1:])].min()
    rows = frame[is_free & (frame["class"] == UNLABELLED)].drop_duplicates("digest").index
    frame.loc[rows, "split"] = WITHOUT_CLASS


def _splits(
    frame: pd.DataFrame, examples: pd.DataFrame, is_conflict: npt.NDArray[np.bool_], rule: dict[str, Any]
) -> npt.NDArray[Any]:
    val, test = rule["fractions"]
    if rule["split"] == "time":
        split = _by_time(frame, examples, val, test)
    else:
        place = np.array([place_of(digest, rule["split_seed"]) for digest in examples["digest"]])
        of_rest = (test, test + val) if not rule["hold_out"] else (0.0, val)
        split = np.where(place < of_rest[0], SPLITS[2], np.where(place < of_rest[1], SPLITS[1], SPLITS[0])).astype(
            object
        )
    is_held = np.zeros(len(examples), np.bool_)
    if rule["hold_out"]:
        column, value = rule["hold_out"]
        if not (frame[column] == value).any():
            raise DataRejected(
                f"no review has {column} = {value!r}, see --hold-out; there are "
                f"{', '.join(map(str, frame[column].dropna().unique()[:8])) or 'none'}"
            )
        held = set(frame.loc[frame[column] == value, "digest"])
        is_held = examples["digest"].isin(held).to_numpy()
        split[is_held] = SPLITS[2]
    split[is_conflict] = np.where(is_held[is_conflict], UNUSED, SPLITS[0])
    return split


def _by_time(frame: pd.DataFrame, examples: pd.DataFrame, val: float, test: float) -> npt.NDArray[Any]:
    """The newest texts are the test, those before them validation, by the first time of each text."""
    if frame["time_us"].isna().any():
        raise DataRejected(
            f"{int(frame['time_us'].isna().sum()):,} reviews have no time, and --split time needs them; name the "
            "column, --columns timestamp=NAME, or use --split text"
        )
    first = frame.groupby("digest")["time_us"].min().loc[examples["digest"]].to_numpy()
    cuts = np.quantile(first, [1 - val - test, 1 - test], method="lower")
    found: npt.NDArray[Any] = np.where(
        first > cuts[1], SPLITS[2], np.where(first > cuts[0], SPLITS[1], SPLITS[0])
    ).astype(object)
    return found


def place_of(digest: str, seed: int) -> float:
    """A place between 0 and 1 that depends on the text and the seed alone."""
    return int(hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()[:15], 16) / 16**15


def check_classes(names: Sequence[str], counts: dict[str, npt.NDArray[np.int64]], source: str) -> None:
    """Raise DataRejected unless at least two classes have texts in training, and each split has some."""
    with_texts = [name for name, count in zip(names, counts["train"], strict=True) if count]
    if len(with_texts) < 2:
        raise DataRejected(
            f"{source}: the training texts have {'only the class ' + with_texts[0] if with_texts else 'no class'}; "
            "give reviews of at least two classes, with labels or with ratings (see --columns and --label-names)"
        )
    for split, count in counts.items():
        if not count.sum():
            raise DataRejected(f"{source}: no labelled text is in the split {split}; give more reviews")
