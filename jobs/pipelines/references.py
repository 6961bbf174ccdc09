"""References in a pipeline: ${NAME} of a variable, ${STEP.RESULT} of a step's result, and conditions on results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.raw.tables import without_secrets

REFERENCE = re.compile(r"\$?\$\{([^{}]*)\}")
STEP_RESULT = re.compile(r"(?P<step>[A-Za-z][\w-]*)\.(?P<result>\w+(?:\.[\w./-]+)?)")
CONDITION = re.compile(r"(?P<left>\S+)\s*(?P<operator>==|!=|>=|<=|>|<)\s*(?P<right>\S.*)")


@dataclass(frozen=True)
class Reference:
    """A result of a step: `train.run_id`, or an entry of one: `train.metrics.val_loss`."""

    step: str
    result: str

    @property
    def key(self) -> str:
        """The result without what follows a dot."""
        return self.result.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.step}.{self.result}"


@dataclass(frozen=True)
class Condition:
    """A comparison of a result with a value; a step runs only if it holds."""

    left: Reference
    operator: str
    right: str

    def holds(self, found: Any) -> bool:
        """Whether it holds for the value of the result; raises ValueError if that cannot be compared."""
        if self.operator in ("==", "!="):
            is_equal = text_of(found) == self.right
            number, other = _number(found), _number(self.right)
            if number is not None and other is not None:
                is_equal = number == other
            return is_equal == (self.operator == "==")
        number, other = _number(found), _number(self.right)
        if number is None or other is None:
            raise ValueError(f"`{self}` compares numbers, and {self.left} is {found!r}")
        return {">": number > other, "<": number < other, ">=": number >= other, "<=": number <= other}[self.operator]

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right}"


def reference(text: str) -> Reference | None:
    """`train.run_id` as a reference; None if it is not one."""
    found = STEP_RESULT.fullmatch(text.strip())
    return Reference(found["step"], found["result"]) if found else None


def condition(text: str) -> Condition | None:
    """`promote.status == promoted` as a condition; None if it is not one. The result may be in ${...}."""
    found = CONDITION.fullmatch(text.strip())
    if found is None:
        return None
    left = found["left"]
    left = left[2:-1] if left.startswith("${") and left.endswith("}") else left
    of_step = reference(left)
    right = found["right"].strip()
    if right[:1] in "'\"" and right[-1:] == right[:1] and len(right) > 1:
        right = right[1:-1]
    return Condition(of_step, found["operator"], right) if of_step else None


def names(text: str) -> list[str]:
    """What the text has in ${...}; `$${...}` is no reference."""
    return [found.group(1) for found in REFERENCE.finditer(text) if not found.group(0).startswith("$$")]


def replaced(text: str, value_of: Callable[[str], str], *, final: bool = True) -> str:
    """The text with each ${NAME} replaced; in the final pass `$${NAME}` becomes `${NAME}`."""

    def one(found: re.Match[str]) -> str:
        if found.group(0).startswith("$$"):
            return found.group(0)[1:] if final else found.group(0)
        return value_of(found.group(1))

    return REFERENCE.sub(one, text)


def value_of(wanted: Reference, results: Mapping[str, Any]) -> Any:
    """The value among a step's results; raises KeyError."""
    found: Any = results[wanted.key]
    _, _, entry = wanted.result.partition(".")
    return found[entry] if entry else found


def text_of(value: Any) -> str:
    """A value as the text of a flag: lists with commas, mappings as NAME=VALUE."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return ",".join(f"{name}={text_of(part)}" for name, part in value.items())
        case list() | tuple():
            return ",".join(map(text_of, value))
        case _:
            return str(value)


def masked(words: list[str] | tuple[str, ...]) -> list[str]:
    """Words of a command line without credentials, for logs and files."""
    return [str(without_secrets(word)) for word in words]


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
