"""`make cluster-faults`: what becomes of a submitted training when a server of its cluster dies, on several raylets.

- gcs: Ray's control service (GCS) is killed in mid-run, and with it the cluster; a new one resumes the run;
- redis: the same with its state in Redis; the head starts again, and knows the job, whose run is resumed if it ended;
- mlflow: the tracking server is killed in mid-run and started again; no epoch is missing there;
- disk: the store's disk is full (needs root, for a small file system); the run resumes when there is space.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Store
from jobs.cluster.ports import free_port
from jobs.tracking.client import Tracking
from models.recommender.sample import write_sample
from tests.kit.fake_cluster import FakeCluster, fake_cluster, shipped_config
from tests.kit.polling import until
from tests.kit.redis_servers import redis_server

EPOCHS = 20
PATIENCE_S = 600.0
TRAINING = ("train", "recommender", "--network", "transformer", "--workers", "2", "--dim", "16", "--max-length", "20")
SMALL_DISK = "40m"
log = logging.getLogger("cluster-faults")


class Case:
    """A store, and the training that is submitted to a cluster."""

    def __init__(self, root: Path, cluster: FakeCluster, *, tracking_uri: str | None = None) -> None:
        self.root, self.cluster, self.store = root, cluster, Store(root / "store")
        self._more = {"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}
        self.context = Context(store=self.store, tracking_uri=tracking_uri)
        self._began = time.monotonic()
        shop = write_sample(root / "shop", num_users=400, num_items=120, num_events=12_000, seed=3)
        self._run("prepare", "recommender", "--raw", str(shop.events))

    def submit(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start `submit` of a training; its log is NAME.log."""
        on = ("--entrypoint-resources", "driver=1", "--address", self.cluster.dashboard_url, "--submission-id", name)
        epochs = () if "--resume" in words else ("--epochs", str(EPOCHS), "--patience", "0")
        command = ("submit", "--store", str(self.store.root), "--json", *on, *TRAINING, *epochs, *words)
        with self.log_of(name).open("w", encoding="utf-8") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs", *command],
                env={**os.environ, **self.cluster.environment(), **self._more},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def log_of(self, name: str) -> Path:
        """Where the log of a job is."""
        return self.root / f"{name}.log"

    def reaches(self, name: str, epoch: int) -> None:
        """Wait for an epoch of a job."""
        until(lambda: f"epoch {epoch}:" in self.log_of(name).read_text("utf-8"), within_s=PATIENCE_S)
        self.say(f"epoch {epoch}")

    def result(self, job: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON line of a job."""
        out, _ = job.communicate(timeout=2 * PATIENCE_S)
        line: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        self.say(f"exit code {job.returncode}: {line.get('error') or line['status']}")
        return job.returncode, line

    def run_id(self) -> str:
        """The id of the only run."""
        (run,) = Tracking(self.context).list_runs("recommender")
        return run.run_id

    def check(self, run_id: str) -> None:
        """Raise AssertionError if the run has not ended well, with every epoch in MLflow."""
        info = Tracking(self.context).run_info(run_id)
        seen = {step for step, _ in Tracking(self.context).metric_history(run_id, "train_loss")}
        assert info.status == "FINISHED", info
        assert seen >= set(range(1, EPOCHS + 1)), sorted(seen)
        self.say(f"run {run_id} has ended well, with all {EPOCHS} epochs")

    def say(self, line: str) -> None:
        """Log a line with the time since the case began."""
        log.info("%4.0f s  %s", time.monotonic() - self._began, line)

    def _run(self, *words: str) -> None:
        command = [sys.executable, "-m", "jobs", *words, "--store", str(self.store.root)]
        subprocess.run(command, env={**os.environ, **self._more}, check=True, capture_output=True, timeout=PATIENCE_S)


def gcs(root: Path) -> None:
    """Without Redis the cluster is lost: what is said, and a new cluster resumes the run."""
    with fake_cluster(shipped_config(cpus=2)) as cluster:
        case = Case(root, cluster)
        job = case.submit("first")
        case.reaches("first", 3)
        cluster.kill_gcs()
        case.say("GCS killed")
        code, _ = case.result(job)
        assert code in (5, 6), code
        cluster.stop()
    with fake_cluster(shipped_config(cpus=2)) as cluster:
        case.cluster = cluster
        run_id = case.run_id()
        code, line = case.result(case.submit("second", "--resume", run_id))
        assert (code, line["run_id"], line["epochs"]) == (0, run_id, EPOCHS)
        case.check(run_id)


def redis(root: Path) -> None:
    """With Redis the head starts again with its jobs; what Ray itself had on the head is lost, and may end the job."""
    with redis_server(root) as server, fake_cluster(shipped_config(cpus=2), redis_port=server.port) as cluster:
        case = Case(root, cluster)
        job = case.submit("first", "--no-wait")
        case.result(job)
        attached = _follow(case, "first")
        case.reaches("attached", 3)
        cluster.kill_gcs()
        case.say("GCS killed")
        cluster.start()
        case.say("the head is back")
        attached.wait(timeout=PATIENCE_S)
        case.say(f"attach has ended: {attached.returncode}")
        code, line = case.result(_follow(case, "first"))
        assert code in (0, 6), code
        if code == 6:
            code, line = case.result(case.submit("second", "--resume", line["run_id"]))
        assert (code, line["epochs"]) == (0, EPOCHS)
        case.check(line["run_id"])


def mlflow(root: Path) -> None:
    """The tracking server is away for some epochs."""
    port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(_mlflow_server(root, port))
        cluster = stack.enter_context(fake_cluster(shipped_config(cpus=2)))
        case = Case(root, cluster, tracking_uri=f"http://127.0.0.1:{port}")
        job = case.submit("first")
        case.reaches("first", 3)
        _end(server)
        case.say("MLflow killed")
        case.reaches("first", 8)
        stack.enter_context(_mlflow_server(root, port))
        case.say("MLflow is back")
        code, line = case.result(job)
        assert code == 0
        case.check(line["run_id"])


def disk(root: Path) -> None:
    """The store's disk is full in mid-run."""
    with _small_disk(root / "store"), fake_cluster(shipped_config(cpus=2)) as cluster:
        case = Case(root, cluster)
        job = case.submit("first")
        case.reaches("first", 3)
        filler = case.store.root / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(case.store.root).free))
        case.say("disk full")
        code, line = case.result(job)
        assert code == 6 and "is full" in line["error"], line
        filler.unlink()
        code, line = case.result(case.submit("second", "--resume", line["run_id"]))
        assert (code, line["epochs"]) == (0, EPOCHS)
        case.check(line["run_id"])


