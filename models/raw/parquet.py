"""Reads Parquet files, also compressed as a whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from models.raw.chunks import Chunk, with_fields
from models.raw.compression import compression_of, opened
from models.raw.encodings import BLOCK_BYTES
from models.raw.files import Source

BATCH_ROWS = 131_072


def read_parquet(source: Source) -> Iterator[Chunk]:
    """The rows of a Parquet file; fields of nested columns become columns."""
    with tempfile.TemporaryFile() as plain, source.filesystem.open_input_file(source.path) as file:
        seekable: pa.NativeFile = file
        if compression_of(file.read(8)) is not None:  # Parquet needs seeking, which a compressed stream cannot do
            with opened(source) as stream:
                shutil.copyfileobj(stream, plain)
            seekable = pa.PythonFile(plain, mode="r")
        file.seek(0)
        for batch in pq.ParquetFile(seekable, buffer_size=BLOCK_BYTES).iter_batches(batch_size=BATCH_ROWS):
            yield Chunk(with_fields(pa.Table.from_batches([batch])), {})
