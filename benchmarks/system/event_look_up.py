"""What new events cost an answer, and how many are stored a second: the store alone, in one process.

python -m benchmarks.system.event_look_up
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from models.events.store import EventStore, open_events
from models.time_limit import TimedThreads
from tests.kit.event_writers import event

NUM_LOOK_UPS, NUM_ROUNDS = 20, 15
COUNTS = (0, 1, 10, 100, 2000)


def main() -> None:
    """Print one JSON object: microseconds of a look-up in place and in a thread, by number of events, and rates."""
    with tempfile.TemporaryDirectory() as directory:
        store = open_events(str(Path(directory, "events.sqlite")))
        for count in COUNTS:
            store.append([event(f"{count}-{each}", f"of-{count}", at_s=1.7e9 + each) for each in range(count)])
        found = {
            "look_up_us": {str(count): _look_up_us(store, f"of-{count}") for count in COUNTS},
            "look_up_in_thread_us": {str(count): asyncio.run(_in_thread_us(store, f"of-{count}")) for count in COUNTS},
            "events_per_s_one_caller": _rate(store, 1),
            "events_per_s_32_callers": _rate(store, 32),
        }
        store.close()
    sys.stdout.write(json.dumps(found) + "\n")


def _look_up_us(store: EventStore, user: str) -> list[float]:
    rounds = []
    for _ in range(NUM_ROUNDS):
        begin_s = time.perf_counter()
        for _ in range(NUM_LOOK_UPS):
            store.of(user_id=user, session_id=None, after_seq=0)
        rounds.append((time.perf_counter() - begin_s) / NUM_LOOK_UPS)
    return _spread_us(rounds)


async def _in_thread_us(store: EventStore, user: str) -> list[float]:
    threads, rounds = TimedThreads(4), []
    for _ in range(NUM_ROUNDS):
        begin_s = time.perf_counter()
        for _ in range(NUM_LOOK_UPS):
            await threads.call_async(lambda: store.of(user_id=user, session_id=None, after_seq=0), timeout_s=2.0)
        rounds.append((time.perf_counter() - begin_s) / NUM_LOOK_UPS)
    return _spread_us(rounds)


def _spread_us(rounds_s: list[float]) -> list[float]:
    """Median, lowest and highest."""
    return [round(each * 1e6, 1) for each in (statistics.median(rounds_s), min(rounds_s), max(rounds_s))]


def _rate(store: EventStore, num_callers: int) -> float:
    """Events that are stored a second, one for each call."""

    def write(caller: int) -> None:
        for number in range(30):
            store.append([event(f"{num_callers}-{caller}-{number}", f"u{number}")])

    threads = [threading.Thread(target=write, args=(caller,)) for caller in range(num_callers)]
    begin_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(30 * num_callers / (time.perf_counter() - begin_s), 1)


if __name__ == "__main__":
    main()
