"""The store of live items that a deployment uses, which `deploy` creates."""

from __future__ import annotations

from pathlib import Path

from jobs.cli.context import Context, Failure
from models.family import Family
from models.items.store import open_items


def item_store(context: Context, family: Family) -> Path | None:
    """The file of live items, created if it is missing; None without any. Raises Failure for one that is damaged."""
    if family.items is None or context.address is not None:  # several hosts cannot share the file
        return None
    path = context.store.items
    try:
        open_items(str(path), create=True).close()
    except (OSError, ValueError) as error:
        raise Failure(f"not deployed: {error}") from error
    return path
