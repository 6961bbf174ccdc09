"""A user's folder with packages named like ours, and commands run in it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.cluster.packages import PACKAGES

FOREIGN_PACKAGE = """
import sys
from pathlib import Path

with (Path(__file__).parents[1] / "IMPORTED").open("a", encoding="utf-8") as file:
    file.write(f"{__name__} by {sys.argv}, which searched {sys.path}\\n")
raise ImportError("this package is not Shopkeeper's")
"""


def write_foreign_packages(directory: Path, names: Sequence[str] = PACKAGES) -> Path:
    """Create packages that record their import in a file, then fail."""
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "__init__.py").write_text(FOREIGN_PACKAGE, encoding="utf-8")
    return directory


def imported(directory: Path) -> str:
    """Which of the foreign packages were imported by which process; empty if none was."""
    trace = directory / "IMPORTED"
    return trace.read_text(encoding="utf-8") if trace.exists() else ""


def run_in(directory: Path, command: Sequence[str | Path]) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON line of a command run in a directory, without the tests' PYTHONPATH."""
    ours = ("PYTHONPATH", "SHOPKEEPER_STORE")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr[-3000:]
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return ended.returncode, said
