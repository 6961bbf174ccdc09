"""The result of the gate for people, for JSON and for the evidence of a promotion: checks, gains and losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jobs.evaluation.slice_gate import SLICE, Check, slice_numbers, slice_table


@dataclass(frozen=True)
class GateResult:
    """The checks of a candidate."""

    checks: list[Check]
    floor: str | None
    """What the groups were compared with."""
    slice_tolerance: float

    @property
    def failed(self) -> list[str]:
        """Messages of the failed checks."""
        return [check.message for check in self.checks if not check.passed]

    @property
    def only_groups_failed(self) -> bool:
        """Whether no check of the whole split failed."""
        return all(check.passed or check.name.startswith(SLICE) for check in self.checks)

    @property
    def gains(self) -> dict[str, float]:
        """The overall relative gain on each model that the candidate was compared with."""
        compared = [check for check in self.checks if check.name.startswith(("better than ", "no worse than "))]
        return {
            check.name.partition(" than ")[2]: check.numbers["gain"] for check in compared if "gain" in check.numbers
        }

    def lines(self) -> list[str]:
        """The checks for people: those of the whole split as sentences, those by group as a table."""
        whole = [
            f"{'ok' if check.passed else 'failed'}: {check.message}"
            for check in self.checks
            if not check.name.startswith(SLICE)
        ]
        return whole + slice_table(self.checks, floor=self.floor)

    def numbers(self) -> dict[str, Any]:
        """The messages of all checks, and the gains overall and by group, for JSON."""
        messages = [check.message for check in self.checks]
        return {"checks": messages, "gains": self.gains, "floor": self.floor, "slices": slice_numbers(self.checks)}

    def evidence(self) -> dict[str, Any]:
        """The same with all numbers of the checks, and the rules."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        rules = {"slice_tolerance": self.slice_tolerance, "adjustment": "Holm"}
        return {**self.numbers(), **rules, "checks": checks}
