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
from models.items.sqlite import ItemsBusy
from models.items.store import ItemStore, open_items
from serve.problems import log

REMEMBERED_S = 60.0
"""How long a write that failed counts as a fault of the store, unless a later one succeeds."""
POLL_S = 1.0
"""Pause between two looks at the version of the store: after it, every replica has what was put."""
KEY = "*"
_Identity = tuple[int, int] | None
"""What distinguishes a file from its replacement."""
PREPARED_ONLY: ContextVar[bool] = ContextVar("PREPARED_ONLY", default=False)
"""Whether the request at hand is answered without live items, as the golden request of a deployment."""


class LiveItemsInfo(BaseModel):
    """The live items that a replica has."""

    version: int
    """Of the store; a replica with this version has everything that was put until then."""
    counts: dict[str, int]
    """Items by what they are to the model."""
    degraded: str | None = None
    """Why the store or the item table cannot be read; what cannot be read is as before."""


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
        self._store_file: _Identity = None
        self._prepared: LiveView | None = None
        """The view without live items, once the item table could be read."""
        self._table_file: _Identity = None
        self._view: LiveView = hook.open(schema, None)
        self._version = 0
        self._degraded: str | None = None
        self._write_fault: tuple[str, float] | None = None
        """Why the last write failed, and until when that counts."""
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

    @property
    def has_table(self) -> bool:
        """Whether the item table could be read; otherwise no attribute is known."""
        return self._prepared is not None

    @property
    def fault(self) -> str | None:
        """Why the store or the item table cannot be read, or the store not written; None if they can."""
        if self._degraded is None and self._write_fault is not None and time.monotonic() < self._write_fault[1]:
            return self._write_fault[0]
        return self._degraded

    def features(self) -> Features:
        """The view as `encode` gets it; none where the request is to be answered by the prepared catalogue."""
        return {} if PREPARED_ONLY.get() else {self._hook.feature: {KEY: self._view}}

    def info(self) -> LiveItemsInfo:
        """What the replica has."""
        return LiveItemsInfo(version=self._version, counts=self._view.counts(), degraded=self.fault)

    def refresh(self) -> None:
        """Bring the view up to date, with work for the changes only; an unreadable store leaves the last view."""
        with self._lock:
            if self._stop.is_set():
                return
            try:
                fault = self._update()
            except (OSError, ValueError) as error:
                self._close_store()
                fault = str(error)
            if fault is not None and fault != self._degraded:
                log.error("live items are not up to date: %s", fault)
            self._degraded = fault

    def put(self, items: Sequence[Put], *, kinds: Mapping[str, Kind]) -> int:
        """Store items durably and show them in this replica; returns the version. Raises OSError."""
        return self._written(lambda store: store.put(items, kinds=kinds, now_s=time.time()))

    def withdraw(self, item_id: str) -> int:
        """Withdraw an item durably and in this replica; returns the version. Raises OSError."""
        return self._written(lambda store: store.withdraw(item_id))

    def _written(self, write: Callable[[ItemStore], int]) -> int:
        try:
            with closing(open_items(self._address)) as store:
                version = write(store)
        except ItemsBusy:
            raise
        except OSError as error:
            self._write_fault = str(error), time.monotonic() + REMEMBERED_S
            raise
        self._write_fault = None
        self.refresh()
        return version

    def _update(self) -> str | None:
        """Returns why a newer item table cannot be read: items are followed with the one of before."""
        prepared, fault = self._read_table()
        file = _identity(Path(self._address))
        if self._store is None or file != self._store_file:
            self._close_store()
            store = open_items(self._address)
            self._show(store, prepared, after=0)
            self._store, self._store_file = store, file
        elif self._store.version() != self._version:
            self._show(self._store, self._view, after=self._version)
        return fault

    def _read_table(self) -> tuple[LiveView, str | None]:
        """The view without live items, of the item table as it is now or as it was, and why it is not the one of now.

        Raises OSError where it could never be read.
        """
        file = _identity(self._feature_store)
        if self._prepared is not None and file == self._table_file:
            return self._prepared, None
        try:
            prepared = self._hook.open(self._schema, self._feature_store)
        except (OSError, ValueError) as error:
            if self._prepared is None:
                raise
            return self._prepared, str(error)
        if self._prepared is None:
            self._view = prepared  # its attributes are those of the shop, also while the store is damaged
        self._prepared, self._table_file = prepared, file
        self._close_store()  # all live items are shown anew
        return prepared, None

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


def _identity(path: Path | None) -> _Identity:
    """What distinguishes a file from its replacement; None if there is none."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None
