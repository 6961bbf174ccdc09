"""Charts as inline SVG: bars with intervals, lines, scatter plots; styled by the page's style sheet."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from models.report import Plot

WIDTH = 760
LABEL_WIDTH = 190
VALUE_WIDTH = 150
ROW_HEIGHT = 30
BAR_HEIGHT = 14
LINES_HEIGHT = 260
MAX_TICKS = 15
"""Labels of the horizontal axis that fit next to each other."""
FLAT_MARGIN = 0.01
"""Scale around a line of equal values, so that its labels are near its value."""
PLANE_HEIGHT = 430
SHAPES = (
    "M0-4A4 4 0 1 1 0 4A4 4 0 1 1 0-4Z",
    "M-3.5-3.5H3.5V3.5H-3.5Z",
    "M0-4.6L4.4 3.4H-4.4Z",
    "M0-5L4.5 0L0 5L-4.5 0Z",
    "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
    "M0 4.6L4.4-3.4H-4.4Z",
    "M-4.2-2.4L-2.4-4.2L0-1.8L2.4-4.2L4.2-2.4L1.8 0L4.2 2.4L2.4 4.2L0 1.8L-2.4 4.2L-4.2 2.4L-1.8 0Z",
)
"""Circle, square, triangle, diamond, plus, triangle upside down, cross."""
NUM_COLOURS = 6
"""Classes p0 .. p5 of the style sheet; with 7 shapes they distinguish 42 series."""
REST = -1
TAG_HEIGHT = 16.0


@dataclass(frozen=True)
class Bar:
    """One bar with an interval and, optionally, a reference mark."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""
    """Small print next to the value."""
    style: str = "model"
    """CSS class of the bar: model, baseline or champion."""
    marks: Mapping[str, float] = field(default_factory=dict)
    """CSS class of a reference mark -> its value."""


def bars(rows: Sequence[Bar], *, title: str, text: str, others: Sequence[Bar] = ()) -> str:
    """Horizontal bars, one per row, on a scale that includes 0; `text` formats a value.

    The scale also covers `others`, bars of another chart with the same scale.
    """
    known = [row for row in rows if not math.isnan(row.value)]
    scaled = [*known, *(row for row in others if not math.isnan(row.value))]
    ends = [end for row in scaled for end in (row.low, row.high, row.value, *row.marks.values()) if not math.isnan(end)]
    lowest, highest = min([0.0, *ends]), max([0.0, *ends]) or 1.0
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH

    def x(value: float) -> float:
        return LABEL_WIDTH + (value - lowest) / (highest - lowest) * room

    parts = []
    for index, row in enumerate(known):
        middle = index * ROW_HEIGHT + ROW_HEIGHT / 2
        left, right = sorted((x(0.0), x(row.value)))
        parts.append(_text(LABEL_WIDTH - 10, middle, row.label, "label", anchor="end"))
        parts.append(
            f'<rect class="bar {row.style}" x="{left:.1f}" y="{middle - BAR_HEIGHT / 2:.1f}" '
            f'width="{max(right - left, 1):.1f}" height="{BAR_HEIGHT}" rx="2"/>'
        )
        parts += [_line(x(mark), middle - 10, x(mark), middle + 10, style) for style, mark in row.marks.items()]
        parts.append(_whisker(x(row.low), x(row.high), middle))
        parts.append(_text(LABEL_WIDTH + room + 12, middle, text.format(row.value), "value"))
        parts.append(_text(WIDTH, middle, row.note, "note", anchor="end"))
    spoken = "; ".join(f"{row.label}: {text.format(row.value)}" for row in known)
    return _svg(len(known) * ROW_HEIGHT, title, parts, description=spoken)


