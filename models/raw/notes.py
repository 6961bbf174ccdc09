"""Notes on raw data, such as what was left out: in the summary of prepare, or in the log if the data is rejected."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from models.errors import DataRejected

log = logging.getLogger("shopkeeper")


@contextmanager
def said_if_rejected(notes: Sequence[str]) -> Iterator[None]:
    """Log notes, which may be added within the block, if the data is rejected and so has no card to hold them."""
    try:
        yield
    except DataRejected:
        say(notes)
        raise


def say(notes: Sequence[str]) -> None:
    """Log notes as warnings."""
    for note in notes:
        log.warning("%s", note)


def num_files(count: int) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons with their numbers, in words; those of nothing are left out."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
