"""The text of a review as networks see it: normalised, each character with its place, and its language."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LANGUAGES = ("zh", "en", "other")

_CLUSTER = re.compile("(?s:.)[\u0300-\u036f\ufe00-\ufe0f]*")
"""A character with its combining marks."""
_DROPPED = re.compile("[\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\x00]")
"""Marks of no width, among them those of the direction of text, and byte-order marks."""
_CJK = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_OTHER_SCRIPT = re.compile(
    "[\u0370-\u1cff\u1f00-\u1fff\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7af\ufb1d-\ufdff\ufe70-\ufefc]"
)
"""Letters of scripts other than Latin and Han, such as Greek, Cyrillic, Arabic, kana and hangul."""
_LATIN = re.compile("[a-z\u00df-\u024f]+")
_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "the a an and is are was it its this that i my you we for to of in on with not no very good great bad but so "
        "have has had they be at as from would will just if all nice love like",
    )
)
_NOT_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "der die das und ist nicht ein eine mit sehr ich es gut le les des et est une un pas très je pour que qui el "
        "los las y en muy con por para pero il di che è molto non per da de do não muito os em um uma van het een niet "
        "zeer ja jest nie bardzo på och är inte mycket og ikke",
    )
)
_MOJIBAKE = re.compile(
    "\ufffd|[\u00c2-\u00f4][\u0080-\u00bf]|\u00c3[\u00a0-\u00bf\u2018-\u203a]|\u00e2\u20ac[\u0080-\uffff]|锟斤拷|烫烫烫"
    "|[\u00e4-\u00e9][\u0080-\u00bf\u0152-\u2122]{2}"
)
"""What UTF-8 becomes when it is read as Latin-1 or cp1252, or converted twice."""
_MAX_MOJIBAKE = 0.02


@dataclass(frozen=True)
class Normalised:
    """A normalised text of N characters, and where each comes from."""

    text: str
    starts: npt.NDArray[np.int64]
    """[N] first character in the original."""
    ends: npt.NDArray[np.int64]
    """[N] the one after the last."""

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """[N] code points."""
        return codes_of(self.text)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The place in the original of the characters first .. last, both included."""
        return int(self.starts[first]), int(self.ends[last])


def normalise(text: str) -> Normalised:
    """Lower case, compatibility forms composed (NFKC), one blank for any run of blanks, none at the ends."""
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    last = " "
    for match in _CLUSTER.finditer(text):
        found = _folded(match.group())
        if found == " " == last:
            continue
        for character in found:
            parts.append(character)
            starts.append(match.start())
            ends.append(match.end())
            last = character
    if parts and parts[-1] == " ":
        del parts[-1], starts[-1], ends[-1]
    return Normalised("".join(parts), np.array(starts, np.int64), np.array(ends, np.int64))


def codes_of(text: str) -> npt.NDArray[np.int32]:
    """Code points [N] of a text; a lone surrogate counts as one."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32)


def language_of(text: str) -> str:
    """zh, en or other, of a normalised text, by script and frequent words; other for a text without letters."""
    num_han, num_other = len(_CJK.findall(text)), len(_OTHER_SCRIPT.findall(text))
    words = _LATIN.findall(text)
    num_latin = sum(map(len, words))
    if num_other > 0.2 * (num_han + num_other) and num_other >= 0.5 * num_latin:
        return "other"
    if num_han and 2 * num_han >= num_latin:  # a Han character says as much as two or three letters
        return "zh"
    english = sum(word in _ENGLISH for word in words)
    foreign = sum(word in _NOT_ENGLISH for word in words)
    if not words or foreign > english:
        return "other"
    return "en" if english or all(word.isascii() for word in words) else "other"


def is_mojibake(text: str) -> bool:
    """Whether an original text was damaged by a wrong encoding: too many of the pairs that this leaves."""
    num_marks = sum(len(match) for match in _MOJIBAKE.findall(text))
    return num_marks >= 2 and num_marks > _MAX_MOJIBAKE * len(text)


@functools.lru_cache(maxsize=1 << 16)
def _folded(cluster: str) -> str:
    if cluster.isspace():
        return " "
    folded = _DROPPED.sub("", unicodedata.normalize("NFKC", cluster)).lower()
    return " " if folded.isspace() and folded else "".join(" " if each.isspace() else each for each in folded)
