"""Event types and amounts of a log: how they are stored, and which types are evaluated on and make an item seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import load_array
from models.errors import DataRejected

MAX_EVENT_TYPES = 255
"""Types are stored as one byte; 0 is an event without a type."""
MIN_EXAMPLES = 100
"""Types are targets by default only if validation and test have at least this many examples each: the gate checks no
group with fewer."""
ALL, NONE = "all", "none"
TYPES, AMOUNTS = "types.npy", "amounts.npy"

_NEGATED = r"(?<![a-z])(?:no|not|non|never|without)(?![a-z])|(?:not|non|un)(?=purchas|order|bought|sold|paid|add)"
_PURCHASE = re.compile(r"purchas|transaction|order|buy|bought|checkout|sale|sold|paid")
_NOT_PURCHASE = re.compile(
    _NEGATED + r"|view|click|visit|page|search|sort|history|list|buyer|border|wholesale"
    r"|begin|start|initiat|proceed|progress|step|option|intent|attempt|add|update"
    r"|remove|delete|cancel|refund|return|chargeback|fail|error|declin|reject|refus|void|expir|abandon"
)
_CART = re.compile(r"cart|basket|(?<![a-z])(?:addto)?bag(?![a-z])")
_NOT_CART = re.compile(
    _NEGATED + r"|view|click|visit|page|open|checkout|update|decreas|reduc|fail|error"
    r"|remov|delet|drop|empt|clear|cancel|expir|abandon"
)

Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Details:
    """Type and amount of each event of one partition."""

    names: tuple[str, ...]
    """The partition's types, in ascending order."""
    codes: Int64s
    """Index of each event's type in `names`; -1 for an event without a type."""
    amounts: Floats
    """Price times quantity; NaN without a price."""

    @classmethod
    def of(cls, names: pa.Array, codes: Int64s, amounts: pa.ChunkedArray) -> Details:
        """Raises DataRejected for more types than can be stored."""
        _check_number(names.to_pylist())
        return cls(tuple(names.to_pylist()), codes, amounts.to_numpy().astype(np.float32))

    def write(self, scratch: Path, order: Int64s) -> tuple[dict[str, int], int]:
        """Write the events in a new order, or a part of them; returns the events of each type, and those with a price.

        Events without a type are counted under the empty name.
        """
        codes, amounts = self.codes[order], self.amounts[order]
        np.save(scratch / TYPES, (codes + 1).astype(np.uint8))
        np.save(scratch / AMOUNTS, amounts)
        counts = np.bincount(codes + 1, minlength=len(self.names) + 1).tolist()
        named = {name: count for name, count in zip(("", *self.names), counts, strict=True) if count}
        return named, int(np.isfinite(amounts).sum())


