from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from . import DataType, NativeFile, Schema, Table

class InvalidRow:
    @property
    def text(self) -> str: ...

class ReadOptions:
    def __init__(self, *, block_size: int | None = None, column_names: list[str] | None = None) -> None: ...

class ParseOptions:
    def __init__(
        self,
        delimiter: str | None = None,
        *,
        quote_char: str | Literal[False] | None = None,
        newlines_in_values: bool | None = None,
        invalid_row_handler: Callable[[InvalidRow], Literal["skip", "error"]] | None = None,
    ) -> None: ...

class ConvertOptions:
    def __init__(
        self,
        *,
        column_types: dict[str, DataType] | None = None,
        include_columns: list[str] | None = None,
        null_values: list[str] | None = None,
        strings_can_be_null: bool | None = None,
    ) -> None: ...

def read_csv(
    input_file: NativeFile | str,
    read_options: ReadOptions | None = None,
    parse_options: ParseOptions | None = None,
    convert_options: ConvertOptions | None = None,
) -> Table: ...

class CSVWriter:
    def __init__(self, sink: Path, schema: Schema) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    def write_table(self, table: Table) -> None: ...

def write_csv(data: Table, output_file: Path) -> None: ...
