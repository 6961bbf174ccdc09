"""The mixed-integer linear program: blocks of choices and requirements as matrices, solved by HiGHS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from models.pricing.blocks import Block
from models.pricing.constraints import Requirement
from models.pricing.panel import Floats, Ints

INFEASIBLE = 2
TIME_LIMIT = 1


@dataclass(frozen=True)
class Solved:
    """A solution: the chosen point [I] of each offer, None without one; `gap` is relative to the best bound."""

    points: Ints | None
    is_infeasible: bool
    is_optimal: bool
    gap: float


@dataclass
class _Rows:
    """A growing sparse matrix with bounds."""

    data: list[float] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, weights: Mapping[int, float], low: float, high: float) -> None:
        """One row."""
        self.columns += weights.keys()
        self.data += weights.values()
        self.starts.append(len(self.columns))
        self.low.append(low)
        self.high.append(high)

    def constraint(self, num_columns: int) -> LinearConstraint:
        """The rows for scipy."""
        shape = (len(self.low), num_columns)
        matrix = sp.csr_array((np.array(self.data), np.array(self.columns, np.int64), self.starts), shape=shape)
        return LinearConstraint(matrix, np.array(self.low), np.array(self.high))


class Program:
    """Chooses a point for each offer; the choices of a block of several offers are columns of their own.

    A choice of a block is a column between 0 and 1, a point of an offer a binary one. In blocks of one offer both are
    the same column. With binary points the choice is determined, so that choices need not be binary themselves.
    """

    def __init__(self, blocks: Sequence[Block], num_points: Sequence[int]) -> None:
        self.blocks = blocks
        self.num_points = num_points
        self._choice_start = np.cumsum([0, *(len(block.choices) for block in blocks)])
        self._point: dict[tuple[int, int], int] = {}
        self._links = _Rows()
        self.num_columns = int(self._choice_start[-1])
        for start, block in zip(self._choice_start, blocks, strict=False):
            self._links.add({int(start) + at: 1.0 for at in range(len(block.choices))}, 1.0, 1.0)
            self._add_points(int(start), block)

    def _add_points(self, start: int, block: Block) -> None:
        if len(block.offers) == 1:
            for at, point in enumerate(block.choices[:, 0]):
                self._point[int(block.offers[0]), int(point)] = start + at
            return
        for position, offer in enumerate(block.offers):
            for point in range(self.num_points[int(offer)]):
                column = self._point[int(offer), point] = self.num_columns
                self.num_columns += 1
                chosen = np.flatnonzero(block.choices[:, position] == point)
                self._links.add({column: -1.0, **{start + int(at): 1.0 for at in chosen}}, 0.0, 0.0)

    def solve(
        self, worth: Sequence[Floats] | None, requirements: Sequence[Requirement], *, time_limit_s: float, gap: float
    ) -> Solved:
        """Maximise the worth [M] of each block's choice; without it any feasible solution will do."""
        cost = np.zeros(self.num_columns)
        if worth is not None:
            cost[: self._choice_start[-1]] = -np.concatenate(list(worth))
        scale = max(1e-9, float(np.abs(cost).max(initial=0.0)))
        is_binary = np.zeros(self.num_columns, np.int64)
        is_binary[list(self._point.values())] = 1
        answer = milp(
            cost / scale,
            integrality=is_binary,
            bounds=Bounds(0, 1),
            constraints=[one for one in (self._links.constraint(self.num_columns), self._asked(requirements)) if one],
            options={"time_limit": max(time_limit_s, 0.01), "mip_rel_gap": gap},
        )
        if answer.x is None:
            return Solved(None, answer.status == INFEASIBLE, False, np.inf)
        points = np.zeros(len(self.num_points), np.int64)
        for (offer, point), column in self._point.items():
            if answer.x[column] > 0.5:
                points[offer] = point
        return Solved(points, False, answer.status != TIME_LIMIT, float(answer.mip_gap or 0.0))

    def _asked(self, requirements: Sequence[Requirement]) -> LinearConstraint | None:
        rows = _Rows()
        for requirement in requirements:
            for weights, low, high in requirement.rows:
                rows.add({self._point[key]: weight for key, weight in weights.items()}, low, high)
            if requirement.floor is not None:
                self._add_floor(requirement, rows)
        return rows.constraint(self.num_columns) if rows.low else None

    def _add_floor(self, requirement: Requirement, rows: _Rows) -> None:
        """The summed amount of the floor's offers, divided by the floor."""
        floor = requirement.floor
        assert floor is not None
        if not np.isfinite(floor.amount):
            rows.add({}, 1.0, np.inf)
            return
        weights: dict[int, float] = {}
        for start, block in zip(self._choice_start, self.blocks, strict=False):
            concerned = np.isin(block.affected, floor.offers)
            if concerned.any():
                values = getattr(block, floor.of)[:, concerned].sum(-1) / max(floor.amount, 1e-9)
                weights |= {int(start) + at: float(value) for at, value in enumerate(values) if value}
        rows.add(weights, 1.0 if floor.amount > 0 else 0.0, np.inf)
