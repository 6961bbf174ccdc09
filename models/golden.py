"""The golden request and its answer, stored in every bundle to check that a loaded model still answers the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from models.ask import Answerer
from models.errors import BundleRejected
from models.family import Family, Media

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5


def golden(family: Family, network: Any, schema: Any) -> dict[str, Any]:
    """The family's golden request and the network's response, as JSON: {"request": ..., "response": ...}.

    Strings that differ between two responses to the same request (a new id, the model's version) are left out. Raises
    ValueError for a request that is not one of the first endpoint.
    """
    request, expected = family.golden_request(schema), family.endpoints[0].Request
    if not isinstance(request, expected):
        raise ValueError(
            f"golden_request of {family.name} returns {request!r}, a {type(request).__name__}; it must return a "
            f"{expected.__name__}, the Request of the first endpoint {family.endpoints[0].path}"
        )
    first = _answer(family, network, schema, request, "1")
    second = _answer(family, network, schema, request, "2")
    return {"request": request.model_dump(mode="json"), "response": _stable(first, second)}


def check(family: Family, network: Any, schema: Any, golden: dict[str, Any]) -> None:
    """Repeat the golden request; raises BundleRejected when the answer differs by more than rounding errors."""
    try:
        request = family.endpoints[0].Request.model_validate(golden["request"])
        answer = _answer(family, network, schema, request, "1")
        found = difference(golden, answer)
    except Exception as error:  # a damaged file or network may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise BundleRejected(f"the golden request of golden.json cannot be answered: {reason}") from error
    if found:
        raise BundleRejected(f"the model no longer gives its golden answer: {found}; use another copy")


def as_json(response: BaseModel) -> Any:
    """A response in comparable form: JSON, and for a file its media type and size."""
    if isinstance(response, Media):
        return {"media_type": response.media_type, "num_bytes": float(len(response.content))}
    return response.model_dump(mode="json")


def difference(golden: Mapping[str, Any], answer: Any) -> str | None:
    """Where an answer, as JSON, differs from the golden one by more than rounding errors; None if nowhere."""
    return _difference(golden["response"], answer, "response")


def _answer(family: Family, network: Any, schema: Any, request: Any, version: str) -> Any:
    training = network.training
    network.eval()
    response = Answerer(family, family.endpoints[0], network, schema, version)(request)
    network.train(training)
    return as_json(response)


def _stable(first: Any, second: Any) -> Any:
    """`first` without the members of objects that are strings and differ in `second`."""
    if isinstance(first, dict):
        kept = {key: value for key, value in first.items() if not _volatile(value, second.get(key))}
        return {key: _stable(value, second.get(key)) for key, value in kept.items()}
    if isinstance(first, list) and isinstance(second, list):
        return [_stable(one, other) for one, other in zip(first, second, strict=False)]
    return first


def _volatile(first: Any, second: Any) -> bool:
    return isinstance(first, str) and first != second


def _difference(expected: Any, found: Any, where: str) -> str | None:
    """The first path where `found` lacks or contradicts `expected`; None if it agrees."""
    if isinstance(expected, dict) and isinstance(found, dict):
        places = ((value, found.get(key), f"{where}.{key}") for key, value in expected.items())
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        places = ((one, other, f"{where}[{at}]") for at, (one, other) in enumerate(zip(expected, found, strict=True)))
    elif _equal(expected, found):
        return None
    else:
        return f"{where} was {expected!r}, is {found!r}"
    return next(filter(None, (_difference(*place) for place in places)), None)


def _equal(expected: Any, found: Any) -> bool:
    numbers = (int, float)
    if isinstance(expected, float) and isinstance(found, numbers):
        return abs(expected - found) <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * abs(expected)
    return bool(expected == found)
