"""The store of live items: `deploy` makes a missing one, and names a damaged one."""

from __future__ import annotations

import pytest

from jobs.cli.context import Context, Failure
from jobs.serving.item_store import item_store
from models import FAMILIES
from models.items.store import open_items


def test_a_missing_store_is_made_by_the_next_deploy(context: Context) -> None:
    path = item_store(context, FAMILIES["recommender"])

    assert path == context.store.items
    open_items(str(path)).close()
    path.unlink()
    assert item_store(context, FAMILIES["recommender"]) == path
    open_items(str(path)).close()
    assert item_store(context, FAMILIES["image"]) is None


def test_a_damaged_store_is_named_before_anything_is_deployed(context: Context) -> None:
    context.store.items.write_bytes(b"x" * 8192)

    with pytest.raises(Failure, match=r"not deployed: .*items\.sqlite"):
        item_store(context, FAMILIES["recommender"])
