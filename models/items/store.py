"""Stores of live items: what any of them does, and which one an address names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from models.items.item import Kind, LiveItem, Put
from models.items.sqlite import SqliteItems


class ItemStore(Protocol):
    """Live items by id; every write gives the store a new, larger version, which is never reused."""

    store_id: str
    """Random, made once with the store."""

    def put(self, items: Sequence[Put], *, kinds: Mapping[str, Kind], now_s: float) -> int:
        """Merge the attributes of items, and end their withdrawal; durable before it returns; returns the version.

        `kinds` are attributes that are new to the shop: the first put of one decides its kind.
        """
        ...

    def withdraw(self, item_id: str) -> int:
        """Mark an item as withdrawn; durable before it returns; returns the version."""
        ...

    def version(self) -> int:
        """The version of the store; cheap, as it is asked every second."""
        ...

    def changed(self, *, after: int) -> list[LiveItem]:
        """The items that changed after a version, each as it is now."""
        ...

    def kinds(self) -> dict[str, Kind]:
        """The attributes that were put and are not in the item table at that time."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def open_items(address: str, *, create: bool = False) -> ItemStore:
    """The store at an address: the path of an SQLite file.

    Raises FileNotFoundError for a missing file unless it is to be created, ItemsUnreadable for one that is no store,
    ValueError for an address of another kind.
    """
    scheme, separator, _ = address.partition("://")
    if separator:
        raise ValueError(f"live items are kept in an SQLite file; {scheme}:// is not supported, name a path")
    return SqliteItems(Path(address), create=create)
