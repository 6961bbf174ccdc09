"""The MLflow UI of a store: a server in the background or until Ctrl-C, and the addresses of its pages."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jobs.cli.context import Failure, Store
from jobs.cluster.local_head import identity
from jobs.cluster.ports import free_port
from jobs.cluster.processes import created_s, end_tree, running_process
from jobs.tracking.database import database_uri
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
    uri = database_uri(store.root / "mlflow.db", outlives_process=True)
    with log_path.open("wb") as log_file:
        process = _start(uri, store.artifacts, port=url.rpartition(":")[2], output=log_file)
    record = {"url": url, "pid": process.pid, "started_s": created_s(process.pid), "store": identity(store)}
    write_text(_record(store), json.dumps(record))
    if not _comes_up(process, url):
        stop_ui(store)
        raise Failure(f"the MLflow UI did not come up within {START_TIMEOUT_S:.0f} s; see {log_path}")
    return url


@contextlib.contextmanager
def served(uri: str, artifacts: Path, *, port: int | None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and the process of an MLflow UI that ends with the block; raises Failure if it does not come up."""
    url = f"http://127.0.0.1:{port or free_port(PREFERRED_PORT)}"
    with tempfile.TemporaryFile() as output:
        process = _start(uri, artifacts, port=url.rpartition(":")[2], output=output)
        try:
            if not _comes_up(process, url):
                output.seek(0)
                tail = output.read().decode("utf-8", errors="replace").strip().splitlines()[-5:]
                raise Failure(f"the MLflow UI did not come up at {url}: {' | '.join(tail) or 'it wrote nothing'}")
            yield url, process
        finally:
            end_tree(process.pid, timeout_s=STOP_TIMEOUT_S)


def page_of(url: str, experiment_id: str | None) -> str:
    """The address of the runs of an experiment, in the view for training runs and not that for GenAI traces."""
    if experiment_id is None:
        return f"{url}/#/experiments"
    return f"{url}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


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


def _start(uri: str, artifacts: Path, *, port: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "workers": "1",
        "backend-store-uri": uri,
        "default-artifact-root": artifacts.as_uri(),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in settings.items())],
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _comes_up(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
        time.sleep(0.2)
    return False


def _process(store: Store) -> Any:
    """The recorded process if it still runs, else None."""
    if not _record(store).is_file():
        return None
    recorded = json.loads(_record(store).read_text(encoding="utf-8"))
    if recorded.get("store") not in (None, identity(store)):
        return None
    return running_process(recorded["pid"], recorded["started_s"])
