"""Converts table rows to requests and answers to rows: one model over one table, with a column for errors."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from jobs.prediction.annotations import bare
from jobs.prediction.cells import coerced, is_id
from jobs.prediction.input_table import UNREADABLE, Columns
from jobs.prediction.parts import read_file
from models import FAMILIES, bundle
from models.ask import Answerer
from models.erasure.features import silenced
from models.erasure.tombstones import Tombstones
from models.family import AnyEndpoint, RawBody
from models.features import FeatureStore, filled, read_stores
from models.nn.memory import keep_freed_memory
from models.raw.ids import as_text
from models.time_limit import TimedThreads

ERROR = "error"
MODEL_VERSION = "model_version"
NUM_LONG_ANSWERS = 4
"""Maximum number of answers stuck past their time limit; after that, rows get an error."""
Encoded = tuple[int, BaseModel, list[Any]]
"""Index of a row, its request, and the examples of the request."""


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to answer rows; small, so that it can be sent to any process."""

    family: str
    model: Path
    """Model directory."""
    model_version: str
    features: Path | None
    """SQLite file of the features that jobs fill; None if the family has none."""
    live_features: Path | None
    """SQLite file of the features that endpoints write, if there is one."""
    fixed: Mapping[str, Any]
    """Fields for every request."""
    batch_size: int
    columns: Columns
    """Which columns of the table are read and copied."""
    erased: Path | None = None
    """The tombstones of erased users, who are answered as unknown ones; the file need not exist."""


