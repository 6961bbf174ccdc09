"""What is wrong with a raw value, in words: the reason, an example and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from models.raw.encodings import remedy_of_escaped
from models.raw.time_formats import format_remedy, unit_remedy


def explain(reason: str, example: str | None, samples: Sequence[str] = (), *, remedy: str = "") -> str:
    """A reason with its example and, where there is one, the remedy: the given one, or that of values of any kind.

    `samples` are more values that were rejected.
    """
    shown = f"{reason}, e.g. {example[:80]!r}" if example else reason
    remedy = remedy or _remedy(reason, example or "", samples)
    return f"{shown} ({remedy})" if remedy else shown


def _remedy(reason: str, example: str, samples: Sequence[str]) -> str:
    if reason == "bad_timestamp":
        return format_remedy(samples or [example])
    if reason == "implausible_timestamp":
        return unit_remedy(example)
    if reason == "not_utf8" or reason.startswith("unreadable_"):
        return remedy_of_escaped(example) or ""
    return _number_remedy(example) if reason.startswith("bad_") else ""


def _number_remedy(example: str) -> str:
    if "," in example or re.search(r"\d[\s'\u2019]\d|\..*\.", example):
        return "write 1234.56: a point before the decimals, nothing between thousands"
    if re.search(r"\d", example):
        return "write the number alone, such as 1234.56, without a currency or unit"
    return "write a number such as 1234.56"
