"""Sections that a family adds to an evaluation report, as typed content without HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """A small image."""

    content: bytes
    """A PNG or JPEG file of a few kilobytes; the report embeds it."""
    text: str
    """Alternative text."""
    caption: str = ""


Cell = str | int | float | tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    pictures: Sequence[Picture]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table; in the report's JSON it has its name, and no images."""

    name: str
    """Lower-case words joined by underscores, e.g. `classes_of_colour`; unique in a report."""
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """A float is a share or a score and is shown with three decimals."""
    title: str = ""
    folded: bool = False
    """Whether the table is collapsed until its title is clicked."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of counts, such as a confusion matrix, each cell shaded by its share of the row."""

    names: Sequence[str]
    """Names of the rows and, in the same order, of the columns."""
    counts: Sequence[Sequence[int]]
    row_title: str
    column_title: str
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """A scatter or line plot, each series with its own marker and colour."""

    title: str
    """Also the alternative text."""
    series: Mapping[str, Sequence[tuple[float, float]]]
    """Name -> (x, y) of each point; a series without points is left out."""
    axes: tuple[str, str] | None
    """Labels of x and y, both from 0 to 1; None for an embedding map, whose coordinates have no meaning."""
    joined: bool = False
    """Whether consecutive points are connected by lines."""
    rest: str = ""
    """Name of the background series, which is small, grey and not labelled."""
    diagonal: str = ""
    """Label of the line x = y; if empty, the line is not drawn."""


Content = Gallery | Table | Matrix | Plot | str
"""A string is a paragraph of plain text."""


@dataclass(frozen=True)
class Section:
    """One section of a report."""

    title: str
    reading: str
    """One plain sentence on how to read it."""
    content: Sequence[Content]
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Metric name, lower-case words joined by underscores -> value; tracked with the metrics of the split."""
