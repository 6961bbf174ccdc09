"""The toy family's one line in the table of families; the tests' Ray workers run it when they start."""

from __future__ import annotations

from models import FAMILIES
from models.family import Family
from tests.kit import toy

TOY: Family = toy.FAMILY


def register() -> None:
    """Add the toy to the families that this process knows."""
    FAMILIES["toy"] = TOY
