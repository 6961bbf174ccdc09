"""Tables as lines of text for people."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, to_the_right: bool) -> list[str]:
    """Rows of equal length as lines; the columns after the first one, which is on the left, may be on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justified = str.rjust if to_the_right else str.ljust
    lines = ["  ".join([row[0].ljust(widths[0]), *map(justified, row[1:], widths[1:])]) for row in rows]
    return [line.rstrip() for line in lines]
