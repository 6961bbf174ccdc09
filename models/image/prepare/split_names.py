"""Names of splits, in folders and in columns: train, test, seg_train, Validation, images_test."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

SPLIT_WORDS = {
    **{"train": "train", "training": "train", "trainset": "train", "trn": "train"},
    **{"test": "test", "testing": "test", "testset": "test"},
    **{"val": "val", "valid": "val", "validation": "val", "valset": "val", "dev": "val"},
}
"""Word -> split. `eval` and `holdout` are missing since they mean validation to some and test to others."""
KNOWN = "train, val (valid, validation, dev) and test"
"""The names as an error shows them."""

_UNLABELLED_WORDS = {
    *("pred", "predict", "prediction", "predictions", "unlabelled", "unlabeled", "unsup", "infer", "inference"),
    *("submission", "query"),
}
_NEUTRAL_WORDS = {"", "set", "split", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures"}
_NEUTRAL_WORDS |= {"pic", "pics", "photo", "photos", "folder"}


def split_of(text: str) -> str | None:
    """The split that a value of a split column names, or None."""
    found = _split_and_rest(text)
    return found[0] if found is not None and not found[1] else None


def is_neutral(name: str) -> bool:
    """Whether a folder's name only says that it holds data, such as `images` or `dataset`."""
    return all(word in _NEUTRAL_WORDS for word in _words(name))


def is_unlabelled(name: str) -> bool:
    """Whether a folder's name says that its images have no labels, such as `pred` or `seg_pred`."""
    return any(word in _UNLABELLED_WORDS for word in _words(name))


def is_fold(name: str) -> bool:
    """Whether a folder's name says that it is a fold of a cross-validation: fold0, cv_fold_1."""
    words = set(_words(name)) - _NEUTRAL_WORDS
    return bool(words) and words <= {"fold", "kfold", "cv"}


def split_folders(names: Iterable[str]) -> dict[str, str]:
    """Folder -> split, for sibling folders of which some are splits; empty if they are classes.

    A class may be called `train` (next to `bus`) or `bullet_train`: names are splits only if the training split and
    another one are there, with the same other words (seg_train, seg_test), or if no other folder could be a class.
    """
    names = sorted(names)
    groups: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        found = _split_and_rest(name)
        if found is not None:
            groups[found[1]][name] = found[0]
    best = max(groups.values(), key=len, default={})
    splits, others = set(best.values()), [name for name in names if name not in best]
    if "train" in splits and len(splits) > 1:
        return best
    return best if all(is_unlabelled(name) for name in others) else {}


def _split_and_rest(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a name has exactly one word for, and its other words."""
    words = _words(name)
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    if len(splits) != 1:
        return None
    rest = (word for word in words if word not in SPLIT_WORDS and word not in _NEUTRAL_WORDS)
    return splits[0], tuple(sorted(rest))


def _words(name: str) -> list[str]:
    """Lower-case words without a number at the end: Test_1 and val2017 are test and val."""
    return [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", name.strip().lower())]
