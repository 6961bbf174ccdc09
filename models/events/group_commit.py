"""Group commit: what arrives while a commit runs is stored by the next one, in one thread of each process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from models.errors import EventsUnavailable
from models.events.event import Event

MAX_COMMITTED = 10_000
"""Events of one commit, which keeps other processes from waiting long for theirs."""
MAX_WAITING = 100_000
"""Events that wait for a commit; more are refused, so that a stuck disk does not fill the memory."""


@dataclass(frozen=True)
class _Waiting:
    events: Sequence[Event]
    future: Future[list[bool]] = field(default_factory=Future)


class GroupCommit:
    """Stores events by `commit`, which gets those of many callers at once and stores all or none."""

    def __init__(self, commit: Callable[[Sequence[Event]], list[bool]], *, name: str) -> None:
        self._commit = commit
        self._name = name
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Wait until the events are stored; returns which are new. Raises EventsUnavailable if none of them is."""
        waiting = _Waiting(events)
        with self._lock:
            if self._is_closed:
                raise EventsUnavailable(f"{self._name} is closed; send the events again", retry_after_s=1)
            if self._num_waiting + len(events) > MAX_WAITING:
                raise EventsUnavailable(f"{self._num_waiting:,} events wait for {self._name}; send them again later")
            self._num_waiting += len(events)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="events")
                self._thread.start()
            self._queue.put(waiting)
        return waiting.future.result()

    def close(self) -> None:
        """Store what waits, and end the thread."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
            self._queue.put(None)
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group, is_last = self._group(first)
            with self._lock:
                self._num_waiting -= sum(len(each.events) for each in group)
            self._store(group)
            if is_last:
                return

    def _group(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """What waits now, up to the limit of a commit; and whether the store is being closed."""
        group, size = [first], len(first.events)
        while size < MAX_COMMITTED:
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                break
            if waiting is None:
                return group, True
            group.append(waiting)
            size += len(waiting.events)
        return group, False

    def _store(self, group: Sequence[_Waiting]) -> None:
        try:
            is_new = self._commit([event for each in group for event in each.events])
        except Exception as error:  # noqa: BLE001  passed on to the callers
            # What one caller sent must not make the others fail; what the store cannot do, it cannot do for anyone.
            if len(group) > 1 and not isinstance(error, EventsUnavailable):
                for each in group:
                    self._store([each])
                return
            for each in group:
                each.future.set_exception(error)
            return
        begin = 0
        for each in group:
            each.future.set_result(is_new[begin : begin + len(each.events)])
            begin += len(each.events)
