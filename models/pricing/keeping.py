"""Which requirements of the rules a list of prices keeps, and which offers each is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.pricing.blocks import Money
from models.pricing.constraints import TOLERANCE, Requirement, Row
from models.pricing.panel import Ints

ROUNDING = 1e-6


def concerned(requirement: Requirement) -> frozenset[int]:
    """The offers whose prices or demand a requirement is about, as far as it forbids anything."""
    of_rows = {offer for weights, _, _ in requirement.rows for offer, _ in weights}
    of_floor = requirement.floor.offers.tolist() if requirement.floor is not None else []
    return frozenset(of_rows) | frozenset(of_floor)


def broken(requirements: Sequence[Requirement], points: Ints, expected: Money) -> list[Requirement]:
    """Those that the points [I] of the ladders break, with what is expected of their prices."""
    return [one for one in requirements if breaks_rows(one, points) or shortfall(one, expected) > 0]


def breaks_rows(requirement: Requirement, points: Ints) -> bool:
    """Whether a row of the requirement does not hold at the points [I]."""
    return any(not _holds(row, points) for row in requirement.rows)


def shortfall(requirement: Requirement, expected: Money) -> float:
    """By how much the floor of a requirement is missed, 0.0 if it is reached or there is none."""
    if requirement.floor is None:
        return 0.0
    reached = float(getattr(expected, requirement.floor.of)[requirement.floor.offers].sum())
    asked = requirement.floor.asked
    return asked - reached if reached < asked * (1 - ROUNDING) else 0.0


def unavoidable(
    requirements: Sequence[Requirement], held: Mapping[int, str], points: Ints, today: Money
) -> list[Requirement]:
    """Those about held offers alone that today's points [I] break: no plan can change that."""
    about_held = [one for one in requirements if concerned(one) <= held.keys()]
    return broken(about_held, points, today)


def _holds(row: Row, points: Ints) -> bool:
    weights, low, high = row
    total = sum(weight for (offer, point), weight in weights.items() if points[offer] == point)
    return low - TOLERANCE <= total <= high + TOLERANCE
