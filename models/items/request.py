"""Items as a shop sends them: each is checked by itself, so that one bad item does not refuse the others."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.items.item import Kind, Put, Value
from models.raw.ids import Id, has_control_characters

MAX_ITEMS = 1000
"""Items of one request."""
MAX_TEXT_CHARACTERS = 4096
MAX_NAME_CHARACTERS = 256
MAX_ATTRIBUTES = 256
"""Attributes of a shop beyond which no request may add one."""
SEPARATOR = "|"
"""Joins several values of one attribute, as in the item table."""
NAMES_SHOWN = 30
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_ID: TypeAdapter[str] = TypeAdapter(Id)


class BodyRefused(ValueError):
    """A body that is not a list of items; the message is for the client."""


class ItemRefused(ValueError):
    """An item that is not accepted; the message is for the client."""


@dataclass(frozen=True)
class Body:
    """The items of a request, not yet checked, and the attributes that it declares to be new."""

    items: Sequence[Any]
    new_attributes: frozenset[str]


def read_body(body: Any) -> Body:
    """The items of a JSON body: one item, a list, or an object with `items` and perhaps `new_attributes`.

    Raises BodyRefused.
    """
    declared: Any = []
    if isinstance(body, dict) and "items" in body and "item_id" not in body:
        if unknown := sorted(set(body) - {"items", "new_attributes"}):
            raise BodyRefused(f"the body has {unknown[0]!r} beside items; only new_attributes may be there")
        body, declared = body["items"], body.get("new_attributes", [])
    items = body if isinstance(body, list) else [body]
    if not isinstance(declared, list) or not all(isinstance(name, str) and _is_name(name) for name in declared):
        raise BodyRefused("new_attributes is not a list of names; send the names of attributes, as in ['in_stock']")
    if len(items) > MAX_ITEMS:
        raise BodyRefused(f"the body has {len(items)} items; send at most {MAX_ITEMS} at a time")
    return Body(items, frozenset(declared))


def check_item(item: Any, *, known: Mapping[str, Kind], new: Mapping[str, Kind]) -> Put:
    """The item as it is stored; raises ItemRefused.

    `known` are the attributes of the shop, `new` those that the request declares, with the kinds found so far.
    """
    if not isinstance(item, dict):
        raise ItemRefused(f"an item is an object with an item_id, not {type(item).__name__}")
    item_id = check_id(item.get("item_id"))
    attributes: dict[str, Value | None] = {}
    for name, value in item.items():
        if name == "item_id":
            continue
        kind = known.get(name) or new.get(name)
        if kind is None:
            raise ItemRefused(f"{name!r} is no attribute of this shop; {_listed(known)}")
        attributes[name] = None if value is None else _checked(name, value, kind)
    return Put(item_id, attributes)


def check_id(item_id: Any) -> str:
    """The id as text; raises ItemRefused."""
    try:
        found = _ID.validate_python(item_id)
        found.encode()
    except ValidationError as error:
        what = "missing" if item_id is None else error.errors()[0]["msg"]
        raise ItemRefused(f"the item_id is not usable: {what}") from None
    except UnicodeEncodeError:
        raise ItemRefused("the item_id is not Unicode text; send it without surrogates") from None
    if has_control_characters(found):
        raise ItemRefused("the item_id has control characters; send it without them")
    return found


def kinds_of_new(body: Body, known: Mapping[str, Kind]) -> dict[str, Kind]:
    """The attributes that a request declares and the shop does not know: numbers if all values of the request are.

    Raises BodyRefused for too many.
    """
    values: dict[str, list[Any]] = {name: [] for name in sorted(body.new_attributes) if name not in known}
    for item in body.items:
        for name in values.keys() & (item.keys() if isinstance(item, dict) else ()):
            if item[name] is not None:
                values[name].append(item[name])
    if values and len(known) + len(values) > MAX_ATTRIBUTES:
        raise BodyRefused(f"the shop would have more than {MAX_ATTRIBUTES} attributes; use those it has")
    return {name: "number" if found and all(map(_is_number, found)) else "text" for name, found in values.items()}


def _checked(name: str, value: Any, kind: Kind) -> Value:
    if kind == "number":
        return _number(name, value)
    if isinstance(value, list):
        if not value or not all(isinstance(each, str | int | float) for each in value):
            raise ItemRefused(f"{name!r} is a list of something else than texts and numbers")
        return SEPARATOR.join(_text(name, each) for each in value)
    return value if isinstance(value, bool) else _text(name, value)


def _number(name: str, value: Any) -> Value:
    if isinstance(value, str) and len(value) < 64 and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if not _is_number(value) and not isinstance(value, bool):
        raise ItemRefused(f"{name!r} is a number in the item table; {_shown(value)} is none")
    try:
        if not math.isfinite(value):
            raise OverflowError
    except OverflowError:
        raise ItemRefused(f"{name!r} is too large or not a number") from None
    return value if isinstance(value, bool) or not float(value).is_integer() else int(value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if _is_number(value):
        number = _number(name, value)
        return str(number)
    if not isinstance(value, str):
        raise ItemRefused(f"{name!r} is text, numbers or a list of them; {_shown(value)} is neither")
    text = value.strip()
    if not text or len(text) > MAX_TEXT_CHARACTERS:
        raise ItemRefused(
            f"{name!r} has {len(text)} characters; 1 to {MAX_TEXT_CHARACTERS} are stored, null removes it",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ItemRefused(f"{name!r} is not Unicode text; send it without surrogates") from None
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_name(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(name) <= MAX_NAME_CHARACTERS and name != "item_id" and "=" not in name


def _listed(known: Mapping[str, Kind]) -> str:
    remedy = "name a new one in new_attributes"
    if not known:
        return f"the data was prepared without --items, so there are none; {remedy}"
    more = f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else ""
    return f"the attributes are {', '.join(sorted(known)[:NAMES_SHOWN])}{more}; {remedy}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
