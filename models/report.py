"""What a family has to say of a model beyond its metrics, as typed content for a report; there is no HTML in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """A small picture."""

    content: bytes
    """A PNG or JPEG file; the report carries it, so a few kilobytes."""
    text: str
    """What there is to see, for who cannot see it."""
    caption: str = ""


Cell = str | int | float | tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: Sequence[Picture]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of a table; programs get it by its name, without the pictures."""

    name: str
    """Plain words joined by underscores, e.g. `classes_of_colour`; once in a report."""
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """A float is a share or a score and is shown to three places."""
    title: str = ""
    folded: bool = False
    """Whether a long table waits behind its title until it is asked for."""


@dataclass(frozen=True)
class Matrix:
    """Counts of pairs, each cell shaded by its share of its row."""

    names: Sequence[str]
    """Of the rows and, in the same order, of the columns."""
    counts: Sequence[Sequence[int]]
    row_title: str
    column_title: str
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """Points in a plane, each series with a shape and a colour of its own."""

    title: str
    """What there is to see; also for who cannot see it."""
    series: Mapping[str, Sequence[tuple[float, float]]]
    """Name -> (x, y) of each point; a series without points is left out."""
    axes: tuple[str, str] | None
    """What x and y are, both from 0 to 1; None for a map, whose places mean nothing by themselves."""
    joined: bool = False
    """Whether a line leads from each point to the next."""
    rest: str = ""
    """The series that is only there for completeness: small, grey and without a name on the map."""
    diagonal: str = ""
    """What the line x = y stands for; none is not drawn."""


Content = Gallery | Table | Matrix | Plot | str
"""A string is a paragraph of plain text."""


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    title: str
    reading: str
    """One plain sentence that says how to read it."""
    content: Sequence[Content]
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Metric name, plain words joined by underscores -> value; tracked beside the metrics of the split."""
