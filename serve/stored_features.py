"""A replica's access to the feature stores: the one that `deploy` fills, and the one that endpoints write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from models.erasure.features import silenced
from models.erasure.tombstones import Tombstones
from models.errors import FeatureStoreLocked, FeatureStoreUnreadable, TombstonesUnreadable
from models.family import Family, Feature, Features
from models.features import BUSY_TIMEOUT_S, Change, Found, Keys, Row, filled, found_in, keys_of, live
from serve.problems import log
from serve.watched_store import RETRY_S, WatchedStore

SMALL_KEYS = 8
SMALL_BYTES = 64 * 1024
"""Characters of values; a request that reads more keys or more text is not answered on the event loop."""
READ_TIMEOUT_S = 1.0
"""How long a request waits for a locked store; on the event loop it does not."""
KINDS = ("filled", "live")


class StoredFeatures:
    """Reads both feature stores of a family, reopens them when they change, and writes the live one.

    There is a connection to each store for the event loop, one for the thread that reads, and one that writes.
    """

    def __init__(
        self,
        family: Family,
        *,
        filled_store: Path | None,
        live_store: Path | None,
        must_open: bool = True,
        tombstones: Tombstones | None = None,
    ) -> None:
        """Raises FeatureStoreUnreadable for a store that is missing or damaged, unless it need not open.

        Raises ValueError if a required live store is not given. Of erased users nothing is read or written.
        """
        features = silenced(
            family.features, tombstones, on_unreadable=partial(log.error, "users are answered as unknown: %s")
        )
        if live(features) and live_store is None:
            raise ValueError(f"{family.name} writes features but has no live_feature_store; deploy it again")
        given = {"filled": filled_store, "live": live_store}
        self._features = {"filled": filled(features), "live": live(features)}
        self._tombstones = tombstones
        self._on_loop = _connections(given, busy_timeout_s=0.0)
        self._in_thread = _connections(given, busy_timeout_s=READ_TIMEOUT_S)
        self._writer = (
            WatchedStore(live_store, is_live=True, read_only=False, busy_timeout_s=BUSY_TIMEOUT_S)
            if live_store
            else None
        )
        self._num_requests = 0
        self._on_unused: Callable[[], object] | None = None
        self._probe_at_s = 0.0
        for store in (*self._on_loop.values(), *self._in_thread.values(), self._writer):
            if store is not None:
                _open(store, must_open=must_open)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a request uses the stores; on the event loop."""
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1
            self._report_if_unused()

    def when_unused(self, do: Callable[[], object]) -> None:
        """Call `do` once when no request uses the stores, now or later; on the event loop."""
        self._on_unused = do
        self._report_if_unused()

    def close_readers(self) -> None:
        """Close the connections that read; in the thread that reads, after its last read."""
        for store in (*self._on_loop.values(), *self._in_thread.values()):
            store.close()

    def close_writer(self) -> None:
        """Close the connection that writes; in the thread that writes, after its last write."""
        if self._writer is not None:
            self._writer.close()

    @property
    def fault(self) -> str | None:
        """What is wrong with a store, or None; thread-safe."""
        # On the event loop a store may be locked for a moment, which the thread waits for.
        stores = [*(each for each in self._on_loop.values() if not each.is_locked), *self._in_thread.values()]
        stores += [self._writer] if self._writer else []
        return next((fault for store in stores if (fault := store.fault) is not None), None)

    def probe(self, *, reader: Executor, writer: Executor) -> None:
        """Find out at most once per RETRY_S whether the stores can be read; `fault` says what is wrong.

        On the event loop; the threads that read and write find out a little later about their own connections.
        """
        if time.monotonic() < self._probe_at_s:
            return
        self._probe_at_s = time.monotonic() + RETRY_S
        for kind, store in self._on_loop.items():
            store.probe()
            in_thread = self._in_thread[kind]
            if store.fault is None and in_thread.is_locked:
                in_thread.succeeded()
            elif store.is_locked or in_thread.fault is not None:
                reader.submit(in_thread.probe)
        if self._writer is not None and self._writer.fault is not None:
            writer.submit(self._writer.probe)

    def read_small(self, request: Any) -> Found | None:
        """The features of a request, on the event loop; None where they are many or a store is locked.

        Raises as `read`.
        """
        return self._read(request, self._on_loop, is_small=True)

    def read(self, request: Any) -> Found:
        """The feature values of a request, and the versions of the live ones; in the thread that reads.

        Raises ValueError for a request whose keys are not Unicode or too many, FeatureStoreUnreadable.
        """
        found = self._read(request, self._in_thread, is_small=False)
        assert found is not None, "any number of keys is read"
        return found

    def read_more(self, keys: Keys, *, on_loop: bool) -> Features:
        """The values of filled features beyond those that a request names itself; FeatureStoreUnreadable."""
        store = (self._on_loop if on_loop else self._in_thread).get("filled")
        if store is None or not any(keys.values()):
            return {}
        return found_in(keys, store.fetch(keys), path=store.path).values

    def can_be_missing(self, request: Any) -> bool:
        """Whether a request can be answered without stored values, as each that it asks for may be missing."""
        features: list[Feature] = [each for kind in KINDS for each in self._features[kind]]
        return all(each.can_be_missing or not each.keys(request) for each in features)

    def live_keys(self, request: Any) -> set[tuple[str, str]]:
        """The (feature name, key) pairs that a request may write."""
        return {(feature.name, key) for feature in self._features["live"] for key in feature.keys(request)}

    def is_silent(self, name: str, key: str) -> bool:
        """Whether a key of a live feature is that of an erased user, or may be."""
        if self._tombstones is None or not any(
            each.name == name and each.is_personal for each in self._features["live"]
        ):
            return False
        try:
            return self._tombstones.has(key)
        except TombstonesUnreadable:
            return True

    def write(self, changes: Sequence[Change]) -> bool:
        """Write all changes if none of their features changed since read, else nothing; from one thread only."""
        assert self._writer is not None, "only a family with live features writes"
        store = self._writer.open()
        try:
            is_written = store.compare_and_set(changes)
        except FeatureStoreUnreadable as fault:
            self._writer.failed(fault)
            raise
        self._writer.succeeded()
        return is_written

    def _read(self, request: Any, stores: Mapping[str, WatchedStore], *, is_small: bool) -> Found | None:
        values: dict[str, Any] = {}
        versions: dict[tuple[str, str], int] = {}
        keys = {kind: keys_of(self._features[kind], request) for kind in stores}
        if is_small and sum(len(each) for one in keys.values() for each in one.values()) > SMALL_KEYS:
            return None
        for kind, store in stores.items():
            rows: Sequence[Row] = ()
            if any(keys[kind].values()):
                try:
                    rows = store.fetch(keys[kind])
                except FeatureStoreLocked:
                    if is_small:
                        return None
                    raise
            if is_small and sum(len(row[2]) for row in rows) > SMALL_BYTES:
                return None
            try:
                found = found_in(keys[kind], rows, path=store.path)
            except FeatureStoreUnreadable as fault:
                store.failed(fault)
                raise
            values.update(found.values)
            if kind == "live":
                versions.update(found.versions)
        return Found(values, versions)

    def _report_if_unused(self) -> None:
        if self._num_requests == 0 and self._on_unused is not None:
            do, self._on_unused = self._on_unused, None
            do()


def _connections(given: Mapping[str, Path | None], *, busy_timeout_s: float) -> dict[str, WatchedStore]:
    return {
        kind: WatchedStore(path, is_live=kind == "live", busy_timeout_s=busy_timeout_s)
        for kind, path in given.items()
        if path is not None
    }


def _open(store: WatchedStore, *, must_open: bool) -> None:
    try:
        store.open()
    except FeatureStoreUnreadable:
        if must_open:
            raise
