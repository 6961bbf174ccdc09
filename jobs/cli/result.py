"""The result of a command: one JSON line for programs, or a short summary for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_LINE_LENGTH = 100
FORMER_KEYS: dict[str, str] = {}
"""Deprecated key of the JSON line -> its current name; the value is repeated under both for one release, which a
comment names."""


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    exit_code: int
    verb: str | None
    family: str | None
    status: str = "failed"
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """The resolved settings, of a dry run only."""
    error: str | None = None
    headline: str = ""
    """The summary for people shows the metrics whose name contains this; all of them if none does."""
    summary: str | None = None
    """Replaces metrics and details in the summary for people."""
    table: str | None = None
    """Lines at the end of the summary for people."""

    def to_json(self) -> str:
        """One JSON line, in ASCII, which any stdout can encode."""
        head: dict[str, Any] = {"verb": self.verb, "family": self.family, "status": self.status}
        head |= {"run_id": self.run_id, "metrics": self.metrics, "exit_code": self.exit_code}
        if self.error:
            head["error"] = self.error
        rest = {name: value for name, value in (self.settings | self.details).items() if name not in head}
        return json.dumps(_to_json_value({**head, **rest}), default=str)

    def to_text(self) -> str:
        """A short summary for people."""
        title = f"{' '.join(word for word in (self.verb, self.family) if word)}: {self.status}"
        if self.summary is not None:
            return "\n".join([title, *_outline(self.settings), self.summary])
        headline = {name: value for name, value in self.metrics.items() if self.headline in name}
        shown: dict[str, Any] = headline or dict(self.metrics)
        head: dict[str, Any] = {"run_id": self.run_id} if self.run_id else {}
        if len(shown) < len(self.metrics):
            shown["more"] = f"--json prints all {len(self.metrics)} metrics"
        return "\n".join(
            [title, *_outline({**head, **shown, **self.settings, **self.details}), *filter(None, [self.table])]
        )


def _to_json_value(content: Any) -> Any:
    """A value for JSON: NaN and infinity become null, and deprecated keys repeat the values of the current ones."""
    match content:
        case float():
            return content if math.isfinite(content) else None
        case dict():
            named = {str(name): _to_json_value(value) for name, value in content.items()}
            former = {was: named[name] for was, name in FORMER_KEYS.items() if name in named}
            return {**former, **named}
        case list() | tuple():
            return [_to_json_value(value) for value in content]
        case _:
            return content


def _outline(content: Any, indent: str = "  ") -> Iterator[str]:
    """Nested dictionaries and lists as indented lines."""
    pairs = content.items() if isinstance(content, dict) else [("-", value) for value in content]
    for name, value in pairs:
        label = f"{indent}{name}" + ("" if name == "-" else ":")
        line = f"{label} {_in_line(value)}"
        is_nested = isinstance(value, dict) and any(isinstance(part, dict) for part in value.values())
        if is_nested or (isinstance(value, dict | list | tuple) and len(line) > MAX_LINE_LENGTH):
            yield label
            yield from _outline(value, indent + "  ")
        else:
            yield line


def _in_line(value: Any) -> str:
    match value:
        case float():
            return f"{value:.6g}"
        case dict():
            return ", ".join(f"{name}: {_in_line(part)}" for name, part in value.items()) or "none"
        case list() | tuple():
            return ", ".join(_in_line(part) for part in value) or "none"
        case None:
            return "none"
        case _:
            return str(value)
