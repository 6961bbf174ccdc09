"""Fields that `predict --set` gives every request: NAME=VALUE, several separated by commas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_NAME = re.compile(r"\s*(\w+)=\s*")
_NEXT = re.compile(r"\s*(?:,(?=\s*\w+=)|,?\s*$)")
"""What follows a value: a comma and the next name, or the end."""


def parse_settings(text: str) -> Iterator[tuple[str, Any]]:
    """Names and values; a value is JSON, in which commas do not separate, or else text. Raises ValueError."""
    start = 0
    while start < len(text):
        if (name := _NAME.match(text, start)) is None:
            raise ValueError(f"--set {text[start:]!r} is not NAME=VALUE, such as count=20")
        value, start = _value(text, name.end())
        yield name[1], value


def _value(text: str, start: int) -> tuple[Any, int]:
    """The value at `start`, and where the next name starts."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
        if after := _NEXT.match(text, end):
            return value, after.end()
    except ValueError:
        pass
    after = _NEXT.search(text, start)
    assert after is not None, "the end of the text matches"
    return text[start : after.start()], after.end()
