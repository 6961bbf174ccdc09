"""Files of raw data on any filesystem: which there are below a path, and the columns that their folders name."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs

from models.errors import DataRejected
from models.raw.reading import INFERRED, Reading

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The value of a `key=value` folder that stands for a missing value."""
_BOOKKEEPING = re.compile(
    r"^(\..*|_SUCCESS|_metadata|_common_metadata|_started_.*|_committed_.*|_temporary"
    r"|_delta_log|_change_data|_spark_metadata|_symlink_format_manifest)$"
)
"""Hidden files, and the files and folders of Spark and Delta Lake that are not data."""


@dataclass(frozen=True)
class Source:
    """One file of raw data on any filesystem that pyarrow supports."""

    filesystem: pyarrow.fs.FileSystem
    path: str
    format: str
    num_bytes: int
    relative: str = ""
    """Path relative to the given folder; just the name of a file that was given itself."""
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns named by the `key=value` folders between the given folder and the file, with their values."""
    reading: Reading = INFERRED


def list_files(raw: str, reading: Reading = INFERRED) -> list[Source]:
    """The files of `raw` (a file, a folder, or a URI such as s3://bucket/path), by path; raises DataRejected.

    Hidden files and the bookkeeping of Spark are left out. Formats are not determined.
    """
    return all_files(raw, reading)[0]


def all_files(raw: str, reading: Reading) -> tuple[list[Source], list[Source]]:
    """The files of `raw` that are data, and those that are hidden or bookkeeping of Spark, both by path.

    Raises DataRejected if none is data.
    """
    try:
        filesystem, path = _filesystem(raw)
        info = filesystem.get_file_info(path)
        is_folder = info.type == pyarrow.fs.FileType.Directory
        listed = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True)) if is_folder else [info]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataRejected(f"cannot read {without_secrets(raw)}: {without_secrets(str(error))}") from None
    above = path if is_folder else str(PurePosixPath(path).parent)
    data: list[Source] = []
    hidden: list[Source] = []
    for entry in sorted((entry for entry in listed if entry.is_file), key=lambda entry: entry.path):
        relative = entry.path.removeprefix(above).lstrip("/")
        parts = PurePosixPath(relative).parts
        is_hidden = is_folder and any(_BOOKKEEPING.match(part) for part in parts)
        source = Source(filesystem, entry.path, "", entry.size, relative, _partition(parts[:-1]), reading)
        (hidden if is_hidden else data).append(source)
    if not data:
        only = f" but hidden ones, such as {hidden[0].relative}" if hidden else ""
        raise DataRejected(
            f"{without_secrets(raw)} does not exist or holds no files{only}; "
            "give a file, a folder or a URI such as s3://b/p"
        )
    return data, hidden


def with_partition(rows: pa.Table, source: Source) -> pa.Table:
    """Rows with the columns that the folders of their file name; a column of the file itself takes precedence."""
    for name, value in source.partition:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), rows.num_rows))
    return rows


def without_secrets(text: str) -> str:
    """A text without the credentials that a URI such as s3://KEY:SECRET@bucket/path may contain."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def _filesystem(raw: str) -> tuple[pyarrow.fs.FileSystem, str]:
    if "://" in raw:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(raw)
        return filesystem, path
    return pyarrow.fs.LocalFileSystem(), str(Path(raw).expanduser().resolve())


def _partition(folders: tuple[str, ...]) -> tuple[tuple[str, str | None], ...]:
    pairs = [folder.partition("=") for folder in folders if "=" in folder]
    values = {urllib.parse.unquote(key): urllib.parse.unquote(value) for key, _, value in pairs if key}
    return tuple((key, None if value == NULL_PARTITION else value) for key, value in values.items())
