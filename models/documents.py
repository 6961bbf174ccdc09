"""YAML documents with the line of every value, scalars as the text that the file has, and no key twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

MAX_BYTES = 1024 * 1024
MAX_VALUES = 100_000
Kind = Literal["text", "number", "switch", "null"]
KINDS: dict[str, Kind] = {
    "tag:yaml.org,2002:int": "number",
    "tag:yaml.org,2002:float": "number",
    "tag:yaml.org,2002:bool": "switch",
    "tag:yaml.org,2002:null": "null",
}


@dataclass(frozen=True)
class Scalar:
    """A single value: its text as written, so that 1e-3, 010 and 2026-01-31 are what a flag on a command line gets."""

    text: str
    kind: Kind
    line: int


@dataclass(frozen=True)
class Listing:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True)
class Table:
    """A mapping with the line of each key."""

    entries: Mapping[str, Node]
    lines: Mapping[str, int]
    line: int


Node = Scalar | Listing | Table


@dataclass(frozen=True)
class Problem:
    """What is wrong in a line of a file."""

    line: int
    where: str
    message: str


@dataclass
class Problems:
    """All problems of a file, in the order in which they were found."""

    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, where: str, message: str) -> None:
        """Note a problem at a key such as `steps[train].flags.epochs`."""
        self.found.append(Problem(line, where, message))

    @property
    def counted(self) -> str:
        """How many there are, in words."""
        return f"{len(self.found)} {'mistake' if len(self.found) == 1 else 'mistakes'}"

    def text(self, path: Path) -> str:
        """One line for each problem, by line of the file."""
        return "\n".join(
            f"{path}:{one.line}: {f'{one.where}: ' if one.where else ''}{one.message}"
            for one in sorted(self.found, key=lambda one: one.line)
        )


class DocumentUnreadable(ValueError):
    """A file that is not there or is no text; the message names it and the remedy."""


def read_text(path: Path, content: str) -> str:
    """The text of a YAML file, of which `content` says what it has; raises DocumentUnreadable."""
    remedy = f"name the YAML file of {content}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DocumentUnreadable(f"{path} is larger than {MAX_BYTES} bytes; {remedy}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DocumentUnreadable(f"there is no file {path.absolute()}; {remedy}") from None
    except IsADirectoryError:
        raise DocumentUnreadable(f"{path} is a directory; {remedy}") from None
    except UnicodeDecodeError as error:
        raise DocumentUnreadable(f"{path} is not text in UTF-8: {error}; save it as UTF-8") from None


def parse(text: str, problems: Problems, *, needs: str) -> Node | None:
    """Parse one YAML document; None if it cannot be read, with the reason among the problems.

    `needs` says what the file needs at least, for the message about an empty one.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        source = text.splitlines()[line - 1] if 0 < line <= len(text.splitlines()) else ""
        hint = '; inside {...} and [...] write "${...}" in quotes' if "${" in source else ""
        problems.add(line, "", f"not YAML: {error.problem or error.context}{hint}")
        return None
    except RecursionError:
        problems.add(1, "", "it is nested too deeply; write it with less nesting")
        return None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        problems.add(1, "", f"not YAML: {' '.join(str(error).split())}")
        return None
    if root is None:
        problems.add(1, "", f"the file is empty; it needs {needs}")
        return None
    document = _converted(root, problems, (), {})
    if document is not None and _size(document, {}) > MAX_VALUES:
        problems.add(1, "", f"its aliases (*) stand for more than {MAX_VALUES:,} values; write less of them")
        return None
    return document


def _size(node: Node, known: dict[int, int]) -> int:
    """The number of values with each alias written out; `known` are those so far, since it grows exponentially."""
    if id(node) not in known:
        inside = node.items if isinstance(node, Listing) else node.entries.values() if isinstance(node, Table) else ()
        known[id(node)] = 1 + sum(_size(each, known) for each in inside)
    return known[id(node)]


def _converted(
    node: yaml.Node, problems: Problems, above: tuple[int, ...], known: dict[int, Node | None]
) -> Node | None:
    """A node of ours; `known` are those so far: what several aliases name is converted once, or it could explode."""
    if id(node) not in known:
        known[id(node)] = _convert(node, problems, above, known)
    return known[id(node)]


def _convert(node: yaml.Node, problems: Problems, above: tuple[int, ...], known: dict[int, Node | None]) -> Node | None:
    line = node.start_mark.line + 1
    if id(node) in above:
        problems.add(line, "", "an alias (*) contains itself; write the value out")
        return None
    inside = (*above, id(node))
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, KINDS.get(node.tag, "text"), line)
    if isinstance(node, yaml.SequenceNode):
        items = [_converted(item, problems, inside, known) for item in node.value]
        return Listing(tuple(item for item in items if item is not None), line)
    assert isinstance(node, yaml.MappingNode)
    entries: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        key_line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.add(key_line, "", "a key must be a word")
        elif key.value in entries:
            problems.add(key_line, key.value, f"given twice, first in line {lines[key.value]}; keep one")
        elif (converted := _converted(value, problems, inside, known)) is not None:
            entries[key.value], lines[key.value] = converted, key_line
    return Table(entries, lines, line)
