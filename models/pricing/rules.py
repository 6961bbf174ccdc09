"""The rules that prices must keep, as one YAML file; mistakes are named with file, line, key, value and remedy."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.documents import Listing, Node, Problems, Scalar, Table, parse
from models.pricing.offers import Offers
from models.suggestions import suggestion

EXAMPLE = "largest_change: {share: 0.1}"
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ladder(_Part):
    """Which prices can be asked for: endings such as .99, or a step; at most `most_points` for each offer."""

    endings: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)] | None = None
    step: Amount | None = None
    most_points: Annotated[int, Field(ge=2, le=100)] = 9

    @model_validator(mode="after")
    def _one_kind(self) -> Ladder:
        if (self.endings is None) == (self.step is None):
            raise ValueError("needs either endings, such as [0.99, 0.49], or a step, such as 0.05")
        return self


class Selection(_Part):
    """Offers that a rule is about: those that fit every key that is given."""

    products: Names | None = None
    stores: Names | None = None
    categories: Names | None = None
    brands: Names | None = None

    def fits(self, offers: Offers, index: int) -> bool:
        """Whether an offer is meant."""
        pairs = (
            (self.products, offers.products),
            (self.stores, offers.stores),
            (self.categories, offers.categories),
            (self.brands, offers.brands),
        )
        return all(wanted is None or known[index] in wanted for wanted, known in pairs)


class _Rule(_Part):
    only: Selection = Selection()
    line: int = 0
    """The line of the file, set by the reader."""

    def offers(self, offers: Offers) -> list[int]:
        """The indexes of the offers that the rule is about."""
        return [index for index in range(len(offers)) if self.only.fits(offers, index)]


class MarginFloor(_Rule):
    """(price - cost) / price is at least this share."""

    share: Annotated[float, Field(ge=-1, lt=1)]


class LargestChange(_Rule):
    """No price moves by more than this share of today's price, up or down."""

    share: Share


class MaxChanges(_Rule):
    """At most this number of prices change."""

    number: Annotated[int, Field(ge=0)]


class Fixed(_Rule):
    """Prices that stay."""


