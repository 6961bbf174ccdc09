"""Optional packages: each extra of this project brings what a single family needs, and errors name the extra."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from models.family import Family

PACKAGES: Mapping[str, frozenset[str]] = {
    "recommender": frozenset({"scipy"}),
    "image": frozenset({"captum", "PIL", "sklearn"}),
    "forecast": frozenset({"scipy", "sklearn"}),
    "pricing": frozenset({"scipy", "sklearn"}),
    "reviews": frozenset({"scipy"}),
    "encoder": frozenset({"transformers", "tokenizers"}),
}
"""Extra, which is called like its family or is one of PARTS -> the modules that it brings."""
PARTS: Mapping[str, str] = {"encoder": "the network encoder of reviews"}
"""Extra for a part of a family -> what needs it."""


class ExtraMissing(ValueError):
    """A package of an extra is not installed; says which extra brings it."""


class Families(dict[str, Family]):
    """Families by name; one whose extra is not installed is absent, and asking for it says so."""

    def __init__(self, families: Mapping[str, Family], missing: Mapping[str, ExtraMissing]) -> None:
        super().__init__(families)
        self.missing = missing

    def __missing__(self, name: str) -> Family:
        raise self.missing.get(name) or KeyError(name)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turns an import of a missing package of an extra into ExtraMissing; other imports fail as they are."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in PACKAGES[name]:
            raise
        raise ExtraMissing(
            f"{PARTS.get(name, f'the {name} family')} needs the package {module}, which is not installed: "
            f"pip install 'shopkeeper[{name}]'"
        ) from error


def own_families(names: Sequence[str]) -> tuple[list[Family], dict[str, ExtraMissing]]:
    """Our families of these names that can be imported, and why the others cannot."""
    found, missing = list[Family](), dict[str, ExtraMissing]()
    for name in names:
        try:
            with extra(name):
                found.append(importlib.import_module(f"models.{name}").FAMILY)
        except ExtraMissing as error:
            missing[name] = error
    return found, missing
