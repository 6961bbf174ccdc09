"""FAMILIES is made once, also when several threads ask for it first."""

from __future__ import annotations

import models


def test_who_asks_second_gets_the_families_of_the_first() -> None:
    first = models.FAMILIES
    made_again = models.__getattr__("FAMILIES")

    assert made_again is first
