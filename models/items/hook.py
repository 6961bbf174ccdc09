"""How live items reach the endpoints of a family: by a view of them, one for each model, that `encode` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from models.items.item import Kind, LiveItem


@dataclass(frozen=True)
class Described:
    """What an item is to a model."""

    state: Literal["known", "new", "withdrawn", "unknown"]
    similar_to: str | None = None
    """For a new item, the most similar known one."""
    note: str | None = None
    """What the shop should know of it."""


class LiveView(Protocol):
    """Live items as one model sees them; it never changes, so that a request sees one state from start to end."""

    @property
    def known_attributes(self) -> Mapping[str, Kind]:
        """The attributes of the item table, and those that were put beyond it."""
        ...

    def after(self, changes: Sequence[LiveItem], *, kinds: Mapping[str, Kind]) -> Self:
        """The view with some items changed; `kinds` are all attributes of the store beyond the item table."""
        ...

    def describe(self, item_id: str) -> Described:
        """What becomes of an item, for the shop."""
        ...

    def has_context(self, item_id: str) -> bool:
        """Whether a new item counts in histories, as it is like an item that the model knows."""
        ...

    def is_costly(self, request: Any) -> bool:
        """Whether live items make a request take so long to encode that others should not wait for it."""
        ...

    def counts(self) -> dict[str, int]:
        """How many items there are, by what they are to the model."""
        ...


@dataclass(frozen=True)
class LiveItems:
    """A family's part in live items."""

    feature: str
    """Name under which `encode` finds the view among the features, with the key `*`."""
    open: Callable[[Any, Path | None], LiveView]
    """(the model's schema, the filled feature store) -> the view without any live item. Raises OSError for a store that
    cannot be read."""
