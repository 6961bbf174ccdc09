"""Hashed n-grams of texts: of 1 to 5 characters, and of 1 and 2 words in texts with blanks, each counted once."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_CHARACTERS = 5
_WORD = re.compile(r"[a-z0-9'\u00df-\u024f]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Occurrences:
    """Every n-gram of some texts where it stands."""

    text: Ints
    """[M] the text."""
    hashed: Ints
    """[M] 32-bit hash."""
    start: Ints
    """[M] first character, counted in the text."""
    length: Ints
    """[M] characters."""


def occurrences(texts: Sequence[Codes]) -> Occurrences:
    """All n-grams of texts of code points, in order of their kind, text and place."""
    sizes = np.array([len(codes) for codes in texts], np.int64)
    codes = np.concatenate([*texts, np.zeros(0, np.int32)]).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), sizes)
    place = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    left = sizes[owner] - place
    parts, state = [], np.zeros(len(codes), np.uint64)
    for order in range(1, MAX_CHARACTERS + 1):
        rows = np.flatnonzero(left >= order)
        state[rows] = (state[rows] + codes[rows + order - 1] + np.uint64(order)) * _MULTIPLIER
        state[rows] ^= state[rows] >> np.uint64(32)
        parts.append((owner[rows], _finished(state[rows]), place[rows], np.full(len(rows), order)))
    parts.append(_words(texts))
    return Occurrences(*(np.concatenate([part[column] for part in parts]) for column in range(4)))


def present(texts: Sequence[Codes]) -> tuple[Ints, Ints]:
    """Distinct n-grams of each text: their 32-bit hashes [M], text by text, and the start of each text [B + 1]."""
    found = occurrences(texts)
    keys = np.unique((found.text << 32) | found.hashed)
    starts = np.searchsorted(keys >> 32, np.arange(len(texts) + 1))
    return keys & 0xFFFFFFFF, starts.astype(np.int64)


def _words(texts: Sequence[Codes]) -> tuple[Ints, Ints, Ints, Ints]:
    """Words and pairs of words of the texts with blanks."""
    rows: list[tuple[int, int, int, int]] = []
    for number, codes in enumerate(texts):
        if not (codes == 32).any():
            continue
        text = codes.tobytes().decode("utf-32-le", "surrogatepass")
        before: tuple[int, int] | None = None
        for match in _WORD.finditer(text):
            hashed = zlib.crc32(match.group().encode())
            rows.append((number, hashed, match.start(), match.end() - match.start()))
            if before is not None:
                pair = zlib.crc32(match.group().encode(), before[0])
                rows.append((number, pair, before[1], match.end() - before[1]))
            before = hashed, match.start()
    found = np.array(rows, np.int64).reshape(-1, 4)
    return found[:, 0], found[:, 1], found[:, 2], found[:, 3]


def _finished(state: npt.NDArray[np.uint64]) -> Ints:
    mixed = (state ^ (state >> np.uint64(29))) * _MIX
    return (mixed >> np.uint64(32)).astype(np.int64)
