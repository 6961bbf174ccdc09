"""The mapping of our column names to those of a file, as users write it on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PAIR = re.compile(r'\s*(?P<ours>[^=,"]+?)\s*=\s*(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^,"][^,]*))\s*(?:,|$)')


def parse_mapping(text: str, *, names: Sequence[str] | None = None) -> dict[str, str]:
    """Our column name -> the file's, from `user_id=CustomerID,item_id="Stock, code"`; raises ValueError.

    A column whose name has a comma is put in double quotes, a quote in it is doubled. With `names`, only these are
    allowed as our column names.
    """
    mapping: dict[str, str] = {}
    position = 0
    while text[position:].strip(", "):
        match = _PAIR.match(text, position)
        if match is None:
            raise _wrong(text, names)
        quoted = match["quoted"]
        theirs = match["plain"].strip() if quoted is None else quoted.replace('""', '"')
        if match["ours"] in mapping or not theirs or (names is not None and match["ours"] not in names):
            raise _wrong(text, names)
        mapping[match["ours"]] = theirs
        position = match.end()
    return mapping


def _wrong(text: str, names: Sequence[str] | None) -> ValueError:
    known = f", where NAME is one of {', '.join(names)}" if names else ""
    return ValueError(
        f"cannot parse the column mapping {text!r}: write NAME=COLUMN,NAME=COLUMN{known}; "
        'a COLUMN with a comma in its name goes into double quotes, NAME="A, B"'
    )
