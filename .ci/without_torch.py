"""Imports our modules where torch is missing and names the files of tests that can run; another fault is an error."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

PACKAGES = ("jobs", "models", "serve", "release", "deploy", "tests")


def main() -> int:
    """Names the files on stdout, the faults on stderr."""
    faults = 0
    for path in sorted(path for package in PACKAGES for path in Path(package).rglob("*.py")):
        if "wrong_families" in path.parts or path.name in ("__main__.py", "conftest.py"):
            continue
        try:
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        except ImportError as error:
            needs_torch = "torch" in str(error).lower()
            faults += not needs_torch
            sys.stderr.write("" if needs_torch else f"{path}: {error}\n")
        else:
            sys.stdout.write(f"{path}\n" if path.name.startswith("test_") else "")
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
