"""Shared fixtures: the toy family and its data, a store in tmp_path, one small Ray cluster, the public data."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from jobs.cli.environment import ENVIRONMENT

SHORTER = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20", "TUNE_GLOBAL_CHECKPOINT_S": "1"}
CHECKOUT = Path(__file__).resolve().parent.parent
# Before ray or mlflow is imported; for workers too.
os.environ.update({**ENVIRONMENT, **SHORTER, "PYTHONPATH": str(CHECKOUT)})
del os.environ["RAY_AUTH_MODE"]  # the cluster of the tests needs no token
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
    os.environ.pop(name, None)
torch.set_num_threads(1)
# Background jobs of a shell ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

from jobs.cli.context import Context, Store  # noqa: E402
from jobs.tracking.client import Tracking  # noqa: E402
from models import FAMILIES  # noqa: E402
from models.family import Family  # noqa: E402
from models.prepared import Prepared  # noqa: E402
from tests.kit.packages import install  # noqa: E402
from tests.kit.register import TOY  # noqa: E402


def write_visitors(path: Path, *, num_visitors: int = 800, seed: int = 0, noise: float = 0.1) -> Path:
    """Write a CSV for the toy family: the largest of three sums decides the colour, except for a fraction `noise`."""
    draw = random.Random(seed)
    lines = ["visitor_id,warmth,brightness,colour"]
    for number in range(num_visitors):
        warmth, brightness = draw.gauss(0, 1), draw.gauss(0, 1)
        sums = {"red": warmth + brightness, "green": brightness - warmth, "blue": 0.3 - brightness}
        colour = draw.choice(list(sums)) if draw.random() < noise else max(sums, key=lambda name: sums[name])
        lines.append(f"v{number:05d},{warmth:.6f},{brightness:.6f},{colour}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def environment_is_restored() -> Iterator[None]:
    """Undoes what a verb in this process sets, such as RAY_AUTH_MODE: later tests must not depend on it."""
    with patch.dict(os.environ):
        yield


class SmallCluster:
    """A Ray cluster of this process; in its workers the toy family is that of an installed package."""

    def __init__(self, installed: Path) -> None:
        install(installed, "toy-family", groups={"shopkeeper.families": {"toy": "tests.kit.toy:FAMILY"}}, modules={})
        self._python_path = f"{CHECKOUT}{os.pathsep}{installed}"
        self._address = ""

    def ensure(self) -> None:
        """Start it, again if a verb has stopped it or has connected this process to another one."""
        import ray

        if ray.is_initialized() and ray.get_runtime_context().gcs_address == self._address:
            return
        ray.shutdown()
        with patch.dict(os.environ, {"PYTHONPATH": self._python_path}):
            ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
        self._address = ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def small_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    """The cluster that tests share, not started yet."""
    yield SmallCluster(tmp_path_factory.mktemp("installed"))
    import ray

    ray.shutdown()


@pytest.fixture
def ray_cluster(small_cluster: SmallCluster) -> None:
    """One small Ray cluster for all tests."""
    small_cluster.ensure()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Family:
    """The toy family, registered for the test."""
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    return TOY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking database without runs, to be copied, as MLflow takes seconds to create one."""
    store = Store(tmp_path_factory.mktemp("template"))
    Tracking(Context(store=store)).list_runs("none")
    return store.root / "mlflow.db"


@pytest.fixture
def context(store: Store, empty_database: Path) -> Context:
    """The context of an empty store with a tracking database."""
    store.root.mkdir(exist_ok=True)
    shutil.copy(empty_database, store.root / "mlflow.db")
    return Context(store=store)


@pytest.fixture
def toy_raw(tmp_path: Path) -> Path:
    """A CSV file of the toy family."""
    return write_visitors(tmp_path / "visitors.csv")


@pytest.fixture
def toy_data(toy: Family, store: Store, toy_raw: Path) -> Prepared:
    """Prepared data of the toy family, current in `store`."""
    temporary = store.data("toy") / "temporary"
    temporary.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        schema = toy.prepare(toy.PrepareConfig(raw=str(toy_raw)), temporary, executor)
    data = temporary.rename(store.data("toy") / schema.fingerprint[:16])
    (store.data("toy") / "CURRENT").write_text(data.name, encoding="utf-8")
    return Prepared(data)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public data next to the checkout; skips the test if it is missing."""
    path = CHECKOUT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no public data at {path}")
    return path
