"""The parts of the input of batch prediction: rows of Parquet files, or files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.family import RawBody

ROWS_PER_PART = 10_000
FILES_PER_PART = 200
"""Smaller, since files are larger than rows and a part is held in memory."""
FILE = "file"
"""Output column for a folder of files: the path relative to the folder."""


@dataclass(frozen=True)
class Part:
    """A unit of work: rows of the input whose answers go to one file."""

    number: int
    path: Path
    row_group: int
    start: int
    num_rows: int
    files: tuple[str, ...] = ()
    """For a folder of files: their paths relative to `path`."""
    raw: RawBody | None = None
    """How each of these files becomes a request."""

    @property
    def file_name(self) -> str:
        """Name of the output file; sorts in the order of the input."""
        return f"part-{self.number:05d}.parquet"


def plan_parts(files: Sequence[Path]) -> list[Part]:
    """The parts of Parquet files: their row groups, with large ones split."""
    parts: list[Part] = []
    for path in files:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            for start in range(0, size, ROWS_PER_PART):
                parts.append(Part(len(parts), path, group, start, min(ROWS_PER_PART, size - start)))
    # An empty table gives an empty output.
    return parts or [Part(0, files[0], -1, 0, 0)]


def plan_files(folder: Path, names: Sequence[str], raw: RawBody) -> list[Part]:
    """The parts of a folder in which each file is a request; `names` are relative to the folder."""
    groups = [tuple(names[start : start + FILES_PER_PART]) for start in range(0, len(names), FILES_PER_PART)]
    return [Part(number, folder, -1, 0, len(group), group, raw) for number, group in enumerate(groups)]


def read_part(part: Part) -> pa.Table:
    """The rows of a part; raises DataRejected for a damaged file."""
    if part.raw is not None:
        contents = [read_file(part.path / name, part.raw) for name in part.files]
        return pa.table({FILE: list(part.files), part.raw.field: pa.array(contents, pa.binary())})
    file = pq.ParquetFile(part.path)
    if part.row_group < 0:
        return file.schema_arrow.empty_table()
    try:
        return file.read_row_group(part.row_group).slice(part.start, part.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRejected(f"{part.path} is damaged in row group {part.row_group}: {error}; write it again") from None


def read_file(path: Path, raw: RawBody) -> bytes:
    """The content of a file; of one over the size limit, just enough to be rejected."""
    with path.open("rb") as file:
        return file.read(raw.max_bytes + 1)
