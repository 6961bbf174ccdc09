"""Filters of recommendations by the attributes of the item table: allowed values, and ranges of numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from models.family import Feature, Features
from models.prepared import Prepared
from models.recommender.data import attribute_columns
from models.recommender.live.overlay import Overlay

MAX_ATTRIBUTES = 16
"""Attributes of one filter."""
MAX_VALUES = 1000
"""Allowed values of one attribute, so that what a request costs is bounded."""
MAX_NAMES = 30
"""Attributes that an error message lists."""
EVERY = "*"
"""Key of the feature that lists the attributes."""
CELLS_PER_OCTAVE, SMALLEST_EXPONENT, LAST_CELL = 4, -7, 200
"""Numbers are stored in cells, so that a request reads few more items than it needs: four to each doubling, from 2^-7
to 2^43; smaller ones share cell 0, larger ones the last, and negative ones have negative cells."""
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")

Kind = Literal["number", "text"]
Overlays = Mapping[str, Overlay]
"""Attribute -> the values that the shop has put since the item table was written."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Value = str | bool | int | Number


class NumberRange(BaseModel):
    """The numbers from `min` to `max`, both included; one of them may be left out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    min: Number | None = None
    """Smallest allowed number."""
    max: Number | None = None
    """Largest allowed number."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def __contains__(self, number: float) -> bool:
        return (self.min is None or self.min <= number) and (self.max is None or number <= self.max)


def _form(wanted: Any) -> str:
    if isinstance(wanted, Mapping | NumberRange):
        return "range"
    return "values" if isinstance(wanted, list) else "value"


Condition = Annotated[
    Annotated[Value, Tag("value")]
    | Annotated[list[Value], Field(max_length=MAX_VALUES), Tag("values")]
    | Annotated[NumberRange, Tag("range")],
    Discriminator(_form),
]
Filter = Annotated[dict[str, Condition], Field(max_length=MAX_ATTRIBUTES)]


def allowed_items(
    wanted: Mapping[str, Any],
    features: Features,
    *,
    overlays: Overlays | None = None,
    more: Mapping[str, Kind] | None = None,
) -> Collection[str] | None:
    """The items that meet every condition, in any order and perhaps repeated; None if there is no condition.

    Values of `overlays` count instead of those of the feature store; `more` are attributes that it does not list.

    Raises ValueError for an attribute that no item has, and for a range of an attribute without numbers. A feature
    store that an earlier release has written lists no attributes: there an unknown one allows no item.
    """
    if not wanted:
        return None
    kinds: Mapping[str, Kind] | None = features.get("item_attributes", {}).get(EVERY)
    if kinds is not None and more:
        kinds = {**more, **kinds}
    matching = []
    for name, condition in wanted.items():
        _check(name, condition, kinds)
        found = (
            _in_range(name, condition, features.get("items_in_range", {}))
            if isinstance(condition, NumberRange)
            else _having(name, condition, features.get("items_with", {}))
        )
        matching.append(_overlaid(found, condition, (overlays or {}).get(name)))
    return matching[0] if len(matching) == 1 else set.intersection(*map(set, matching))


def value_keys(request: Any) -> list[str]:
    """The keys under which the feature store lists the items with the values that a request allows."""
    return [
        key
        for name, condition in request.filter.items()
        if not isinstance(condition, NumberRange)
        for value in _as_list(condition)
        for key in _value_keys(name, value)
    ]


def range_keys(request: Any) -> list[str]:
    """The keys of the cells that the ranges of a request touch."""
    return [
        key
        for name, condition in request.filter.items()
        if isinstance(condition, NumberRange)
        for key in _range_keys(name, condition)
    ]


def attribute_keys(request: Any) -> list[str]:
    """The key of the list of attributes, which a request with a filter needs."""
    return [EVERY] if request.filter else []


def value_rows(data: Prepared) -> Iterator[tuple[str, list[str]]]:
    """Inverted index of the item table: `attribute=value` -> item ids; numbers as in `text_of_number`."""
    for name, items, values in attribute_columns(data):
        having: dict[str, list[str]] = {}
        for item, value in zip(items, values, strict=True):
            if value is not None:
                text = value if isinstance(value, str) else text_of_number(value)
                having.setdefault(f"{name}={text}", []).append(item)
        yield from having.items()


def range_rows(data: Prepared) -> Iterator[tuple[str, list[list[Any]]]]:
    """The numbers of the item table by cell: `attribute~cell` -> [numbers, item ids]."""
    for name, items, values in attribute_columns(data):
        cells: dict[str, list[list[Any]]] = {}
        for item, value in zip(items, values, strict=True):
            if isinstance(value, int | float) and math.isfinite(value):
                numbers, ids = cells.setdefault(f"{name}~{_cell(value)}", [[], []])
                numbers.append(value)
                ids.append(item)
        yield from cells.items()


