"""Our families, each imported when it is asked for, and the extras of this project: what a single family needs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


LATER: Mapping[str, frozenset[str]] = {"image": frozenset({"captum", "sklearn"}), "forecast": frozenset({"sklearn"})}
"""Those of them that the family does without until a report or one of its networks needs them."""


class ExtraMissing(ValueError):
    """A package of an extra is not installed; says which extra brings it."""


class Families(MutableMapping[str, "Family"]):
    """Families by name: our own, imported when they are asked for, then others; a process pays only for those it uses.

    One whose extra is not installed is absent, and asking for it says so.
    """

    def __init__(self, own: Sequence[str], others: Mapping[str, Family]) -> None:
        self.missing = {name: reason for name in own if (reason := _missing(name))}
        self._found: dict[str, Family | None] = {name: None for name in own if name not in self.missing} | dict(others)

    def __getitem__(self, name: str) -> Family:
        if name not in self._found and name in self.missing:
            raise self.missing[name]
        family = self._found[name]
        if family is None:
            with extra(name):
                family = importlib.import_module(f"models.{name}").FAMILY
            self._found[name] = family
        return family

    def __setitem__(self, name: str, family: Family) -> None:
        self._found[name] = family

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._found))

    def __len__(self) -> int:
        return len(self._found)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turns an import of a missing package of an extra into ExtraMissing; other imports fail as they are."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in PACKAGES[name]:
            raise
        raise _without(name, module) from error


def _missing(name: str) -> ExtraMissing | None:
    """Why a family cannot be imported, if a package that it cannot do without is not installed."""
    needed = PACKAGES[name] - LATER.get(name, frozenset())
    absent = [module for module in sorted(needed) if importlib.util.find_spec(module) is None]
    return _without(name, absent[0]) if absent else None


def _without(name: str, module: str) -> ExtraMissing:
    return ExtraMissing(
        f"{PARTS.get(name, f'the {name} family')} needs the package {module}, which is not installed: "
        f"pip install 'shopkeeper[{name}]'"
    )
