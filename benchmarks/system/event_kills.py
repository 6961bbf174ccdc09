"""Acknowledged events that are lost when processes that write to one event store are killed at random moments.

    python -m benchmarks.system.event_kills --kills 500

Two processes write at once; each is killed with SIGKILL up to --longest-s seconds after its first acknowledgement.
Prints one JSON object with `lost`, and exits with 1 unless it is 0. A kill of a process is not a power loss, for which
there is `synchronous = FULL` and which no kill can test.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from models.events.store import open_events
from tests.kit.event_writers import Writer, stored_ids


def main() -> int:
    """Kill writers, and count the acknowledged events that are not in the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--longest-s", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, acknowledged, begin_s = random.Random(given.seed), set[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "events.sqlite")
        store = open_events(str(path))
        for number in range(0, given.kills, 2):
            for writer in [Writer(str(path), f"{number}-{name}") for name in ("a", "b")]:
                acknowledged.update(writer.killed_after(draw.random() * given.longest_s))
        stored = stored_ids(store)
        store.close()
        is_whole = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found = {
        "kills": given.kills,
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - set(stored)),
        "stored_twice": len(stored) - len(set(stored)),
        "is_whole": is_whole,
        "seconds": round(time.monotonic() - begin_s, 1),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["lost"] == found["stored_twice"] == 0 and is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
