"""Checks that what is installed is what the locks say, offline: `make check` runs it.

It cannot know of vulnerabilities, whose databases are online: `make audit` asks for these.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from release.licences import OURS, canonical, environment
from release.lock import FOLDER, ROOT, read_lock

INSTALLERS = {"pip", "setuptools", "wheel", OURS}
"""In every environment, or this project itself."""
LOCKS = ("runtime.txt", "runtime-cpu.txt", "runtime-cuda.txt", "development.txt")


def main() -> int:
    """Write what is wrong to stderr; 0 if nothing is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locks = [read_lock((FOLDER / name).read_text(encoding="utf-8")) for name in LOCKS]
    faults = list(
        problems(
            {canonical(name): exact(lines) for lock in locks for name, lines in lock.items()},
            needed=chain(project["dependencies"], *project["optional-dependencies"].values()),
            installed={canonical(each.metadata["Name"]): each.version for each in environment()},
        )
    )
    sys.stderr.write("".join(f"error: {fault}\n" for fault in faults))
    return 1 if faults else 0


def problems(locked: Mapping[str, str], *, needed: Iterable[str], installed: Mapping[str, str]) -> Iterator[str]:
    """What is wrong; `locked` and `installed` are versions by canonical name, `needed` lines of pyproject.toml."""
    names = {canonical(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in needed}
    for name in sorted(names - locked.keys() - INSTALLERS):
        yield f"{name} is in pyproject.toml and not in requirements/; run `make lock`"
    for name, version in sorted(installed.items()):
        if name in INSTALLERS:
            continue
        if name not in locked:
            yield f"{name} {version} is installed and not in requirements/; uninstall it, or add it to pyproject.toml"
        elif version.partition("+")[0] != locked[name]:
            yield f"{name} {version} is installed, requirements/ has {locked[name]}; run `make setup`"


def exact(lines: str) -> str:
    """The version of a locked requirement, without the build that follows `+`."""
    return re.split(r"[ ;\\+]", lines.partition("==")[2])[0]


if __name__ == "__main__":
    sys.exit(main())
