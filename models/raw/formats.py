"""The tables below a path: which files are tables, in which formats, and which files are left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import get_args

from models.errors import DataRejected
from models.raw.compression import SUFFIXES, member_name
from models.raw.dialect import looks_delimited
from models.raw.encodings import text_blocks
from models.raw.files import Source, all_files, without_secrets
from models.raw.notes import num_files
from models.raw.reading import INFERRED, Format, Reading

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
TABLE_SUFFIXES = (*_FORMATS, *_SPREADSHEETS, *SUFFIXES)
"""Suffixes of the names of tables, of which spreadsheets are not read, and of compressed files."""
_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Tables:
    """The tables below a path, and which other files there are and why they are not read."""

    sources: list[Source]
    left_out: dict[str, str]
    """Path of a file, relative to the given folder -> why it is left out."""

    def summary(self) -> dict[str, int]:
        """The number of files that are left out for each reason and suffix, with an example."""
        groups: dict[tuple[str, str], list[str]] = {}
        for name, why in self.left_out.items():
            groups.setdefault((PurePosixPath(name).suffix, why), []).append(name)
        return {f"{names[0]}: {why}": len(names) for (_, why), names in groups.items()}

    def notes(self, raw: str) -> list[str]:
        """What is left out of `raw`, in words."""
        return [
            f"left out of {without_secrets(raw)}: {what} ({num_files(count)})" for what, count in self.summary().items()
        ]


def find_tables(raw: str, reading: Reading = INFERRED) -> Tables:
    """The tables of `raw` (a file, a folder, or a URI), by path; raises DataRejected.

    In a folder with tables, files of other formats are left out. Files named .txt are sequences if they hold lines of
    words, and read as CSV if they hold lines with commas, semicolons or bars.
    """
    files, hidden = all_files(raw, reading)
    left_out = {file.relative: "hidden" for file in hidden if _has_table_name(file)}
    if reading.format != "auto":
        return Tables([replace(file, format=reading.format) for file in files], left_out)
    known = {file.relative: format for file in files if (format := _format_of(file)) is not None}
    if not known:
        raise _unknown(files[0])
    tables = [replace(file, format=known[file.relative]) for file in files if file.relative in known]
    left_out |= {file.relative: "not the name of a table" for file in files if file.relative not in known}
    if len({table.format == "sequences" for table in tables}) == 2:
        left_out |= {table.relative: "text next to tables" for table in tables if table.format == "sequences"}
        tables = [table for table in tables if table.format != "sequences"]
    return Tables(tables, left_out)


def with_format(source: Source) -> Source:
    """The file with its format, which is inferred from its name unless it is set; raises DataRejected."""
    found = _format_of(source) if source.reading.format == "auto" else source.reading.format
    if found is None:
        raise _unknown(source)
    return replace(source, format=found)


def _has_table_name(file: Source) -> bool:
    name = PurePosixPath(file.relative.lower())
    suffix = name.with_suffix("").suffix if name.suffix in SUFFIXES else name.suffix
    return suffix in _FORMATS and not any(part.startswith("_") for part in name.parts)


def _format_of(file: Source) -> str | None:
    name = PurePosixPath(PurePosixPath(file.path).name.lower())
    if name.suffix in SUFFIXES:
        inner = name.with_suffix("")
        if name.suffix == ".zip" and inner.suffix not in _FORMATS:
            inner = PurePosixPath(member_name(file).lower())
        name = inner
    found = _FORMATS.get(name.suffix)
    return _format_of_text(file) if found == "text" else found


def _format_of_text(file: Source) -> str:
    try:
        blocks = text_blocks(replace(file, format="sequences")) if file.num_bytes else iter(())
        sample = next(blocks, b"")[:_SAMPLE_BYTES]
    except OSError:  # it cannot be opened: the error comes when it is read
        return "sequences"
    return "csv" if looks_delimited(sample) else "sequences"


def _unknown(file: Source) -> DataRejected:
    choices = ", ".join(choice for choice in get_args(Format) if choice != "auto")
    if file.path.lower().endswith(_SPREADSHEETS):
        return DataRejected(f"{file.path} is a spreadsheet, which is not read; save the sheet as CSV")
    return DataRejected(
        f"cannot infer the format of {file.path} from its name; set --format to one of {choices} "
        f"(also compressed: {', '.join(SUFFIXES)})"
    )
