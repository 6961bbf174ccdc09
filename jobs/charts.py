"""Small pictures as inline SVG: bars with intervals and lines; their colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
LABEL_WIDTH = 190
VALUE_WIDTH = 150
ROW_HEIGHT = 30
BAR_HEIGHT = 14
LINES_HEIGHT = 260


@dataclass(frozen=True)
class Bar:
    """One bar with an interval and, where given, a second mark to compare with."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""
    """Small print behind the value."""
    style: str = "model"
    """CSS class of the bar: model or baseline."""
    mark: float | None = None
    """Where the thing to compare with stands."""


def bars(rows: Sequence[Bar], *, title: str, text: str) -> str:
    """Horizontal bars, one a row, on one scale from 0 (or the lowest value below it); `text` formats a value."""
    known = [row for row in rows if not math.isnan(row.value)]
    ends = [end for row in known for end in (row.low, row.high, row.value, row.mark or 0.0) if not math.isnan(end)]
    lowest, highest = min([0.0, *ends]), max([0.0, *ends]) or 1.0
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH

    def x(value: float) -> float:
        return LABEL_WIDTH + (value - lowest) / (highest - lowest) * room

    parts = []
    for place, row in enumerate(known):
        middle = place * ROW_HEIGHT + ROW_HEIGHT / 2
        left, right = sorted((x(0.0), x(row.value)))
        parts.append(_text(LABEL_WIDTH - 10, middle, row.label, "label", anchor="end"))
        parts.append(
            f'<rect class="bar {row.style}" x="{left:.1f}" y="{middle - BAR_HEIGHT / 2:.1f}" '
            f'width="{max(right - left, 1):.1f}" height="{BAR_HEIGHT}" rx="2"/>'
        )
        if row.mark is not None:
            parts.append(_line(x(row.mark), middle - 10, x(row.mark), middle + 10, "mark"))
        parts.append(_whisker(x(row.low), x(row.high), middle))
        parts.append(_text(LABEL_WIDTH + room + 12, middle, text.format(row.value), "value"))
        parts.append(_text(WIDTH, middle, row.note, "note", anchor="end"))
    return _picture(len(known) * ROW_HEIGHT, title, parts)


def lines(series: Mapping[str, Mapping[int, float]], *, title: str, axis: str) -> str:
    """One line per name over whole numbers, evenly spaced; the first is the model's."""
    places = sorted({place for points in series.values() for place in points})
    highest = max(value for points in series.values() for value in points.values()) or 1.0
    bottom, top, left, right = LINES_HEIGHT - 44.0, 12.0, 60.0, WIDTH - 190.0
    step = (right - left) / max(len(places) - 1, 1)

    def xy(place: int, value: float) -> tuple[float, float]:
        return left + places.index(place) * step, bottom - value / highest * (bottom - top)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        parts += [_line(left, y, right, y, "grid"), _text(left - 8, y, f"{share * highest:.3g}", "note", anchor="end")]
    for place in places:
        parts.append(_text(xy(place, 0)[0], bottom + 16, str(place), "note", anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 36, axis, "note", anchor="middle"))
    ends = _spread({name: xy(max(points), points[max(points)])[1] for name, points in series.items()})
    for number, (name, points) in enumerate(series.items()):
        corners = [xy(place, value) for place, value in sorted(points.items())]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polyline class="line{number}" points="{joined}"/>')
        parts += [f'<circle class="dot{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in corners]
        parts.append(_text(right + 12, ends[name], name, f"name{number}"))
    return _picture(LINES_HEIGHT, title, parts)


def _spread(wanted: Mapping[str, float], gap: float = 16.0) -> dict[str, float]:
    """Heights of labels, moved so that none lies over another."""
    placed: dict[str, float] = {}
    lowest = math.inf
    for name, y in sorted(wanted.items(), key=lambda pair: -pair[1]):
        lowest = min(y, lowest - gap)
        placed[name] = lowest
    return placed


def _picture(height: float, title: str, parts: Sequence[str]) -> str:
    name = escape(title)
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{name}"><title>{name}</title>'
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
