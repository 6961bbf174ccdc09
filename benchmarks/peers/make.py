"""Make a virtual environment for each peer from the package index: `python -m benchmarks.peers.make DIRECTORY`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("recbole", "implicit", "keras")
WITHOUT_DEPENDENCIES = {"recbole": "recbole==1.2.1"}
"""RecBole asks for ray <= 2.6.3, which it only needs to tune; its other requirements are in recbole.txt."""


def main() -> None:
    """Make the environments that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="one environment is made below it for each peer")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    for name in arguments.only:
        make(name, arguments.directory / name)


def make(name: str, directory: Path) -> None:
    """Make one environment; an unfinished one is made anew."""
    if (directory / ".complete").exists():
        print(f"{directory} is there already")
        return
    print(f"making {directory} with {Path(sys.executable).name}", flush=True)
    venv.create(directory, with_pip=True, clear=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(HERE / f"{name}.txt")], check=True)
    if name in WITHOUT_DEPENDENCIES:
        subprocess.run([*pip, "--no-deps", WITHOUT_DEPENDENCIES[name]], check=True)
    (directory / ".complete").touch()


if __name__ == "__main__":
    main()
