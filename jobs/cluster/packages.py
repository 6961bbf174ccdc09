"""Where this project's own packages lie, and how the processes of a cluster get them and no others of their names."""

from __future__ import annotations

import importlib
import shutil
import site
from pathlib import Path
from typing import Any

PACKAGES = ("jobs", "models", "serve")
ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds them: a checkout, or the `site-packages` that a wheel was installed into."""


def search_path() -> list[str]:
    """The directories that a process must search first to find the packages.

    None where they are installed: `site-packages` is searched anyway, and before the standard library it could hide
    parts of it.
    """
    installed = {Path(place).resolve() for place in [*site.getsitepackages(), site.getusersitepackages()]}
    return [] if ROOT in installed else [str(ROOT)]


def job_config() -> Any:
    """Settings of a Ray job whose workers find our packages wherever its driver was started.

    Ray 2.60 puts the driver's working directory and that of its script before all else that a worker searches, unless
    the job has a working directory of its own: a folder with its own `models/` would be imported instead of ours.
    """
    config: Any = importlib.import_module("ray.job_config").JobConfig(_py_driver_sys_path=search_path())
    config._runtime_env_has_working_dir = lambda: True
    return config


def copy_packages(directory: Path) -> None:
    """Copy the packages, and nothing else of what lies beside them, into a directory."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
