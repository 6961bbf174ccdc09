"""Makes every process of a cluster import this project's packages, and no others of the same names."""

from __future__ import annotations

import importlib
import shutil
import site
from pathlib import Path
from typing import Any

PACKAGES = ("jobs", "models", "serve")
ROOT = Path(__file__).resolve().parents[2]
"""Their parent directory: a checkout, or the `site-packages` of an installed wheel."""


def search_path() -> list[str]:
    """The directories to put first on `sys.path` to find the packages.

    Empty if they are installed: `site-packages` is searched anyway, and in front it could shadow the standard library.
    """
    installed = {Path(path).resolve() for path in [*site.getsitepackages(), site.getusersitepackages()]}
    return [] if ROOT in installed else [str(ROOT)]


def job_config() -> Any:
    """A Ray JobConfig whose workers import our packages, whatever the driver's working directory.

    Ray 2.60 puts the directories of the driver and of its script first on a worker's `sys.path` unless the job has a
    working directory of its own; a `models/` package there would be imported instead of ours.
    """
    config: Any = importlib.import_module("ray.job_config").JobConfig(_py_driver_sys_path=search_path())
    config._runtime_env_has_working_dir = lambda: True
    return config


def copy_packages(directory: Path) -> None:
    """Copy only the packages into a directory."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
