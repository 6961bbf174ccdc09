"""The MLflow UI of a store, in a background process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from jobs.cli.context import Failure, Store
from jobs.cluster.ports import free_port
from jobs.cluster.processes import created_s, end_tree, running_process
from models.files import write_text

PREFERRED_PORT = 5000
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0


def start_ui(store: Store) -> str:
    """Start the MLflow UI on loopback and return its URL; raises Failure if it does not come up."""
    stop_ui(store)
    url = f"http://127.0.0.1:{free_port(PREFERRED_PORT)}"
    store.cluster.mkdir(parents=True, exist_ok=True)
    log_path = store.cluster / "mlflow.log"
    with log_path.open("wb") as log_file:
        process = subprocess.Popen(
            _command(store, port=url.rpartition(":")[2]),
            cwd=store.root,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = {"url": url, "pid": process.pid, "started_s": created_s(process.pid)}
    write_text(_record(store), json.dumps(record))
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
            return url
        time.sleep(0.2)
    stop_ui(store)
    raise Failure(f"the MLflow UI did not come up within {START_TIMEOUT_S:.0f} s; see {log_path}")


def running_ui(store: Store) -> str | None:
    """The URL of the running UI, or None."""
    process = _process(store)
    return None if process is None else str(json.loads(_record(store).read_text(encoding="utf-8"))["url"])


def stop_ui(store: Store) -> bool:
    """Stop the UI of a store; returns whether it was running."""
    process = _process(store)
    if process is not None:
        end_tree(process.pid, timeout_s=STOP_TIMEOUT_S)
    _record(store).unlink(missing_ok=True)
    return process is not None


def _record(store: Store) -> Path:
    return store.cluster / "mlflow.json"


def _command(store: Store, *, port: str) -> list[str]:
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "workers": "1",
        "backend-store-uri": f"sqlite:///{store.root / 'mlflow.db'}",
        "default-artifact-root": store.artifacts.as_uri(),
    }
    return [sys.executable, "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in settings.items())]


def _process(store: Store) -> Any:
    """The recorded process if it still runs, else None."""
    if not _record(store).is_file():
        return None
    recorded = json.loads(_record(store).read_text(encoding="utf-8"))
    return running_process(recorded["pid"], recorded["started_s"])
