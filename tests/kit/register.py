"""Registers the toy family in a process of its own."""

from __future__ import annotations

from models import FAMILIES
from models.family import Family
from tests.kit import toy

TOY: Family = toy.FAMILY


def register() -> None:
    """Add the toy to FAMILIES of this process."""
    FAMILIES["toy"] = TOY
