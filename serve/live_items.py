"""The live items of one loaded model: follows their store, and gives requests a view of them; independent of Ray."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from models.family import Family, Features
from models.items.hook import LiveItems, LiveView
from models.items.item import Kind, Put
from models.items.store import ItemStore, open_items
from serve.problems import log

POLL_S = 1.0
"""Pause between two looks at the version of the store: after it, every replica has what was put."""
KEY = "*"
PREPARED_ONLY: ContextVar[bool] = ContextVar("PREPARED_ONLY", default=False)
"""Whether the request at hand is answered without live items, as the golden request of a deployment."""


class LiveItemsInfo(BaseModel):
    """The live items that a replica has."""

    version: int
    """Of the store; a replica with this version has everything that was put until then."""
    counts: dict[str, int]
    """Items by what they are to the model."""
    degraded: str | None = None
    """Why the store or the item table cannot be read; the items are those of before."""


class LiveCatalogue:
    """The newest view of the live items; `refresh` is for any thread, the view for all of them."""

    def __init__(
        self, hook: LiveItems, schema: Any, *, address: str, feature_store: Path | None, poll_s: float = POLL_S
    ) -> None:
        """Never raises: with a store that cannot be read there are no live items, and `info` says why."""
        self._hook, self._schema = hook, schema
        self._address, self._feature_store = address, feature_store
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._store: ItemStore | None = None
        self._opened: Sequence[Any] = ()
        """Identities of the files that the store and the view were opened from."""
        self._view: LiveView = hook.open(schema, None)
        self._version = 0
        self._degraded: str | None = None
        self._stop = threading.Event()
        try:
            open_items(address, create=True).close()
        except (OSError, ValueError) as error:
            self._degraded = str(error)
        self.refresh()

    def follow(self) -> None:
        """Keep the view fresh in the background, as long as anything else refers to this and until `close`."""
        arguments = (weakref.ref(self), self._stop, self._poll_s)
        threading.Thread(target=_poll, args=arguments, name="live-items", daemon=True).start()

    def close(self) -> None:
        """Stop following; views in use stay valid."""
        self._stop.set()
        with self._lock:
            self._close_store()

    @property
    def view(self) -> LiveView:
        """The newest view."""
        return self._view

    def features(self) -> Features:
        """The view as `encode` gets it; none where the request is to be answered by the prepared catalogue."""
        return {} if PREPARED_ONLY.get() else {self._hook.feature: {KEY: self._view}}

    def info(self) -> LiveItemsInfo:
        """What the replica has."""
        return LiveItemsInfo(version=self._version, counts=self._view.counts(), degraded=self._degraded)

    def refresh(self) -> None:
        """Bring the view up to date, with work for the changes only; an unreadable store leaves the last view."""
        with self._lock:
            if self._stop.is_set():
                return
            try:
                self._update()
            except (OSError, ValueError) as error:
                self._close_store()
                if str(error) != self._degraded:
                    log.error("live items are not up to date: %s", error)
                self._degraded = str(error)
            else:
                self._degraded = None

    def put(self, items: Sequence[Put], *, kinds: Mapping[str, Kind]) -> int:
        """Store items durably and show them in this replica; returns the version. Raises OSError."""
        return self._written(lambda store: store.put(items, kinds=kinds, now_s=time.time()))

    def withdraw(self, item_id: str) -> int:
        """Withdraw an item durably and in this replica; returns the version. Raises OSError."""
        return self._written(lambda store: store.withdraw(item_id))

    def _written(self, write: Callable[[ItemStore], int]) -> int:
        with closing(open_items(self._address)) as store:
            version = write(store)
        self.refresh()
        return version

    def _update(self) -> None:
        files = [_identity(Path(self._address)), _identity(self._feature_store)]
        if self._store is None or files != self._opened:
            self._close_store()
            view = self._hook.open(self._schema, self._feature_store)
            if not self._opened:
                self._view = view  # its attributes are those of the shop, also while the store is damaged
            store = open_items(self._address)
            self._show(store, view, after=0)
            self._store, self._opened = store, files
        elif self._store.version() != self._version:
            self._show(self._store, self._view, after=self._version)

    def _show(self, store: ItemStore, view: LiveView, *, after: int) -> None:
        """Show the view with what the store has beyond a version."""
        version, kinds = store.version(), store.kinds()
        # A change that comes between the two is shown now and again by the next poll.
        self._view, self._version = view.after(store.changed(after=after), kinds=kinds), version

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def follow_items(
    family: Family, schema: Any, *, address: str | None, feature_store: Path | None
) -> LiveCatalogue | None:
    """The live items of a model, kept fresh; None for a family or a deployment without any."""
    if family.items is None or address is None:
        return None
    catalogue = LiveCatalogue(family.items, schema, address=address, feature_store=feature_store)
    catalogue.follow()
    return catalogue


def _poll(reference: weakref.ref[LiveCatalogue], stop: threading.Event, poll_s: float) -> None:
    while not stop.wait(poll_s):
        catalogue = reference()
        if catalogue is None:  # its model is no longer loaded
            return
        catalogue.refresh()
        del catalogue


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What distinguishes a file from its replacement; None if there is none."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None