@dataclass(frozen=True)
class LogTypes:
    """The event types of the whole log, and whether it has prices."""

    names: tuple[str, ...] = ()
    """In ascending order; code i + 1 is names[i]."""
    counts: Mapping[str, int] | None = None
    """Events of each type."""
    has_amounts: bool = False

    @classmethod
    def of(cls, parts: Sequence[tuple[Mapping[str, int], int]]) -> LogTypes:
        """The types of all partitions, from what `Details.write` returned; raises DataRejected for too many types."""
        total: dict[str, int] = {}
        for counts, _ in parts:
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
        names = sorted(name for name in total if name)
        _check_number(names)
        has_amounts = any(num_amounts for _, num_amounts in parts)
        return cls(tuple(names), {name: total[name] for name in names}, has_amounts)

    def codes_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """The codes of some types."""
        return tuple(self.names.index(name) + 1 for name in names)

    def load(self, scratch: Path, local: Sequence[str]) -> Codes | None:
        """The codes of a partition's events, whose own types are `local`; None for a log without types."""
        if not self.names:
            return None
        code = np.array([0, *self.codes_of(local)], np.uint8)
        stored: Codes = code[load_array(scratch / TYPES)]
        return stored

    def write(self, scratch: Path, shard: Path, types: Codes | None) -> None:
        """Write a shard's files of types and amounts, each only if the log has any."""
        if types is not None:
            np.save(shard / TYPES, types)
        if self.has_amounts:
            np.save(shard / AMOUNTS, load_array(scratch / AMOUNTS))


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated on: the types that are targets, and those that make an item seen."""

    targets: tuple[str, ...] = ()
    """Empty: events of every type."""
    seen: tuple[str, ...] | None = None
    """None: events of every type; empty: no event, so that a repeated item counts."""
    reason: str = ""
    """Why, in words; empty for a log with fewer than two types."""


def types_in_schema(types: LogTypes, evaluated: Evaluated, num_of_type: Sequence[Int64s]) -> dict[str, Any]:
    """The fields of the schema, given the training events of each shard by type; none for a log without types."""
    if not types.names:
        return {}
    return {
        "event_types": list(types.names),
        "event_type_counts": np.sum(num_of_type, axis=0).tolist(),
        "target_types": list(evaluated.targets),
        "seen_types": None if evaluated.seen is None else list(evaluated.seen),
    }


def types_in_card(
    types: LogTypes, evaluated: Evaluated, num_examples: Mapping[str, int], *, weights: str
) -> dict[str, Any]:
    """The fields of the card, and a note that says them in one line; `weights` are those of training."""
    targets = ",".join(evaluated.targets) or ALL
    seen = ALL if evaluated.seen is None else ",".join(evaluated.seen) or NONE
    card: dict[str, Any] = {
        "event_types": dict(types.counts or {}),
        "target": targets,
        "seen": seen,
        "examples": dict(num_examples),
    }
    if not evaluated.reason:
        return card
    counts = ", ".join(f"{count:,} {name}" for name, count in card["event_types"].items())
    note = (
        f"event types: {counts}; --target {targets} ({evaluated.reason}), --seen {seen}: {num_examples['val']:,} "
        f"examples to validate and {num_examples['test']:,} to test on; train --weights {weights or 'all 1'}"
    )
    return {**card, "target_reason": evaluated.reason, "weights": weights, "notes": [note]}


def normalised(name: str) -> str:
    """A type as it is stored."""
    return name.strip().lower()


def normalised_types(encoded: pa.DictionaryArray) -> pa.DictionaryArray:
    """The types of some rows, without regard to case."""
    return pa.DictionaryArray.from_arrays(encoded.indices, pc.utf8_lower(encoded.dictionary))


def amounts_of(numbers: Mapping[str, npt.NDArray[np.float64]], num_rows: int) -> pa.Array:
    """Price times quantity of each row, float32; NaN without a price, quantity 1 if it is absent."""
    price = numbers.get("price", np.full(num_rows, np.nan))
    quantity = numbers.get("quantity", np.ones(num_rows))
    with np.errstate(over="ignore"):
        amounts = np.where(np.isfinite(quantity), price * quantity, price).astype(np.float32)
    return pa.array(np.where(np.isfinite(amounts), amounts, np.float32(np.nan)), pa.float32())


def is_purchase(name: str) -> bool:
    """Whether a type is named like a purchase."""
    return bool(_PURCHASE.search(name)) and not _NOT_PURCHASE.search(name)


def is_cart(name: str) -> bool:
    """Whether a type is named like an addition to a cart."""
    return bool(_CART.search(name)) and not _NOT_CART.search(name)


def choose_evaluated(
    types: LogTypes,
    *,
    target: Sequence[str],
    seen: Sequence[str],
    num_examples: Callable[[tuple[str, ...]], Mapping[str, int]],
) -> Evaluated:
    """What the flags say, else by the names of the types; `num_examples` counts the examples of a choice by split.

    Targets are purchases if validation and test have MIN_EXAMPLES examples each, else additions to a cart, else all
    events. Seen are the items of targets and of purchases. Raises DataRejected, which lists the types, for an
    unknown one.
    """
    chosen, given = _named(types, target, "--target"), _named(types, seen, "--seen")
    if len(types.names) < 2 and not target and not seen:
        return Evaluated()
    reason = f"--target {','.join(target)}"
    if chosen is None:
        chosen, reason = _default_targets(types, num_examples)
    if chosen and set(chosen) == set(types.names):
        chosen = ()
    seen_types: tuple[str, ...] | None
    if seen:
        seen_types = () if given == () and normalised(seen[0]) == NONE else given or None
    else:
        seen_types = tuple(name for name in types.names if name in chosen or is_purchase(name)) if chosen else None
    return Evaluated(chosen, seen_types, reason)


def _default_targets(
    types: LogTypes, num_examples: Callable[[tuple[str, ...]], Mapping[str, int]]
) -> tuple[tuple[str, ...], str]:
    """The first group of types with enough examples, and why."""
    tried: list[str] = []
    for what, is_one in (("purchases", is_purchase), ("additions to a cart", is_cart)):
        names = tuple(name for name in types.names if is_one(name))
        if not names or len(names) == len(types.names):
            continue
        counts = num_examples(names)
        if min(counts["val"], counts["test"]) >= MIN_EXAMPLES:
            return names, "; ".join([f"{what}, by name", *tried])
        tried.append(f"{counts['val']:,} + {counts['test']:,} examples of {','.join(names)} are under {MIN_EXAMPLES}")
    return (), "; ".join(["every event", *(tried or ["no type is named like a purchase or a cart"])])


def _named(types: LogTypes, names: Sequence[str], flag: str) -> tuple[str, ...] | None:
    """The types that a flag lists, () for `all` and `none`, None where the flag is absent."""
    if not names:
        return None
    wanted = [normalised(name) for name in names]
    if wanted == [ALL] or (wanted == [NONE] and flag == "--seen"):
        return ()
    listed = ", ".join(f"{name} ({count:,})" for name, count in (types.counts or {}).items())
    for name in wanted:
        if name not in types.names:
            known = f"its types are: {listed}" if listed else "it has none; name its column by --columns event_type="
            raise DataRejected(f"the log has no event type {name!r} as {flag} says; {known}")
    return tuple(sorted(set(wanted)))


def _check_number(names: Sequence[str]) -> None:
    if len(names) > MAX_EVENT_TYPES:
        raise DataRejected(
            f"the log has more than {MAX_EVENT_TYPES} event types, e.g. {', '.join(map(repr, names[:3]))}; "
            "name another column as event_type, or none: --columns event_type=ACTION"
        )
