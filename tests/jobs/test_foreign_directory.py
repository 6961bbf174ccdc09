"""The command line in a folder that holds packages called as ours: none is imported, from a checkout or a wheel.

The whole line from the checkout is in `test_demo.py`, in such a folder too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.context import Store
from jobs.cluster.local_head import running_head, stop_head
from jobs.cluster.packages import PACKAGES
from jobs.cluster.ports import free_port
from models.recommender.sample import write_sample
from tests.conftest import CHECKOUT
from tests.kit.foreign import imported, run_in, write_foreign_packages

SMALL = ("--epochs", "1", "--network", "gru", "--dim", "16", "--max-length", "20")

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built from a copy, for what builds a wheel leaves files behind."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in PACKAGES:
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source))
    (built,) = wheels.glob("shopkeeper-*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `shopkeeper` of an environment with the wheel; the dependencies are those of this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    _pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", str(wheel))
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # A directory named in a .pth file is searched, but .pth files in it are not read: nothing leads to the checkout.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return environment / "bin" / "shopkeeper"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with packages called as ours, and the log of a small shop."""
    write_sample(tmp_path / "raw", num_users=120, num_items=40, num_events=2500)
    return write_foreign_packages(tmp_path)


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    """Run a command line in the folder and return what it says; its cluster is stopped in the end."""

    def run(shopkeeper: Path, *words: str) -> dict[str, Any]:
        code, said = run_in(folder, [shopkeeper, *words, "--json"])
        assert imported(folder) == ""
        assert code == 0, said
        return said

    yield run
    stop_head(Store(folder / "store"))


def test_a_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    sources = {str(path.relative_to(CHECKOUT)) for name in PACKAGES for path in (CHECKOUT / name).rglob("*.py")}
    assert names == sources


def test_what_is_installed_is_not_searched_before_the_standard_library(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import sys; from jobs.cluster.packages import search_path; sys.stdout.write(str(search_path()))"
    command = [str(installed.with_name("python")), "-P", "-c", code]

    assert subprocess.check_output(command, cwd=tmp_path, env=environment, text=True) == "[]"


def test_python_m_imports_no_packages_of_the_folder_beside_jobs(tmp_path: Path) -> None:
    folder = write_foreign_packages(tmp_path, ("models", "serve"))

    code, said = run_in(folder, [sys.executable, "-m", "jobs", "prepare", "recommender", "--raw", "a.csv", "--json"])

    assert imported(folder) == ""
    assert code == 3
    assert "a.csv" in said["error"]


@pytest.mark.ray
def test_a_verb_is_submitted_from_a_checkout_with_its_packages_only(folder: Path, run: Run) -> None:
    shopkeeper = Path(sysconfig.get_path("scripts")) / "shopkeeper"

    said = run(shopkeeper, "submit", "prepare", "recommender", "--raw", str(folder / "raw" / "events.parquet"))

    assert said["users"] == 120
    assert uploaded(folder) == set(PACKAGES)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_whole_line_works_from_a_wheel(folder: Path, run: Run, installed: Path) -> None:
    port, log = free_port(), str(folder / "raw" / "events.parquet")

    prepared = run(installed, "prepare", "recommender", "--raw", log)
    trained = run(installed, "train", "recommender", "--workers", "2", *SMALL)
    again = run(installed, "submit", "prepare", "recommender", "--raw", log)
    run(installed, "deploy", "recommender", "--model", f"runs:/{trained['run_id']}", "--port", str(port))

    assert (again["status"], again["fingerprint"]) == ("unchanged", prepared["fingerprint"])
    assert uploaded(folder) == set(PACKAGES)
    assert len(ask(port)["items"]) == 2
    assert imported(folder) == ""
    assert run(installed, "stop")["cluster"] is True


def uploaded(folder: Path) -> set[str]:
    """What the jobs of the store's cluster find in their working directories."""
    head = running_head(Store(folder / "store"))
    assert head is not None
    unpacked = Path(head.temp_dir).glob("session_latest/runtime_resources/working_dir_files/*/*")
    return {path.name for path in unpacked}


def ask(port: int) -> dict[str, Any]:
    """Two recommendations for nobody in particular."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommendations",
        data=json.dumps({"count": 2}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
