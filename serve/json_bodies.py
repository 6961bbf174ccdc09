"""JSON bodies of requests: parsed strictly, and validated as a request of an endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from models.family import AnyEndpoint

LARGE_BYTES = 16 * 1024
"""A larger body is parsed off the event loop."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def is_json(media_type: str) -> bool:
    """Whether a media type without parameters, in lower case, is JSON."""
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def media_type(request: Request) -> str:
    """The media type of a body without parameters, in lower case; empty if the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_type(request: Request) -> None:
    """Raise HTTPException 415 for a body that is not said to be JSON: pages of other sites can send other types."""
    kind = media_type(request)
    if not is_json(kind):
        raise HTTPException(415, f"the Content-Type is {kind or 'missing'!r}; send application/json")


def parse(body: bytes) -> Any:
    """The value of a JSON text; raises RequestValidationError for one that RFC 8259 does not allow or calls unsafe.

    That is one with a repeated key, a number of thousands of digits, NaN, half of a surrogate pair or deep nesting.
    """
    try:
        value = _DECODER.decode(body.decode())
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _invalid(f"invalid JSON at character {error.pos}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise _invalid(f"the body is not UTF-8 at byte {error.start}; send UTF-8") from None
    except UnicodeEncodeError:
        raise _invalid("text with half of a surrogate pair, which is not Unicode; send whole characters") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply; send it with less nesting") from None
    except ValueError as error:  # of ours, or of a number that is too long
        raise _invalid(f"invalid JSON: {str(error).partition(';')[0]}") from None
    return value


def read(endpoint: AnyEndpoint, body: bytes) -> BaseModel:
    """The request in a JSON body; raises RequestValidationError."""
    return validated(endpoint, parse(body))


def validated(endpoint: AnyEndpoint, fields: Any) -> BaseModel:
    """The request with these fields; raises RequestValidationError."""
    try:
        request: BaseModel = endpoint.Request.model_validate(fields)
        return request
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in mistakes]) from None


def _invalid(detail: str) -> RequestValidationError:
    return RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": detail}])


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # The key whose last place is not its first one.
        last = {key: place for place, (key, _) in enumerate(pairs)}
        repeated = next(key for place, (key, _) in enumerate(pairs) if last[key] != place)
        raise ValueError(f"the key {repeated[:100]!r} is repeated")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeated_keys, parse_constant=_refuse_constant)
