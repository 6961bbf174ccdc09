"""Processes that write events to a store until they are killed, and print the ids of those that are acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from models.events.event import Event
from models.events.store import EventStore, open_events

CHECKOUT = Path(__file__).resolve().parents[2]
STARTED = "started"


def event(event_id: str, user_id: str | None = "u", session_id: str | None = None, *, at_s: float = 1.7e9) -> Event:
    """A view of the item that is named like the event."""
    return Event(event_id, user_id, session_id, f"item-{event_id}", "view", at_s)


class Writer:
    """A process that writes events whose ids begin with its name."""

    def __init__(self, address: str, name: str) -> None:
        command = [sys.executable, "-m", __name__, address, name]
        self._process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._output.readline()  # it has opened the store

    def killed_after(self, pause_s: float) -> list[str]:
        """Kill it with SIGKILL after it has acknowledged an event and a pause; returns the acknowledged ids."""
        first = self._output.readline()
        time.sleep(pause_s)
        self._process.send_signal(signal.SIGKILL)
        acknowledged = [first, *self._output.read().splitlines(keepends=True)]
        self._process.wait()
        self._output.close()
        # A line that is not complete was being written when it was killed.
        return [event_id for line in acknowledged if line.endswith("\n") for event_id in line.split()]


def stored_ids(store: EventStore) -> list[str]:
    """The ids of all events of a store, in order of seq; checks that seq increases."""
    events = [each for block in store.scan(after_seq=0, until_seq=store.last_seq()) for each in block]
    numbers = [each.seq for each in events]
    assert numbers == sorted(set(numbers)), "seq does not increase"
    return [each.event_id for each in events]


def _write(address: str, name: str) -> None:
    store = open_events(address)
    os.write(1, f"{STARTED}\n".encode())
    draw, number = random.Random(name), 0
    while True:
        ids = [f"{name}-{number + place}" for place in range(draw.randrange(1, 6))]
        number += len(ids)
        store.append([event(each, f"u{draw.randrange(50)}", f"s{draw.randrange(50)}") for each in ids])
        os.write(1, f"{' '.join(ids)}\n".encode())


if __name__ == "__main__":
    _write(sys.argv[1], sys.argv[2])
