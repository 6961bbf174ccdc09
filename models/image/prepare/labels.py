"""Labels, ids and titles of a table as text, and the words among them that mean a missing value."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.encodings import escaped, remedy_of_escaped
from models.raw.ids import as_text, nested_words

MAX_SHOWN = 80
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Texts:
    """A column as text."""

    values: list[str | None]
    """The trimmed text, None if the value is missing."""
    missing_words: list[str | None]
    """The word that stands for a missing value, such as `None` or `NA`."""
    unreadable: list[str | None]
    r"""The value if it is not text: bytes that are not UTF-8, written as \xff, or an inexact number."""


def read_texts(rows: pa.Table, name: str | None) -> Texts:
    """A column of any scalar type; all missing if the column does not exist."""
    nothing: list[str | None] = [None] * rows.num_rows
    if name is None or name not in rows.column_names:
        return Texts(nothing, nothing, nothing)
    column = rows[name].combine_chunks()
    if column.type == pa.bool_():
        column = pc.if_else(column, pa.scalar("True"), pa.scalar("False"))
    text, is_unreadable = as_text(column)
    values, bad = text.to_pylist(), is_unreadable.to_pylist()
    if not text.null_count and not any(bad):
        return Texts(values, nothing, nothing)
    originals = [None if value is None else _plain(value).strip() for value in column.to_pylist()]
    return Texts(
        [None if wrong else value for value, wrong in zip(values, bad, strict=True)],
        [
            shown(original) if original and value is None and not wrong else None
            for value, original, wrong in zip(values, originals, bad, strict=True)
        ],
        [original if wrong else None for original, wrong in zip(originals, bad, strict=True)],
    )


def read_labels(rows: pa.Table, name: str | None, *, path: str) -> Texts:
    """A label column: names equal up to blanks and Unicode forms are one; raises DataRejected for lists."""
    if name in rows.column_names:
        check_is_scalar(rows.schema.field(name), path=path)
    texts = read_texts(rows, name)
    labels = [None if value is None else class_name(value) or None for value in texts.values]
    return Texts(labels, texts.missing_words, texts.unreadable)


def unreadable(value: str, *, flag: str) -> tuple[str, str]:
    """Reason and remedy for a value of `Texts.unreadable`; `flag` sets the encoding of the file."""
    remedy = remedy_of_escaped(value, flag=flag)
    return ("not_utf8", remedy) if remedy else ("inexact_number", "write it as text")


def check_is_scalar(column: pa.Field, *, path: str) -> None:
    """Reject a label column that holds lists or objects."""
    if pa.types.is_nested(column.type):
        raise DataRejected(
            f"{path}: column {column.name!r} holds {nested_words(column.type)}, but a label is one value per image; "
            f"write a column for each value, e.g. {column.name}_1, and name it in --labels"
        )


def class_name(text: str) -> str:
    """A class name in its normal form: NFC, trimmed, with single blanks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _plain(value: object) -> str:
    return escaped(value) if isinstance(value, bytes) else str(value)


def shown(value: object) -> str:
    """A value for a message: printable and short."""
    text = _plain(value)
    text = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
