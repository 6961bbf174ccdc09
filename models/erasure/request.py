"""Erases users at once, from a process that reaches the store: silent from its return on, the rest is left pending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models import FAMILIES
from models.erasure.erased import checked_id
from models.erasure.features import forget, personal, stores_of
from models.erasure.receipts import Receipt, Trace, new_receipt, write_receipt
from models.erasure.tombstones import NAME, Tombstones
from models.errors import EventsUnavailable
from models.events.store import open_events, shown

EVENTS = "events.sqlite"
PENDING = "shopkeeper erase --pending"


def erase_at_once(
    root: Path, user_ids: Sequence[str], *, events: str | None = None, tombstones: Tombstones | None = None
) -> list[Receipt]:
    """Write the tombstones of users, then delete what a feature or event store has of them; a receipt for each.

    What fails after the tombstones is pending in the receipt: the users are unknown all the same. Prepared data and
    quarantine take longer, and are pending too. Raises ValueError for an id that nobody can have, TombstonesUnreadable
    if the tombstones cannot be written, and then nothing has changed.
    """
    ids = [checked_id(one) for one in user_ids]
    stones = tombstones or Tombstones(root / NAME)
    added = stones.add(ids)
    receipts = []
    for user_id, is_new in zip(ids, added, strict=True):
        traces = [*_of_events(root, user_id, events), *_of_features(root, user_id), *_of_data(root)]
        receipt = new_receipt(stones.digest(user_id), is_new=is_new, traces=traces)
        write_receipt(root, receipt)
        receipts.append(receipt)
    return receipts


def _of_events(root: Path, user_id: str, events: str | None) -> list[Trace]:
    address = events or str(root / EVENTS)
    if "://" not in address and not Path(address).is_file():
        return []
    where = shown(address) if "://" in address else EVENTS
    try:
        store = open_events(address, create=False)
        try:
            count = store.erase(user_id)
        finally:
            store.close()
    except (EventsUnavailable, ValueError) as error:
        return [Trace(what="events", where=where, state="pending", note=str(error), remedy=PENDING)]
    return [Trace(what="events", where=where, state="deleted", count=count)] if count else []


def _of_features(root: Path, user_id: str) -> list[Trace]:
    traces = []
    for family in FAMILIES.values():
        names = personal(family)
        for path in stores_of(root, family) if names else ():
            done, where = forget(path, names, [user_id]), str(path.relative_to(root))
            if done.error is not None:
                traces.append(
                    Trace(what="feature store", where=where, state="pending", note=done.error, remedy=PENDING)
                )
            elif done.values:
                traces.append(Trace(what="feature store", where=where, state="deleted", count=done.values))
    return traces


def _of_data(root: Path) -> list[Trace]:
    """Prepared data that are searched later, as that takes as long as reading them."""
    return [
        Trace(what="prepared data", where=str(path.parent.relative_to(root)), state="pending", remedy=PENDING)
        for family in FAMILIES.values()
        if family.erasure is not None or personal(family)
        for path in sorted((root / family.name / "data").glob("[!.]*/schema.json"))
    ]
