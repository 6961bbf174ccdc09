"""What a sweep searches: ranges of the family and the command line, and earlier settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, UsageFailure, log
from jobs.cli.flags import Parser, UsageError, flag_name
from jobs.training import trials
from models.bundle import former_names
from models.config import Choice, LogUniform, Range, Uniform
from models.family import Family

TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
"""How a setting that is a switch is written."""
WARM_TRIALS = 3
"""Settings of an earlier sweep that are tried first."""
MAX_INTEGERS = 100
"""Longest range of whole numbers, each of which is a choice."""


def search_space(
    family: Family, config: Any, fix: Sequence[str], given: Sequence[str] = (), *, default: Any | None = None
) -> tuple[dict[str, Range], Any]:
    """The hyperparameters to search, and the config with the fixed ones; raises UsageFailure for unknown names.

    A setting is fixed where it differs from `default`, which is that of the family if it is not given. `given` are
    ranges as text, see `parse_range`, which replace or join those of the family.
    """
    default = default or family.Config()
    fixed = {name for name, value in vars(config).items() if value != getattr(default, name)}
    _refuse_repeated(family, "--fix", fix)
    _refuse_repeated(family, "--space", given)
    for entry in fix:
        name, value = _setting(family, "--fix", entry, entry.partition("=")[2])
        config = dataclasses.replace(config, **{name: value})
        fixed.add(name)
    space = {name: dimension for name, dimension in family.space.items() if name not in fixed}
    for entry in given:
        name, dimension = parse_range(family, entry)
        if name in fixed:
            raise UsageFailure(f"--space {entry}: {name} is fixed, by --fix or its own flag; leave one of them out")
        space[name] = dimension
    if not space:
        raise UsageFailure(f"all hyperparameters of {family.name} are fixed, nothing is left to search; use `train`")
    return space, config


def is_inside(value: Any, dimension: Range) -> bool:
    """Whether a range has a value."""
    if isinstance(dimension, Choice):
        return value in dimension.options
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and bool(dimension.low <= value <= dimension.high)


def fits(sample: Mapping[str, Any], space: Mapping[str, Range]) -> bool:
    """Whether settings have a value in each range of a space."""
    return all(name in sample and is_inside(sample[name], dimension) for name, dimension in space.items())


def earlier_settings(context: Context, family: Family, run_id: str, space: Mapping[str, Range]) -> list[dict[str, Any]]:
    """The best WARM_TRIALS settings of an earlier sweep that `space` has, best first; UsageFailure without a sweep."""
    directory = context.store.run_directory(family.name, run_id)
    is_name = Path(run_id).name == run_id
    table = trials.read_table(directory, f"best_val_{family.metric.name}", cores=1) if is_name else []
    scored = [row for row in table if row.score is not None and math.isfinite(row.score)]
    if not scored and any(row.metrics or row.epochs for row in table):
        raise UsageFailure(
            f"--warm-start {run_id}: its trials were not ranked by {family.metric.name}; give that sweep's --metric"
        )
    if not scored:
        raise UsageFailure(f"--warm-start {run_id}: the store has no sweep of {family.name} with trials of this id")
    sign = -1 if family.metric.mode == "max" else 1
    scored.sort(key=lambda row: sign * (row.score or 0.0))
    found = [{name: row.sample[name] for name in space} for row in scored if fits(row.sample, space)][:WARM_TRIALS]
    log.info("the best %d trials of %s that are in the space to search are tried first", len(found), run_id)
    return found


def _given_name(entry: str) -> str:
    """The name in NAME=..., in the spelling of a field."""
    return entry.partition("=")[0].replace("-", "_")


def _refuse_repeated(family: Family, flag: str, entries: Sequence[str]) -> None:
    """Raise UsageFailure if a setting comes twice, of which one would be lost."""
    former = former_names(family.Config)
    names = [former.get(name, (name, ""))[0] for name in map(_given_name, entries)]
    for name, entry in zip(names, entries, strict=True):
        if names.count(name) > 1:
            raise UsageFailure(f"{flag} {entry}: {name} comes {names.count(name)} times; give it once")


def parse_range(family: Family, entry: str) -> tuple[str, Range]:
    """NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=A,B,C as a range of a setting, whose ends its flag would accept."""
    text = entry.partition("=")[2]
    is_log = text.startswith("log:")
    ends = text.removeprefix("log:").split(":")
    if len(ends) > 2 or (is_log and len(ends) == 1) or "=" in text or not all(ends):
        raise UsageFailure(f"--space {entry} is neither NAME=LOW:HIGH, NAME=log:LOW:HIGH nor NAME=A,B,C")
    words = ends if len(ends) == 2 else text.split(",")
    parsed = [_setting(family, "--space", entry, word) for word in words]
    name, values = parsed[0][0], [value for _, value in parsed]
    if len(ends) == 2:
        return name, _between(entry, name, *values, is_log=is_log)
    if len(set(values)) < 2:
        raise UsageFailure(f"--space {entry} has one value; use --fix {entry}")
    return name, Choice(tuple(values))


def _between(entry: str, name: str, low: Any, high: Any, *, is_log: bool) -> Range:
    """The range of two values of a setting; raises UsageFailure if there is none."""
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
        raise UsageFailure(f"--space {entry}: {name} is no number; list its values, NAME=A,B,C")
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UsageFailure(f"--space {entry}: {low} is not less than {high}, or one of them is no finite number")
    if isinstance(low, int) and isinstance(high, int):
        if is_log or high - low >= MAX_INTEGERS:
            raise UsageFailure(f"--space {entry}: list the whole numbers to try, such as {name}={low},{high}")
        return Choice(tuple(range(low, high + 1)))
    if is_log and not low > 0:
        raise UsageFailure(f"--space {entry}: a logarithmic range begins above 0")
    return LogUniform(low, high) if is_log else Uniform(low, high)


def _setting(family: Family, flag: str, entry: str, text: str) -> tuple[str, Any]:
    """Name and value of the field that `flag entry` sets to a text, which is parsed like the flag of that name."""
    fields, given = {field.name: field for field in dataclasses.fields(family.Config)}, _given_name(entry)
    name, _ = former_names(family.Config).get(given, (given, ""))
    if name not in fields:
        raise UsageFailure(
            f"{flag} {entry}: {family.name} has no setting {given!r}; there are {', '.join(sorted(fields))}"
        )
    if not text:
        raise UsageFailure(f"{flag} {entry} is not NAME=VALUE")
    if isinstance(fields[name].default, bool):
        if text.lower() not in TRUTHS:
            raise UsageFailure(f"{flag} {entry}: {name} is a switch, and {text!r} is neither true nor false")
        return name, TRUTHS[text.lower()]
    try:
        prog = f"shopkeeper sweep {family.name}"
        (config,) = Parser({"Settings": family.Config}, prog=prog, description="").read([f"{flag_name(given)}={text}"])
    except UsageError as error:
        raise UsageFailure(f"{flag} {entry}: {error}") from error
    return name, getattr(config, name)
