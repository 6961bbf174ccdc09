"""Health of a container: the Ray node, the MLflow server or the endpoint that runs in it answers.

A container that runs only a verb has none of these and is healthy as long as it runs.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

URLS = {
    # Answered without a token. The agent of each node, and the control service of the head.
    "raylet": "http://127.0.0.1:52365/api/local_raylet_healthz",
    "gcs_server": "http://127.0.0.1:8265/api/gcs_healthz",
    "mlflow": "http://127.0.0.1:5000/health",
}
"""A program -> where it answers while it is healthy."""
TIMEOUT_S = 3.0


def main() -> int:
    """0 if all that runs here answers, else 1 and what does not on stdout, which `docker inspect` shows."""
    faults = [fault for name in sorted(running() & URLS.keys()) if (fault := fault_of(URLS[name]))]
    sys.stdout.write("\n".join(faults or ["healthy"]) + "\n")
    return 1 if faults else 0


def running(processes: Path = Path("/proc")) -> set[str]:
    """The names of programs and of their first two arguments, such as raylet, gcs_server and mlflow."""
    names = set[str]()
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")[:2]
        except OSError:  # it has ended
            continue
        names |= {Path(word.decode(errors="replace")).name for word in words if word}
    return names


def fault_of(url: str) -> str:
    """What is wrong at an address; empty if it answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return "" if response.status == 200 else f"{url} answered {response.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{url} does not answer: {error}"


if __name__ == "__main__":
    sys.exit(main())
