"""Renders a family's own report sections, the content types of models.report, as HTML and JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from jobs.evaluation.charts import plane
from models.report import Cell, Content, Gallery, Matrix, Picture, Plot, Section, Table

STYLE = """
.gallery{display:flex;flex-wrap:wrap;gap:14px 12px;margin:8px 0 14px}
figure{margin:0;width:104px}figure img,td img{display:block;image-rendering:auto;background:#fff;border-radius:4px}
figure img{width:104px;height:104px;object-fit:contain}
td img{width:60px;height:60px;margin:0 0 0 4px;display:inline-block;vertical-align:middle}td:has(img){padding:3px 0}
th.text,td.text{text-align:left}td.text{white-space:normal;min-width:7em}
figcaption{font-size:.78rem;line-height:1.3;color:var(--soft);margin-top:4px;overflow-wrap:anywhere}
.tiny{image-rendering:pixelated!important}
.matrix td,.matrix th{padding:3px 5px;font-size:.8rem;text-align:right;border:1px solid var(--rule)}
.matrix thead th{vertical-align:bottom;text-align:left;height:1px}
.matrix thead th span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:11em;overflow-wrap:anywhere}
.matrix{width:auto}.matrix td.own{outline:2px solid var(--model);outline-offset:-2px;font-weight:650}
.matrix td{position:relative}.matrix td i{position:absolute;inset:0;background:var(--model)}
.matrix td b{position:relative;font-weight:inherit}.matrix td.zero{color:var(--soft)}
svg .shape{stroke:var(--card);stroke-width:.7}.rest{fill:var(--base)}
.p0{fill:var(--model)}.p1{fill:var(--c1)}.p2{fill:var(--c2)}.p3{fill:var(--c3)}.p4{fill:var(--c4)}.p5{fill:var(--soft)}
svg .edge0{stroke:var(--model)}svg .edge1{stroke:var(--c1)}svg .edge2{stroke:var(--c2)}svg .edge3{stroke:var(--c3)}
svg .edge4{stroke:var(--c4)}svg .edge5{stroke:var(--soft)}
svg .guide{stroke:var(--soft);stroke-dasharray:5 5}svg .frame{fill:none;stroke:var(--rule)}
svg .tag{font-weight:650;paint-order:stroke;stroke:var(--ground);stroke-width:4px;stroke-linejoin:round}
"""

TINY_SIDE = 64
"""Images up to this width in pixels are enlarged without smoothing."""
MAX_SHADE = 0.55
"""Opacity of the largest cell of a matrix, whose number must stay readable."""


def section_html(section: Section) -> str:
    """A section with its heading and explanation."""
    parts = "".join(_content(content) for content in section.content)
    return f"<h2>{escape(section.title)}</h2><p>{escape(section.reading)}</p>{parts}"


def section_json(section: Section) -> dict[str, Any]:
    """The numbers, tables and matrices of a section; a table becomes a list of objects."""
    found: dict[str, Any] = {"title": section.title, "numbers": dict(section.numbers), "tables": {}, "matrices": []}
    for content in section.content:
        match content:
            case Table(name=name, head=head, rows=rows):
                found["tables"][name] = [_row_json(head, row) for row in rows]
            case Matrix(title=title, names=names, counts=counts):
                found["matrices"].append(
                    {"title": title, "names": list(names), "counts": [list(row) for row in counts]}
                )
    return found


def _row_json(head: Sequence[str], row: Sequence[Cell]) -> dict[str, Any]:
    return {name: cell for name, cell in zip(head, row, strict=True) if not isinstance(cell, tuple)}


def _content(content: Content) -> str:
    match content:
        case str():
            return f'<p class="small soft">{escape(content)}</p>'
        case Gallery(pictures=pictures, title=title):
            figures = "".join(f"<figure>{_image(each)}{_caption(each)}</figure>" for each in pictures)
            return f'{_heading(title)}<div class="gallery">{figures}</div>' if pictures else ""
        case Table():
            return _table(content)
        case Matrix():
            return _matrix(content)
        case Plot():
            return f"<h3>{escape(content.title)}</h3>{plane(content)}"


def _heading(title: str) -> str:
    return f"<h3>{escape(title)}</h3>" if title else ""


def _image(picture: Picture) -> str:
    content = picture.content
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    assert kind == "png" or content.startswith(b"\xff\xd8"), "an image of a report must be a PNG or JPEG file"
    # The width is at a fixed offset in the first chunk of a PNG.
    tiny = kind == "png" and int.from_bytes(content[16:20], "big") <= TINY_SIDE
    style = ' class="tiny"' if tiny else ""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return f'<img{style} alt="{escape(picture.text)}" src="{source}">'


def _caption(picture: Picture) -> str:
    return f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""


def _table(table: Table) -> str:
    first = table.rows[0] if table.rows else [""] * len(table.head)
    head = "".join(f"<th{_align(cell)}>{escape(name)}</th>" for name, cell in zip(table.head, first, strict=True))
    rows = "".join(f"<tr>{''.join(f'<td{_align(cell)}>{_cell(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    body = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{body}</details>"
    return _heading(table.title) + body


def _align(cell: Cell) -> str:
    """Text is left-aligned, numbers right-aligned."""
    return ' class="text"' if isinstance(cell, str) else ""


def _cell(cell: Cell) -> str:
    match cell:
        case tuple():
            return "".join(_image(picture) for picture in cell)
        case float():
            return "" if cell != cell else f"{cell:.3f}"
        case int():
            return f"{cell:,}"
        case _:
            return escape(cell)


def _matrix(matrix: Matrix) -> str:
    corner = escape(f"{matrix.row_title} \\ {matrix.column_title}")
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in matrix.names)
    rows = []
    for row, (name, counts) in enumerate(zip(matrix.names, matrix.counts, strict=True)):
        total = max(sum(counts), 1)
        cells = [_shaded(count, count / total, is_diagonal=row == column) for column, count in enumerate(counts)]
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f'{_heading(matrix.title)}<div class="scroll"><table class="matrix"><thead><tr><th>{corner}</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shaded(count: int, fraction: float, *, is_diagonal: bool) -> str:
    """A cell with its count, shaded by its fraction of the row."""
    style = "own" if is_diagonal else "zero" if not count else ""
    # The square root makes an error rate of a tenth visible.
    shade = f'<i style="opacity:{math.sqrt(fraction) * MAX_SHADE:.2f}"></i>' if count else ""
    return f'<td class="{style}">{shade}<b>{count:,}</b></td>' if count or is_diagonal else '<td class="zero">·</td>'
