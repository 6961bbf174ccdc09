"""Suggests the known name that a mistyped one is close to, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggestion(given: str, known: Sequence[str]) -> str:
    """The text ", did you mean ...?" if a known name is close to the given one, else an empty string."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""
