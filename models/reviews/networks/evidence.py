"""What speaks for an answer: the stretches of a text whose n-grams add most to the logit of its class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.reviews.data import Reviews
from models.reviews.grams import Codes, occurrences

NUM_SPANS = 3
MAX_LENGTH = 24
"""Characters of a stretch."""
MIN_SHARE = 0.15
"""Of the best stretch's score, below which others are left out."""

Spans = Sequence[tuple[int, int, float]]
Floats = npt.NDArray[np.float64]


def spans_of(batch: Reviews, contributions: Tensor, predicted: Sequence[int]) -> list[Spans]:
    """For each text of a batch with codes, its best stretches; `contributions` [M, K] are those of its n-grams."""
    values = contributions.double().cpu().numpy()
    advantage = values - (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)
    grams, owners = batch.grams.cpu().numpy(), batch.owners.cpu().numpy()
    starts = np.searchsorted(owners, np.arange(len(predicted) + 1))
    found: list[Spans] = []
    for row, codes in enumerate(batch.codes):
        part = slice(starts[row], starts[row + 1])
        found.append(() if codes is None else _spans(codes, grams[part], advantage[part, predicted[row]]))
    return found


def character_scores(codes: Codes, grams: npt.NDArray[np.int64], values: Floats) -> Floats:
    """What each character [N] adds: an n-gram's part is divided among its places and characters."""
    places = occurrences([codes])
    order = np.argsort(grams)
    which = order[np.searchsorted(grams[order], places.hashed)]
    counts = np.bincount(which, minlength=len(grams))
    score = values[which] / counts[which] / np.maximum(places.length, 1)
    steps = np.zeros(len(codes) + 1)
    np.add.at(steps, places.start, score)
    np.add.at(steps, places.start + places.length, -score)
    return np.cumsum(steps)[:-1]


def _spans(codes: Codes, grams: npt.NDArray[np.int64], values: Floats) -> Spans:
    """The stretches with the largest sums of scores above the mean of positive ones, without blanks at their ends."""
    if not len(codes):
        return ()
    score = character_scores(codes, grams, values)
    usual = float(score[score > 0].mean()) if (score > 0).any() else 0.0
    if usual <= 0:
        return ()
    left = score - usual / 2
    is_sign = np.array([not chr(code).isalnum() for code in codes])
    found: list[tuple[int, int, float]] = []
    for _ in range(NUM_SPANS):
        first, last = _largest(left)
        if first is None or last is None:
            break
        left[first : last + 1] = -np.inf
        inside = np.flatnonzero(~is_sign[first : last + 1])
        if len(inside):
            first, last = first + int(inside[0]), first + int(inside[-1])
            found.append((first, last, float(score[first : last + 1].sum())))
    best = max((each[2] for each in found), default=0.0)
    return [each for each in sorted(found, key=lambda one: -one[2]) if each[2] >= MIN_SHARE * best > 0]


def _largest(score: Floats) -> tuple[int | None, int | None]:
    """First and last place of the stretch of at most MAX_LENGTH with the largest, positive sum."""
    best, found = 0.0, (None, None)
    start, total = 0, 0.0
    result: tuple[int | None, int | None] = found
    for place, value in enumerate(score.tolist()):
        if total <= 0 or place - start >= MAX_LENGTH:
            start, total = place, 0.0
        total += value
        if total > best:
            best, result = total, (start, place)
    return result
