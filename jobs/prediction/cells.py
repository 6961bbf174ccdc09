"""Cells of a table as values of a request's fields: text as lists and JSON objects, numbers as ids."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.prediction.annotations import bare
from models.raw.ids import Id, id_text

UNION = (typing.Union, types.UnionType)
SEPARATOR = "|"
"""Separates the values of a list in a text cell, as in item tables."""


def is_id(field: FieldInfo) -> bool:
    """Whether a field is an id, or an optional one."""
    marks = typing.get_args(Id)[1:]
    return any(mark in marks for mark in [*field.metadata, *_marks(field.annotation)])


def coerced(value: Any, annotation: Any) -> Any:
    """A cell in the type of the request's field: ids are text, even if the table stores them as numbers.

    A text cell of a list is a JSON array or values separated by `|`, one of an object is JSON, and so is an object in a
    list of texts. Raises ValueError.
    """
    container = _container(annotation)
    if isinstance(value, bytes) and bytes not in _leaves(annotation):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and container is not None:
        value = _parsed(value.strip(), container)
    elif isinstance(value, str) and value.startswith("{") and _may_be_object(annotation):
        value = _parsed(value, dict)
    if isinstance(value, list) and container is dict:  # a map column
        value = dict(value)
    if isinstance(value, list):
        return [coerced(part, _without_container(annotation)) for part in value]
    if isinstance(value, dict):
        return {name: part for name, part in value.items() if part is not None}
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        leaves = _leaves(annotation)
        if str in leaves and not leaves & {int, float}:
            return None if value != value else id_text(value)  # NaN is a missing value
    return value


def _parsed(text: str, container: type) -> Any:
    if not text:
        return None
    if container is not dict and not text.startswith("["):
        return [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from None


def _container(annotation: Any) -> type | None:
    """list or dict if the values of a field are one, or may be missing."""
    origin = typing.get_origin(bare(annotation))
    if origin in (list, tuple, Sequence):
        return list
    return dict if origin in (dict, Mapping) else None


def _without_container(annotation: Any) -> Any:
    """The type of the elements of a list, for cells that are not text."""
    leaves = tuple(_leaves(annotation))
    return typing.Union[leaves] if leaves else Any  # noqa: UP007  a tuple of types


def _may_be_object(annotation: Any) -> bool:
    return any(isinstance(leaf, type) and issubclass(leaf, BaseModel) for leaf in _leaves(annotation))


def _leaves(annotation: Any) -> set[Any]:
    arguments = typing.get_args(annotation)
    if not arguments:
        return {annotation}
    parts = arguments[:1] if typing.get_origin(annotation) is typing.Annotated else arguments
    return {leaf for part in parts for leaf in _leaves(part)}


def _marks(annotation: Any) -> list[Any]:
    """The metadata of the annotation of a value, not of the elements of a list."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return [*arguments[1:], *_marks(arguments[0])]
    return [mark for part in arguments for mark in _marks(part)] if origin in UNION else []
