"""Validates the fields of a dataclass by their types, such as pydantic's PositiveInt."""

from __future__ import annotations

import functools
import typing
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]
"""A number between 0 and 1."""


def check_settings(settings: Any) -> None:
    """Raise ValueError, which names the flag, for a field of a dataclass whose value its type does not allow."""
    settings_class: Any = type(settings)
    for name in _allowed(settings_class):
        check_setting(settings_class, name, getattr(settings, name))


def check_setting(settings_class: Any, name: str, value: Any) -> None:
    """Raise ValueError, which names the flag, for a value that the type of a dataclass's field does not allow."""
    try:
        _allowed(settings_class)[name].validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].replace("Input", "it", 1)
        raise ValueError(f"--{name.replace('_', '-')} is {value!r}; {reason}") from None


@functools.cache
def _allowed(settings_class: Any) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(settings_class, include_extras=True)
    return {name: _adapter(hint) for name, hint in hints.items()}


def _adapter(hint: Any) -> TypeAdapter[Any]:
    """Checks values of a type; infinity and NaN only pass if the type says `Field(allow_inf_nan=True)`."""
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
    except PydanticUserError:  # a dataclass or model has its own config
        return TypeAdapter(hint)
