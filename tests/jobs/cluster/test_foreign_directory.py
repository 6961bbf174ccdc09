"""The command line in a folder with packages named like ours: none of them is imported, from a checkout or a wheel.

`test_demo.py` runs the whole pipeline from the checkout in such a folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from jobs.cli.context import Store
from jobs.cluster.local_head import running_head, stop_head
from jobs.cluster.packages import PACKAGES
from jobs.cluster.ports import free_port
from models.recommender.sample import write_sample
from tests.conftest import CHECKOUT
from tests.kit.foreign import imported, run_in, write_foreign_packages

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built from a copy, as the build leaves files behind."""
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
    """The `shopkeeper` command of an environment with the wheel and the dependencies of this environment."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    _pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", str(wheel))
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # A directory named in a .pth file is searched, but .pth files in it are not read: nothing leads to the checkout.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return environment / "bin" / "shopkeeper"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with packages named like ours, and the log of a small shop."""
    write_sample(tmp_path / "raw", num_users=120, num_items=40, num_events=2500)
    return write_foreign_packages(tmp_path)


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    """Run a command in the folder and return its JSON line; its cluster is stopped at the end."""

    def run(shopkeeper: Path, *words: str) -> dict[str, Any]:
        code, said = run_in(folder, [shopkeeper, *words, "--json"])
        assert imported(folder) == ""
        assert code == 0, said
        return said

    yield run
    stop_head(Store(folder / "store"))


def test_a_wheel_contains_every_module_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    sources = {str(path.relative_to(CHECKOUT)) for name in PACKAGES for path in (CHECKOUT / name).rglob("*.py")}
    assert names == sources


def test_an_installed_package_is_not_searched_before_the_standard_library(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import sys; from jobs.cluster.packages import search_path; sys.stdout.write(str(search_path()))"
    command = [str(installed.with_name("python")), "-P", "-c", code]

    assert subprocess.check_output(command, cwd=tmp_path, env=environment, text=True) == "[]"


def test_python_m_jobs_imports_no_packages_of_the_folder(tmp_path: Path) -> None:
    folder = write_foreign_packages(tmp_path, ("models", "serve"))

    code, said = run_in(folder, [sys.executable, "-m", "jobs", "prepare", "recommender", "--raw", "a.csv", "--json"])

    assert imported(folder) == ""
    assert code == 3
    assert "a.csv" in said["error"]


@pytest.mark.ray
def test_submit_from_a_checkout_uploads_only_our_packages(folder: Path, run: Run) -> None:
    shopkeeper = Path(sysconfig.get_path("scripts")) / "shopkeeper"

    said = run(shopkeeper, "submit", "prepare", "recommender", "--raw", str(folder / "raw" / "events.parquet"))

    assert said["users"] == 120
    assert uploaded(folder) == set(PACKAGES)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_readme_s_commands_work_from_a_wheel(folder: Path, run: Run, installed: Path) -> None:
    port = free_port()
    prepare, train, promote, deploy, curl = readme_commands()
    log = folder / "events.csv"
    write_readme_log(log)

    run(installed, *prepare)
    trained = run(installed, *train, "--workers", "2")
    promoted = run(installed, *promote)
    run(installed, *deploy, "--port", str(port), "--min-replicas", "1")
    answered = subprocess.run([word.replace(":8000/", f":{port}/") for word in curl], capture_output=True, check=True)
    # A job has a working directory of its own on the cluster.
    again = run(installed, "submit", *[str(log) if word == log.name else word for word in prepare])

    assert promoted["run_id"] == trained["run_id"]
    assert len(json.loads(answered.stdout)["items"]) == 3
    assert json.loads(answered.stdout)["model_version"] == promoted["version"] == "1"
    assert again["status"] == "unchanged"
    assert uploaded(folder) == set(PACKAGES)
    assert imported(folder) == ""
    assert run(installed, "stop")["cluster"] is True


def readme_commands() -> list[list[str]]:
    """The README's commands for own data, without the program name."""
    section = (CHECKOUT / "README.md").read_text(encoding="utf-8").partition("## Your own data")[2]
    lines = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    return [words if words[0] == "curl" else words[1:] for words in map(shlex.split, lines)]


def write_readme_log(path: Path) -> None:
    """A small log with the columns that the README's commands name."""
    shop = write_sample(path.parent / "raw", num_users=300, num_items=40, num_events=6000)
    names = {"user_id": "CustomerID", "item_id": "StockCode", "timestamp": "InvoiceDate"}
    table = pq.read_table(shop.events)
    csv.write_csv(table.rename_columns([names.get(name, name) for name in table.column_names]), path)


def uploaded(folder: Path) -> set[str]:
    """The contents of the jobs' working directories on the store's cluster."""
    head = running_head(Store(folder / "store"))
    assert head is not None
    unpacked = Path(head.temp_dir).glob("*/session_latest/runtime_resources/working_dir_files/*/*")
    return {path.name for path in unpacked}


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *words]
    # What lies in the checkout, as after an editable installation, would be taken for installed already.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
