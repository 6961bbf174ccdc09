"""An item of the live catalogue: its attributes, each with the time at which the shop put it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Value = str | bool | int | float
"""Value of an attribute; several values of one attribute are a text, joined as in the item table."""
Kind = Literal["number", "text"]


@dataclass(frozen=True)
class LiveValue:
    """A value that the shop put; None removes the value that the item table has."""

    value: Value | None
    put_at_s: float
    """Epoch seconds, by the clock of the host that accepted it."""


@dataclass(frozen=True)
class LiveItem:
    """An item that the shop has put or withdrawn since the store was made."""

    item_id: str
    attributes: Mapping[str, LiveValue]
    """The newest value of each attribute that was put."""
    is_withdrawn: bool
    """Whether it must not be recommended; until it is put again."""
    version: int
    """Version of the store since which the item is like this."""


@dataclass(frozen=True)
class Put:
    """A valid item of a request: the attributes to set, None for those to remove."""

    item_id: str
    attributes: Mapping[str, Value | None]