def lines(series: Mapping[str, Mapping[int, float]], *, title: str, axis: str, from_zero: bool = True) -> str:
    """One line per name over evenly spaced integers; the first is the model's. The scale covers 0 if `from_zero`."""
    positions = sorted({x for points in series.values() for x in points})
    values = [value for points in series.values() for value in points.values()]
    lowest, highest = min([0.0, *values] if from_zero else values), max([0.0, *values] if from_zero else values)
    if lowest == highest:
        lowest, highest = lowest - FLAT_MARGIN, highest + FLAT_MARGIN
    span = highest - lowest
    bottom, top, left, right = LINES_HEIGHT - 44.0, 12.0, 60.0, WIDTH - 190.0
    step = (right - left) / max(len(positions) - 1, 1)

    def xy(position: int, value: float) -> tuple[float, float]:
        return left + positions.index(position) * step, bottom - (value - lowest) / span * (bottom - top)

    parts = []
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - fraction * (bottom - top)
        label = f"{lowest + fraction * span:.3g}"
        parts += [_line(left, y, right, y, "grid"), _text(left - 8, y, label, "note", anchor="end")]
    for position in positions[:: math.ceil(len(positions) / MAX_TICKS)]:
        parts.append(_text(xy(position, 0)[0], bottom + 16, str(position), "note", anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 36, axis, "note", anchor="middle"))
    ends = _spread({name: xy(max(points), points[max(points)])[1] for name, points in series.items()})
    for number, (name, points) in enumerate(series.items()):
        corners = [xy(position, value) for position, value in sorted(points.items())]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polyline class="line{number}" points="{joined}"/>')
        parts += [f'<circle class="dot{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in corners]
        parts.append(_text(right + 12, ends[name], name, f"name{number}"))
    return _svg(LINES_HEIGHT, title, parts)


def plane(plot: Plot) -> str:
    """A scatter plot in a square, with a legend next to it."""
    series = {name: points for name, points in plot.series.items() if points}
    left, top, side = (46.0, 10.0, PLANE_HEIGHT - 56.0) if plot.axes else (2.0, 2.0, PLANE_HEIGHT - 4.0)
    ends = ((0.0, 1.0), (0.0, 1.0)) if plot.axes else _ends(series)

    def xy(point: tuple[float, float]) -> tuple[float, float]:
        across, up = ((value - low) / (high - low) for value, (low, high) in zip(point, ends, strict=True))
        return left + across * side, top + (1 - up) * side

    parts = [f'<rect class="frame" x="{left:.0f}" y="{top:.0f}" width="{side:.0f}" height="{side:.0f}"/>']
    parts += _axes(plot.axes, left, top, side) if plot.axes else []
    key = left + side + 24
    if plot.diagonal:
        parts += [_line(*xy((0, 0)), *xy((1, 1)), "guide"), _line(key - 6, top + 8, key + 14, top + 8, "guide")]
        parts.append(_text(key + 22, top + 8, plot.diagonal, "note"))
    first = top + (32 if plot.diagonal else 8)
    step = min(22.0, (PLANE_HEIGHT - first - 8) / max(len(series), 1))
    # The rest is drawn first, below the others.
    looks = {name: look for look, name in enumerate(name for name in series if name != plot.rest)} | {plot.rest: REST}
    for name in sorted(series, key=lambda name: name != plot.rest):
        parts += _series([xy(point) for point in series[name]], looks[name], joined=plot.joined)
    for index, name in enumerate(series):
        y = first + index * step
        parts += [_mark(looks[name], key, y), _text(key + 14, y, name, "label")]
    if not plot.axes:
        parts += _tags({name: [xy(each) for each in points] for name, points in series.items() if name != plot.rest})
    return _svg(PLANE_HEIGHT, plot.title, parts)


def _ends(series: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[tuple[float, float], ...]:
    """The ranges of x and y with a margin."""
    found = []
    for axis in (0, 1):
        values = [point[axis] for points in series.values() for point in points] or [0.0]
        room = 0.03 * (max(values) - min(values)) or 1.0
        found.append((min(values) - room, max(values) + room))
    return tuple(found)


def _axes(names: tuple[str, str], left: float, top: float, side: float) -> list[str]:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = top + (1 - tick) * side, left + tick * side
        parts += [_line(left, y, left + side, y, "grid"), _text(left - 8, y, f"{tick:g}", "note", anchor="end")]
        parts += [
            _line(x, top, x, top + side, "grid"),
            _text(x, top + side + 14, f"{tick:g}", "note", anchor="middle"),
        ]
    parts.append(_text(left + side / 2, top + side + 34, names[0], "note", anchor="middle"))
    upright = _text(10, top + side / 2, names[1], "note", anchor="middle")
    return [*parts, f'<g transform="rotate(-90 10 {top + side / 2:.0f})">{upright}</g>']


def _series(points: Sequence[tuple[float, float]], look: int, *, joined: bool) -> list[str]:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = [f'<polyline class="edge{look % NUM_COLOURS}" points="{corners}"/>'] if joined else []
    return line + [_mark(look, x, y) for x, y in points]


def _mark(look: int, x: float, y: float) -> str:
    if look == REST:
        return f'<circle class="shape rest" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'
    shape, colour = SHAPES[look % len(SHAPES)], look % NUM_COLOURS
    return f'<path class="shape p{colour}" transform="translate({x:.1f} {y:.1f})" d="{shape}"/>'


def _tags(series: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Each name at the most central of its points, moved down if it would overlap another."""
    placed: list[tuple[float, float, float]] = []
    parts = []
    for name, points in series.items():
        middle = tuple(statistics.median(values) for values in zip(*points, strict=True))
        x, y = min(points, key=lambda point: math.dist(point, middle))
        width = TAG_HEIGHT / 2 * len(name)
        for other_x, other_y, other_width in sorted(placed, key=lambda tag: tag[1]):
            if abs(x - other_x) < (width + other_width) / 2 and abs(y - other_y) < TAG_HEIGHT:
                y = other_y + TAG_HEIGHT
        placed.append((x, y, width))
        parts.append(_text(x, y, name, "tag", anchor="middle"))
    return parts


def _spread(wanted: Mapping[str, float], gap: float = 16.0) -> dict[str, float]:
    """Vertical positions of labels, moved apart so that none overlap."""
    placed: dict[str, float] = {}
    lowest = math.inf
    for name, y in sorted(wanted.items(), key=lambda pair: -pair[1]):
        lowest = min(y, lowest - gap)
        placed[name] = lowest
    return placed


def _svg(height: float, title: str, parts: Sequence[str], *, description: str = "") -> str:
    """The chart; the description is for screen readers, which do not read the text inside of an image."""
    name, spoken = escape(title), escape(f"{title}. {description}" if description else title)
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{spoken}"><title>{name}</title>'
    return f"{head}{''.join(parts)}</svg>"


def _whisker(low: float, high: float, middle: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    ends = [_line(x, middle - 4, x, middle + 4, "whisker") for x in (low, high)]
    return _line(low, middle, high, middle, "whisker") + "".join(ends)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, style: str, *, anchor: str = "start") -> str:
    position = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{style}" {position} dominant-baseline="central">{escape(text)}</text>' if text else ""
