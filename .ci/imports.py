"""Imports all of our modules on this Python; where torch is not installed, those that need it are passed over."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGES = ("jobs", "models", "serve", "release", "deploy")


def main() -> int:
    """Says how many were imported, and names the faults on stderr."""
    has_torch = importlib.util.find_spec("torch") is not None
    passed_over = faults = 0
    paths = sorted(path for package in PACKAGES for path in Path(package).rglob("*.py") if path.name != "__main__.py")
    for path in paths:
        try:
            compile(path.read_bytes(), path, "exec")
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        except (ImportError, SyntaxError, AttributeError, TypeError, NameError) as error:
            if not has_torch and isinstance(error, ImportError) and "torch" in str(error).lower():
                passed_over += 1
                continue
            faults += 1
            sys.stderr.write(f"{path}: {type(error).__name__}: {error}\n")
    sys.stdout.write(
        f"{len(paths) - passed_over - faults} of {len(paths)} modules imported, {passed_over} need torch\n"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
