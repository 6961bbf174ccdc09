"""Type annotations of the fields of requests and answers."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Literal


def bare(annotation: Any) -> Any:
    """The type of a field's values without `Annotated` and `None`; of a `Literal` that of its values."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return bare(arguments[0])
    if origin is Literal:
        return type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        rest = [part for part in arguments if part is not type(None)]
        return bare(rest[0]) if len(rest) == 1 else annotation
    return annotation
