"""How live items reach the endpoints of a family: by a view of them, one for each model, that `encode` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from models.items.item import Kind, LiveItem


class LiveView(Protocol):
    """Live items as one model sees them; it never changes, so that a request sees one state from start to end."""

    @property
    def known_attributes(self) -> Mapping[str, Kind]:
        """The attributes of the item table, and those that were put beyond it."""
        ...

    def after(self, changes: Sequence[LiveItem], *, kinds: Mapping[str, Kind]) -> Self:
        """The view with some items changed; `kinds` are all attributes of the store beyond the item table."""
        ...

    def describe(self, item_id: str) -> dict[str, str | bool | None]:
        """What becomes of an item, for the shop: `state`, and for a new item what it is `similar_to`, or a `note`."""
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