class TableAnswerer:
    """A loaded model that answers tables; one per process.

    It reads the features that endpoints write but does not write any: an endpoint's `update` is skipped.
    """

    def __init__(self, recipe: Recipe, *, to_cells: Callable[[BaseModel], dict[str, Any]] | None = None) -> None:
        self._recipe, self._to_cells = recipe, to_cells or _cells
        self._family = FAMILIES[recipe.family]
        self._endpoint: AnyEndpoint = self._family.endpoints[0]
        self._features = FeatureStore(recipe.features, read_only=True) if recipe.features else None
        self._live_features = FeatureStore(recipe.live_features, read_only=True) if recipe.live_features else None
        tombstones = Tombstones(recipe.erased) if recipe.erased else None
        self._asked_features = silenced(self._family.features, tombstones)
        self._threads = TimedThreads(NUM_LONG_ANSWERS)
        loaded = bundle.load(recipe.model, self._family)
        keep_freed_memory()
        self._answerer = Answerer(self._family, self._endpoint, loaded.network, loaded.schema, recipe.model_version)

    def answer(self, table: pa.Table) -> pa.Table:
        """The table with the columns of the answers and `error`, which is null for answered rows."""
        answered: list[dict[str, Any]] = []
        requests = self._request_table(table)
        for start in range(0, table.num_rows, self._recipe.batch_size):
            rows = requests.slice(start, self._recipe.batch_size).to_pylist()
            answered += self.answer_rows(rows)
        table = table.select(list(self._recipe.columns.copied))
        for field in answer_schema(self._endpoint.Response):
            table = table.append_column(field, pa.array([row.get(field.name) for row in answered], field.type))
        return table

    def _request_table(self, table: pa.Table) -> pa.Table:
        """The columns of the requests, under the names of their fields, with ids in one form."""
        fields, columns = self._endpoint.Request.model_fields, {}
        for name, column in self._recipe.columns.fields.items():
            values = table[column]
            is_scalar = not pa.types.is_nested(values.type)
            columns[name] = as_text(values.combine_chunks())[0] if is_scalar and is_id(fields[name]) else values
        if UNREADABLE in table.column_names:
            columns[UNREADABLE] = table[UNREADABLE]
        return pa.table(columns)

    def answer_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The cells of the answers to a batch of rows, or `error` instead."""
        answered: list[dict[str, Any]] = [{} for _ in rows]
        encoded = []
        for index, row in enumerate(rows):
            try:
                request = self._request(row)
                self._check_features(request)
                found = read_stores(
                    self._asked_features, request, filled_store=self._features, live_store=self._live_features
                )
                encoded.append((index, request, self._answerer.encode(request, found.values)))
            except ValueError as error:
                answered[index] = {ERROR: _reason(error)}
        for index, request, predictions in self._predict(encoded):
            answered[index] = self._answer(request, predictions)
        return answered

    def _request(self, row: Mapping[str, Any]) -> BaseModel:
        fields = self._endpoint.Request.model_fields
        if row.get(UNREADABLE):
            raise ValueError(row[UNREADABLE])
        given = {name: coerced(value, fields[name].annotation) for name, value in row.items() if name in fields}
        raw, folder = self._endpoint.raw, self._recipe.columns.paths_from
        if raw is not None and folder is not None and given.get(raw.field):
            given[raw.field] = _file_content(folder, given[raw.field], raw)
        given = {name: value for name, value in given.items() if value is not None}
        request: BaseModel = self._endpoint.Request(**{**self._recipe.fixed, **given})
        return request

    def _check_features(self, request: BaseModel) -> None:
        """Raise ValueError for a request that needs the feature store if there is none."""
        if self._features is None:
            for feature in filled(self._family.features):
                if keys := feature.keys(request):
                    raise ValueError(
                        f"{feature.name} of {keys[0]!r} is in the feature store, which is not open here; give it in "
                        'the request, or load the model with model_config={"features": PATH_OF_FEATURES_SQLITE}'
                    )

    def _predict(self, encoded: Sequence[Encoded]) -> Iterator[tuple[int, BaseModel, Sequence[Any] | ValueError]]:
        """The predictions for the examples of each request, or the error that it caused."""
        try:
            predictions = iter(self._answerer.predict([example for _, _, examples in encoded for example in examples]))
        except ValueError as error:
            # A bad row must not affect the others of its batch.
            if len(encoded) > 1:
                for one in encoded:
                    yield from self._predict([one])
            else:
                yield from ((index, request, error) for index, request, _ in encoded)
            return
        for index, request, examples in encoded:
            yield index, request, [next(predictions) for _ in examples]

    def _answer(self, request: BaseModel, predictions: Sequence[Any] | ValueError) -> dict[str, Any]:
        """The output cells of a row."""
        if isinstance(predictions, ValueError):
            return {ERROR: _reason(predictions)}
        timeout_s = self._endpoint.answer_timeout_s
        answer = partial(self._answerer.answer, request, predictions)
        try:
            response = answer() if timeout_s is None else self._threads.call(answer, timeout_s=timeout_s)
        except (ValueError, TimeoutError) as error:
            return {ERROR: _reason(error)}
        return {MODEL_VERSION: self._recipe.model_version, **self._to_cells(response)}


def answer_schema(response: type[BaseModel]) -> pa.Schema:
    """The columns that the answers add to a table."""
    fields = {name: _arrow_type(field.annotation) for name, field in response.model_fields.items()}
    return pa.schema(list(({**fields, MODEL_VERSION: pa.string(), ERROR: pa.string()}).items()))


def _arrow_type(annotation: Any) -> pa.DataType:
    """The column type of a pydantic field; JSON text if Arrow has no matching type."""
    plain: dict[Any, pa.DataType] = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        bytes: pa.binary(),
    }
    kind = bare(annotation)
    if kind in plain:
        return plain[kind]
    if typing.get_origin(kind) in (list, Sequence):
        return pa.list_(_arrow_type(typing.get_args(kind)[0]))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return pa.struct([(name, _arrow_type(field.annotation)) for name, field in kind.model_fields.items()])
    return pa.string()


def _cells(answer: BaseModel) -> dict[str, Any]:
    """The cells of an answer: bytes unchanged, other values as JSON text if the column is text."""
    columns = {field.name: field.type for field in answer_schema(type(answer))}
    cells: dict[str, Any] = answer.model_dump(mode="json")
    for name, value in cells.items():
        if columns[name] == pa.binary():
            cells[name] = getattr(answer, name)
        elif columns[name] == pa.string() and value is not None and not isinstance(value, str):
            cells[name] = json.dumps(value, ensure_ascii=False)
    return cells


def _file_content(folder: Path, path: str, raw: RawBody) -> bytes:
    try:
        return read_file(folder / path, raw)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{raw.field}: {path!r} cannot be read ({reason}); paths are relative to {folder}") from None


def _reason(error: ValueError | TimeoutError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
