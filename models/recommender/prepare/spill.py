"""Spills rows to one Arrow stream per partition, so that a pass over the log needs little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.recommender.prepare.events import SPILL_SCHEMA, hash_ids
from models.recommender.schema import NUM_SHARDS


class Spill:
    """Appends rows to one Arrow stream per partition below a directory; closed by `with`."""

    def __init__(self, directory: Path, name: str, *, schema: pa.Schema = SPILL_SCHEMA) -> None:
        self._directory = directory
        self._name = name
        self._schema = schema
        self._stack = ExitStack()
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def add(self, rows: pa.Table, partition: npt.NDArray[np.uint8]) -> None:
        """Append each row to its partition."""
        order = np.argsort(partition, kind="stable")
        ordered = rows.take(pa.array(order))
        bounds = np.searchsorted(partition[order], np.arange(NUM_SHARDS + 1))
        for number in range(NUM_SHARDS):
            if bounds[number] < bounds[number + 1]:
                self._writer(number).write_table(ordered.slice(bounds[number], bounds[number + 1] - bounds[number]))

    def add_by(self, rows: pa.Table, column: str) -> None:
        """Append each row to the partition of its id in a column, which has no nulls."""
        if rows.num_rows == 0:
            return
        encoded = pc.dictionary_encode(rows[column].combine_chunks())
        partition = (hash_ids(encoded.dictionary) % NUM_SHARDS).astype(np.uint8)
        self.add(rows, partition[encoded.indices.to_numpy(zero_copy_only=False)])

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _writer(self, number: int) -> pa.ipc.RecordBatchStreamWriter:
        if number not in self._writers:
            directory = self._directory / f"{number:05d}"
            directory.mkdir(parents=True, exist_ok=True)
            sink = self._stack.enter_context(pa.OSFile(str(directory / self._name), "wb"))
            options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            self._writers[number] = self._stack.enter_context(pa.ipc.new_stream(sink, self._schema, options=options))
        return self._writers[number]


def load(directory: Path, *, schema: pa.Schema = SPILL_SCHEMA) -> pa.Table:
    """All rows that were spilled to the directory of a partition."""
    return pa.concat_tables([schema.empty_table(), *streams(directory)]).combine_chunks()


def streams(directory: Path) -> Iterator[pa.Table]:
    """The rows of each file of a partition."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
            yield stream.read_all()