CASES: dict[str, Callable[[Path], None]] = {"gcs": gcs, "redis": redis, "mlflow": mlflow, "disk": disk}


def _follow(case: Case, job_id: str) -> subprocess.Popen[str]:
    command = ["jobs", "attach", job_id, "--address", case.cluster.dashboard_url, "--store", str(case.store.root)]
    with case.log_of("attached").open("a", encoding="utf-8") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs", *command, "--json"],
            env={**os.environ, **case.cluster.environment()},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


@contextmanager
def _mlflow_server(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/tracking.db", "--artifacts-destination", f"{root}/artifacts"]
    with (root / "mlflow.log").open("ab") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    context = Context(store=Store(root / "unused"), tracking_uri=f"http://127.0.0.1:{port}")
    try:
        until(lambda: _responds(context), within_s=PATIENCE_S)
        yield server
    finally:
        _end(server)


def _responds(context: Context) -> bool:
    try:
        Tracking(context).list_runs("none")
    except Exception:  # noqa: BLE001  whatever a server says that is starting
        return False
    return True


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, 9)
        server.wait()


@contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def main() -> int:
    """Each case, or some; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; default is all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    failed = []
    for name in arguments.cases or CASES:
        root = Path(tempfile.mkdtemp(prefix=f"cluster-faults-{name}-"))
        log.info("%s, in %s", name, root)
        try:
            CASES[name](root)
        except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError):
            log.exception("%s failed; its logs are in %s", name, root)
            failed.append(name)
        else:
            shutil.rmtree(root)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