def attribute_rows(data: Prepared) -> Iterator[tuple[str, dict[str, Kind]]]:
    """The attributes of the item table: name -> whether its values are numbers or text."""
    kinds: dict[str, Kind] = {}
    for name, _, values in attribute_columns(data):
        is_text = any(isinstance(value, str) for value in values)
        kinds[name] = "text" if is_text else "number"
    yield EVERY, kinds


FEATURES = (
    Feature(name="items_with", keys=value_keys, rows=value_rows),
    Feature(name="items_in_range", keys=range_keys, rows=range_rows),
    Feature(name="item_attributes", keys=attribute_keys, rows=attribute_rows),
)


def text_of_number(value: float) -> str:
    """One text for equal numbers: 5 for 5.0."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _check(name: str, condition: Any, kinds: Mapping[str, Kind] | None) -> None:
    is_range = isinstance(condition, NumberRange)
    if kinds is None:
        if is_range:
            raise ValueError(
                f"filter {name!r}: the feature store was written by an earlier release, which knows no ranges; "
                "deploy again"
            )
        return
    if name not in kinds:
        raise ValueError(f"filter {name!r}: no item has such an attribute; {_listed(kinds)}")
    if is_range and kinds[name] != "number":
        numeric = [each for each, kind in kinds.items() if kind == "number"]
        raise ValueError(
            f"filter {name!r}: its values are text, and a range needs numbers, as in: {', '.join(numeric) or 'none'}"
        )


def _listed(kinds: Mapping[str, Kind]) -> str:
    if not kinds:
        return "the data was prepared without --items"
    more = f" and {len(kinds) - MAX_NAMES} more" if len(kinds) > MAX_NAMES else ""
    return f"the attributes are {', '.join(sorted(kinds)[:MAX_NAMES])}{more}"


def _having(name: str, condition: Any, listed: Mapping[str, Sequence[str]]) -> list[str]:
    keys = [key for value in _as_list(condition) for key in _value_keys(name, value)]
    return [item for key in keys for item in listed.get(key, ())]


def _in_range(name: str, wanted: NumberRange, listed: Mapping[str, Sequence[Sequence[Any]]]) -> list[str]:
    keys, found = _range_keys(name, wanted), list[str]()
    for place, key in enumerate(keys):
        numbers, items = listed.get(key, ((), ()))
        if 0 < place < len(keys) - 1:  # cells between the first and the last are inside of the range
            found += items
        else:
            found += [item for number, item in zip(numbers, items, strict=True) if number in wanted]
    return found


def _overlaid(found: list[str], condition: Any, overlay: Overlay | None) -> list[str]:
    """The items of the feature store that meet a condition, with those whose newer value decides."""
    if overlay is None:
        return found
    kept = [item for item in found if item not in overlay.values]
    if isinstance(condition, NumberRange):
        return kept + [item for item, number in overlay.numbers.items() if number in condition]
    texts = {text for value in _as_list(condition) for text in texts_of(value)}
    return kept + [item for text in texts for item in overlay.having.get(text, ())]


def _value_keys(name: str, value: Value) -> Iterable[str]:
    return (f"{name}={text}" for text in texts_of(value))


def texts_of(value: Value) -> list[str]:
    """The texts under which equal values may be stored: 5, 5.0 and "5" are equal, and so are true, "True" and 1."""
    if isinstance(value, bool):
        return [*(str(value).lower(), str(value), str(value).upper()), str(int(value)), f"{int(value)}.0"]
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return [value]
    # Above 2^53 a float is not exact; an integer is an id.
    exact = value if isinstance(value, int) else float(value)
    number = text_of_number(exact) if abs(exact) < 2**53 else str(value)
    # Earlier releases stored 5.0 in a column with decimals.
    return list(dict.fromkeys([str(value), number, *([f"{number}.0"] if "." not in number else [])]))


def _range_keys(name: str, wanted: NumberRange) -> list[str]:
    first = -LAST_CELL if wanted.min is None else _cell(wanted.min)
    last = LAST_CELL if wanted.max is None else _cell(wanted.max)
    return [f"{name}~{cell}" for cell in range(first, last + 1)]


def _cell(number: float) -> int:
    """The cell of a number; a larger number never has a smaller cell."""
    size = abs(number)
    if size < 2.0**SMALLEST_EXPONENT:
        return 0
    cell = 1 + math.floor(CELLS_PER_OCTAVE * (math.log2(size) - SMALLEST_EXPONENT))
    return int(math.copysign(min(cell, LAST_CELL), number))


def _as_list(values: Any) -> Sequence[Value]:
    return values if isinstance(values, list) else [values]
