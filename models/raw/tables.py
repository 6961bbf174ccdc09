"""Raw tables: any common file or folder as a stream of rows, which are not validated here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from models.errors import DataRejected
from models.raw.chunks import Chunk
from models.raw.compression import SUFFIXES, opened
from models.raw.delimited import read_delimited
from models.raw.encodings import check_utf8
from models.raw.files import Source, list_files, with_partition, without_secrets
from models.raw.formats import Tables, find_tables, with_format
from models.raw.json_lines import read_json
from models.raw.lines import LINE, read_sequences
from models.raw.mapping import parse_mapping
from models.raw.notes import say
from models.raw.parquet import read_parquet
from models.raw.reading import INFERRED, Format, Reading

__all__ = [
    "INFERRED",
    "LINE",
    "SUFFIXES",
    "Chunk",
    "Format",
    "Reading",
    "Source",
    "Tables",
    "check_utf8",
    "find",
    "find_tables",
    "list_files",
    "opened",
    "parse_mapping",
    "read",
    "with_format",
    "with_partition",
    "without_secrets",
]

_READERS: Mapping[str, Callable[[Source], Iterator[Chunk]]] = {
    "csv": read_delimited,
    "tsv": read_delimited,
    "jsonl": read_json,
    "sequences": read_sequences,
    "parquet": read_parquet,
}


def find(raw: str, reading: Reading = INFERRED) -> list[Source]:
    """The tables of `raw` (a file, a folder, or a URI such as s3://bucket/path), by path; see `find_tables`.

    Logs what is left out.
    """
    tables = find_tables(raw, reading)
    say(tables.notes(raw))
    return tables.sources


def read(source: Source) -> Iterator[Chunk]:
    """Stream a file in batches of bounded memory; raises DataRejected when it is damaged.

    Values of CSV and TSV are raw bytes. Folders named `key=value` add columns of text.
    """
    if not source.num_bytes and source.format != "parquet":
        return
    try:
        for chunk in _READERS[source.format](source):
            yield replace(chunk, rows=with_partition(chunk.rows, source)) if source.partition else chunk
    except PermissionError as error:
        raise DataRejected(f"cannot read {source.path}: {error.strerror}; allow this user to read it") from error
    except (OSError, pa.ArrowException) as error:
        raise DataRejected(
            f"cannot read {source.path} as {source.format}: {str(error).strip()}; "
            "the file is damaged, truncated or of another format (see --format); write it again"
        ) from None
