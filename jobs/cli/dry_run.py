"""The resolved settings of a verb, which --dry-run prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def resolved(groups: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of each dataclass by group, without credentials; a group that is None is left out."""
    return {name: _masked(dataclasses.asdict(group)) for name, group in groups.items() if group is not None}


def _masked(value: Any) -> Any:
    """The same settings without the credentials that a URI such as s3://KEY:SECRET@bucket/path may contain."""
    from models.raw.tables import without_secrets  # imports Arrow, which `shopkeeper --help` must not

    match value:
        case str():
            return without_secrets(value)
        case dict():
            return {name: _names(part) if name == "env" else _masked(part) for name, part in value.items()}
        case list() | tuple():
            return [_masked(part) for part in value]
        case _:
            return value


def _names(words: Any) -> list[str]:
    """The names of NAME=VALUE words: a value may be a credential."""
    return [str(word).partition("=")[0] for word in words]
