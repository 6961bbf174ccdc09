"""The fields of a request, for people: in the help of `predict`, and in the documentation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.family import AnyEndpoint

HELP_WIDTH = 78


@dataclass(frozen=True)
class RequestField:
    """A field of a request, which is a column of a table of requests."""

    name: str
    kind: str
    """Its type in JSON."""
    default: str
    """The default as JSON; empty for a required field."""
    description: str


def request_fields(endpoint: AnyEndpoint) -> list[RequestField]:
    """The fields of the requests of an endpoint, in order."""
    schema: Mapping[str, Any] = endpoint.Request.model_json_schema()
    required = schema.get("required", ())
    return [
        RequestField(
            name=name,
            kind=_kind(described, schema.get("$defs", {})),
            default="" if name in required else _default(endpoint.Request.model_fields[name]),
            description=" ".join(str(described.get("description", "")).split()),
        )
        for name, described in schema["properties"].items()
    ]


def markdown(fields: Sequence[RequestField]) -> str:
    """The fields as a table for the documentation."""
    rows = [f"| `{each.name}` | {each.kind} | {_shown(each)} | {each.description} |" for each in fields]
    return "\n".join(["| field | type | default | what it is |", "|---|---|---|---|", *rows])


def help_text(fields: Sequence[RequestField]) -> str:
    """The fields as lines for the help."""
    lines = ["columns of --input, and names for --set (the fields of a request):"]
    for each in fields:
        default = "required" if not each.default else f"default {each.default}"
        text = f"{each.name} ({each.kind}; {default}): {each.description}".rstrip(": ")
        lines += textwrap.wrap(text, HELP_WIDTH, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def _shown(field: RequestField) -> str:
    return f"`{field.default}`" if field.default else "required"


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return json.dumps(value, ensure_ascii=False)


def _kind(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in described:
        return _kind(definitions[described["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in described:
        kinds = [_kind(each, definitions) for each in described["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if described.get("contentEncoding") == "base64":
        return "file"
    kind = str(described.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(described.get('items', {}), definitions)}"
    if "enum" in described:
        return " or ".join(json.dumps(value) for value in described["enum"])
    return {"boolean": "true or false", "string": "text"}.get(kind, kind)
