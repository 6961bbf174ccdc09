"""Requests from rows of a table and rows from answers: one model over one Parquet table, errors in a column."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from models import FAMILIES, bundle
from models.ask import Answerer
from models.family import AnyEndpoint, Features
from models.features import FeatureStore, filled, live
from models.nn.memory import keep_freed_memory
from models.time_limit import TimedThreads

ERROR = "error"
MODEL_VERSION = "model_version"
UNION = (typing.Union, types.UnionType)
NUM_LONG_ANSWERS = 4
"""So many answers that never end may be left behind; rows after them get an error."""
Encoded = tuple[int, BaseModel, list[Any]]
"""Place of a row, its request, and the examples of that."""


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to answer rows, small enough to send anywhere."""

    family: str
    model: Path
    """Model directory."""
    model_version: str
    features: Path | None
    """SQLite file of the features that jobs fill; None for a family without such."""
    live_features: Path | None
    """SQLite file of the features that endpoints write, where there is one."""
    fixed: Mapping[str, Any]
    """Fields that every request has."""
    batch_size: int


class TableAnswerer:
    """A loaded model that answers tables; one per process.

    It reads the features that endpoints write and writes none: an endpoint's `update` is left out.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._family = FAMILIES[recipe.family]
        self._endpoint: AnyEndpoint = self._family.endpoints[0]
        self._features = FeatureStore(recipe.features, read_only=True) if recipe.features else None
        self._live_features = FeatureStore(recipe.live_features, read_only=True) if recipe.live_features else None
        self._threads = TimedThreads(NUM_LONG_ANSWERS)
        loaded = bundle.load(recipe.model, self._family)
        keep_freed_memory()
        self._answerer = Answerer(self._family, self._endpoint, loaded.network, loaded.schema, recipe.model_version)

    def answer(self, table: pa.Table) -> pa.Table:
        """The table with the columns of the answers and `error`, which is null where there is an answer."""
        answered: list[dict[str, Any]] = []
        for start in range(0, table.num_rows, self._recipe.batch_size):
            rows = table.slice(start, self._recipe.batch_size).to_pylist()
            answered += self._answer_rows(rows)
        schema = answer_schema(self._endpoint.Response)
        if self._endpoint.raw is not None and self._endpoint.raw.field in table.column_names:
            table = table.drop_columns(
                [self._endpoint.raw.field]
            )  # the files would make the answers as large as they are
        for field in schema:
            table = table.append_column(field, pa.array([row.get(field.name) for row in answered], field.type))
        return table

    def _answer_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answered: list[dict[str, Any]] = [{} for _ in rows]
        encoded = []
        for place, row in enumerate(rows):
            try:
                request = self._request(row)
                encoded.append((place, request, self._answerer.encode(request, self._lookup(request))))
            except ValueError as error:
                answered[place] = {ERROR: _reason(error)}
        for place, request, predictions in self._predict(encoded):
            answered[place] = self._answer(request, predictions)
        return answered

    def _lookup(self, request: BaseModel) -> Features:
        known = self._family.features
        features: dict[str, Mapping[str, Any]] = {}
        if self._features is not None:
            features.update(self._features.lookup(filled(known), request))
        if self._live_features is not None:
            features.update(self._live_features.lookup(live(known), request))
        return features

    def _request(self, row: Mapping[str, Any]) -> BaseModel:
        fields = self._endpoint.Request.model_fields
        given = {name: _fitting(value, fields[name].annotation) for name, value in row.items() if name in fields}
        given = {name: value for name, value in given.items() if value is not None}
        request: BaseModel = self._endpoint.Request(**{**self._recipe.fixed, **given})
        return request

    def _predict(self, encoded: Sequence[Encoded]) -> Iterator[tuple[int, BaseModel, Sequence[Any] | ValueError]]:
        """The predictions for the examples of each request, or why there are none."""
        try:
            predictions = iter(self._answerer.predict([example for _, _, examples in encoded for example in examples]))
        except ValueError as error:
            # One row must not cost the others their answers.
            if len(encoded) > 1:
                for one in encoded:
                    yield from self._predict([one])
            else:
                yield from ((place, request, error) for place, request, _ in encoded)
            return
        for place, request, examples in encoded:
            yield place, request, [next(predictions) for _ in examples]

    def _answer(self, request: BaseModel, predictions: Sequence[Any] | ValueError) -> dict[str, Any]:
        """The cells that a row gets."""
        if isinstance(predictions, ValueError):
            return {ERROR: _reason(predictions)}
        timeout_s = self._endpoint.answer_timeout_s
        answer = partial(self._answerer.answer, request, predictions)
        try:
            response = answer() if timeout_s is None else self._threads.call(answer, timeout_s=timeout_s)
        except (ValueError, TimeoutError) as error:
            return {ERROR: _reason(error)}
        return {MODEL_VERSION: self._recipe.model_version, **_cells(response)}


def answer_schema(response: type[BaseModel]) -> pa.Schema:
    """The columns that answers add to a table."""
    fields = {name: _arrow_type(field.annotation) for name, field in response.model_fields.items()}
    return pa.schema(list(({**fields, MODEL_VERSION: pa.string(), ERROR: pa.string()}).items()))


def _arrow_type(annotation: Any) -> pa.DataType:
    """The column type of a pydantic field; what a table cannot hold becomes JSON text."""
    plain: dict[Any, pa.DataType] = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        bytes: pa.binary(),
    }
    if annotation in plain:
        return plain[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _arrow_type(arguments[0])
    if origin is Literal:
        return _arrow_type(type(arguments[0]))
    if origin in UNION and len(rest := [part for part in arguments if part is not type(None)]) == 1:
        return _arrow_type(rest[0])
    if origin in (list, Sequence):
        return pa.list_(_arrow_type(arguments[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([(name, _arrow_type(field.annotation)) for name, field in annotation.model_fields.items()])
    return pa.string()


def _cells(answer: BaseModel) -> dict[str, Any]:
    """An answer as the cells of a row: bytes as they are, JSON text where the column is text and the value is not."""
    columns = {field.name: field.type for field in answer_schema(type(answer))}
    cells: dict[str, Any] = answer.model_dump(mode="json")
    for name, value in cells.items():
        if columns[name] == pa.binary():
            cells[name] = getattr(answer, name)
        elif columns[name] == pa.string() and value is not None and not isinstance(value, str):
            cells[name] = json.dumps(value, ensure_ascii=False)
    return cells


def _fitting(value: Any, annotation: Any) -> Any:
    """A cell as the request wants it: ids are text, though a table may hold them as numbers."""
    if isinstance(value, list):
        return [_fitting(part, annotation) for part in value]
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if part is not None}
    if isinstance(value, int | float) and not isinstance(value, bool):
        leaves = _leaves(annotation)
        if str in leaves and not leaves & {int, float}:
            return str(int(value)) if value == value and float(value).is_integer() else str(value)
    return value


def _leaves(annotation: Any) -> set[Any]:
    arguments = typing.get_args(annotation)
    if not arguments:
        return {annotation}
    parts = arguments[:1] if typing.get_origin(annotation) is typing.Annotated else arguments
    return {leaf for part in parts for leaf in _leaves(part)}


def _reason(error: ValueError | TimeoutError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
