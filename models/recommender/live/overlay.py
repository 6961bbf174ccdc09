"""Values of one attribute that the shop has put since the item table was written, by item and by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from models.items.item import Value


@dataclass(frozen=True)
class Overlay:
    """Immutable; an item is in `values` if its value in the item table no longer counts, None if it has none now."""

    values: Mapping[str, Value | None] = field(default_factory=dict)
    having: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Text of a value -> the items that have it; a value with several texts is under each."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Item -> its value, where that is a number."""

    def with_values(self, changed: Mapping[str, Value | None], texts_of: Callable[[Value], Sequence[str]]) -> Overlay:
        """The overlay with the values of some items replaced."""
        added, removed = dict[str, set[str]](), dict[str, set[str]]()
        for item, value in changed.items():
            before = self.values.get(item)
            for text in texts_of(before) if before is not None else ():
                removed.setdefault(text, set()).add(item)
            for text in texts_of(value) if value is not None else ():
                added.setdefault(text, set()).add(item)
        having = dict(self.having)
        for text in removed.keys() | added.keys():
            having[text] = having.get(text, frozenset()) - removed.get(text, set()) | added.get(text, set())
        numbers = {**self.numbers}
        for item, value in changed.items():
            numbers.pop(item, None)
            if isinstance(value, int | float):
                numbers[item] = float(value)
        return Overlay({**self.values, **changed}, having, numbers)