class Zone(_Rule):
    """Stores in which a product has one price."""

    stores: Annotated[tuple[str, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _several(self) -> Zone:
        if len(set(self.stores)) < 2:
            raise ValueError("needs two stores or more, such as [north, south]")
        return self


class SizeOrder(_Rule):
    """Larger packs of a brand, category and store cost no less, and with `unit_price` no more per unit of size."""

    unit_price: bool = True


class BrandOrder(_Rule):
    """The cheaper brand costs at most (1 - gap) of the dearer one, for the same category, size and store."""

    cheaper: str
    dearer: str
    gap: Share = 0.0

    @model_validator(mode="after")
    def _two_brands(self) -> BrandOrder:
        if self.cheaper == self.dearer:
            raise ValueError(f"cheaper and dearer are both {self.cheaper!r}; name two brands")
        return self


class MeanPrice(_Rule):
    """The plain mean of the prices, as a share of the mean of today's prices."""

    at_least: Amount | None = None
    at_most: Amount | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> MeanPrice:
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least or at_most, as shares of the mean of today's prices, such as 1.0")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is above at_most {self.at_most:g}")
        return self


class Revenue(_Rule):
    """Expected revenue, as a share of what is expected at today's prices."""

    at_least: Amount


class SellThrough(_Rule):
    """At least this share of the stock is expected to be sold by a date."""

    share: Annotated[float, Field(gt=0, le=1)]
    by: datetime.date


class Rules(_Part):
    """All rules; a kind may be given once or as a list."""

    ladder: Ladder
    margin_floor: tuple[MarginFloor, ...] = ()
    largest_change: tuple[LargestChange, ...] = ()
    max_changes: tuple[MaxChanges, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    zones: tuple[Zone, ...] = ()
    size_order: tuple[SizeOrder, ...] = ()
    brand_order: tuple[BrandOrder, ...] = ()
    mean_price: tuple[MeanPrice, ...] = ()
    revenue: tuple[Revenue, ...] = ()
    sell_through: tuple[SellThrough, ...] = ()
    source: str = "rules"
    """The name of the file, for messages."""

    def kinds(self) -> Iterable[tuple[str, _Rule]]:
        """Every rule with the name of its kind."""
        for kind in KINDS:
            yield from ((kind, rule) for rule in getattr(self, kind))


class RulesRejected(ValueError):
    """A file of rules has mistakes; the text names each with its line."""


KINDS: dict[str, type[_Rule]] = {
    name: get_args(field.annotation)[0]
    for name, field in Rules.model_fields.items()
    if name not in {"ladder", "source"}
}
"""Every kind of rule by its key."""
SET_BY_READER = {"line", "source"}


def parse_rules(text: str, path: Path, *, offers: Offers | None = None) -> Rules:
    """Read rules from the text of a file called `path`; raises RulesRejected with every mistake.

    With `offers` the products, stores, categories and brands that rules name must be among theirs.
    """
    problems = Problems()
    root = parse(text, problems, needs="`ladder` and rules")
    rules = None
    if root is not None and not isinstance(root, Table):
        problems.add(root.line, "", f"rules are a mapping, such as `{EXAMPLE}`; see docs/pricing-rules.md")
    elif root is not None:
        rules = _validated(root, path, problems)
    if rules is not None and offers is not None:
        _check_names(rules, offers, problems)
    if rules is None or problems.found:
        raise RulesRejected(f"{problems.counted} in the rules:\n{problems.text(path)}")
    return rules


def _validated(root: Table, path: Path, problems: Problems) -> Rules | None:
    values: dict[str, Any] = {}
    nodes: dict[str, Node] = dict(root.entries)
    for name, node in root.entries.items():
        if name in KINDS:
            items = node.items if isinstance(node, Listing) else (node,)
            nodes[name] = Listing(items, root.lines[name])
            lines = [item.line if isinstance(node, Listing) else root.lines[name] for item in items]
            values[name] = [_rule(item, line, name, problems) for item, line in zip(items, lines, strict=True)]
        else:
            values[name] = _plain(node)
    try:
        if "source" in values:
            problems.add(root.lines["source"], "source", "is not set by the file; remove it")
        return Rules.model_validate({**values, "source": path.name})
    except ValidationError as error:
        whole = Table(nodes, root.lines, root.line)
        for one in error.errors():
            line, where, value = _place(whole, one["loc"])
            problems.add(line, where, _message(one, value))
        return None


def _rule(node: Node, line: int, kind: str, problems: Problems) -> Any:
    """The values of a rule with its line; an empty one, such as `fixed:`, has its defaults."""
    value = _plain(node)
    if value is None:
        return {"line": line}
    if not isinstance(value, dict):
        return value
    if "line" in value:
        problems.add(line, f"{kind}.line", "is not set by the file; remove it")
    return {**value, "line": line}


def _plain(node: Node) -> Any:
    match node:
        case Scalar():
            return None if node.kind == "null" else node.text
        case Listing():
            return [_plain(item) for item in node.items]
        case Table():
            return {name: _plain(value) for name, value in node.entries.items()}


def _place(root: Table, location: tuple[int | str, ...]) -> tuple[int, str, str | None]:
    """The line, the key and the text at a place that pydantic names."""
    node: Node = root
    line, where = root.line, ""
    for part in location:
        if isinstance(node, Table) and (key := str(part)) in node.entries:
            line, node = node.lines[key], node.entries[key]
            where += f".{key}" if where else key
        elif isinstance(node, Listing) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
            where += f"[{part + 1}]"
        elif isinstance(part, str) and isinstance(node, Table) and part.isidentifier():
            where += f".{part}" if where else part
    return line, where, node.text if isinstance(node, Scalar) else None


def _message(error: Any, value: str | None) -> str:
    location, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        known = _keys_at(location)
        return f"there is no such key{suggestion(str(location[-1]), known)}; known are {', '.join(known)}"
    if kind in ("model_type", "dict_type"):
        return f"needs keys; known are {', '.join(_keys_at((*location, '')))}"
    if kind == "tuple_type":
        return "needs a list, such as [a, b]"
    if kind == "missing":
        return f"is missing; {_described(location)}"
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return f"{value!r}: {said}" if value is not None else said


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    model = _model_at(location[:-1])
    return [name for name in model.model_fields if name not in SET_BY_READER]


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    names = [part for part in location if isinstance(part, str)]
    if not names:
        return Rules
    if names[0] == "ladder":
        return Ladder
    return Selection if names[-1] == "only" else KINDS[names[0]]


def _described(location: tuple[int | str, ...]) -> str:
    if location == ("ladder",):
        return "say which prices can be asked for, such as `ladder: {endings: [0.99, 0.49]}`"
    said = " ".join((_model_at(location[:-1]).__doc__ or "").split())
    return f"the rule is: {said}"


def _check_names(rules: Rules, offers: Offers, problems: Problems) -> None:
    """Every product, store, category and brand that a rule names is one of the offers'."""
    known = {
        "products": sorted(set(offers.products)),
        "stores": sorted(set(offers.stores)),
        "categories": sorted(set(offers.categories)),
        "brands": sorted(set(offers.brands)),
    }
    for kind, rule in rules.kinds():
        named = [(f"only.{key}", key, getattr(rule.only, key) or ()) for key in known]
        if isinstance(rule, Zone):
            named.append(("stores", "stores", rule.stores))
        if isinstance(rule, BrandOrder):
            named += [("cheaper", "brands", (rule.cheaper,)), ("dearer", "brands", (rule.dearer,))]
        for where, key, names in named:
            for name in names:
                if name not in known[key]:
                    message = f"{name!r} is none of the {len(known[key])} {key}{suggestion(name, known[key])}"
                    problems.add(rule.line, f"{kind}.{where}", message)
        if not rule.offers(offers):
            problems.add(rule.line, kind, "no product is meant by `only`; loosen it or remove the rule")
