"""Checks a family when it is constructed; each error names the member, its value and the remedy."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from models.config import Choice, LogUniform, Range, TrainConfig
from models.events.hook import events_path
from models.settings import check_setting

if TYPE_CHECKING:
    from models.family import AnyEndpoint, Family

BUNDLE_FILES = frozenset(
    (
        "config.json",
        "schema.json",
        "model.safetensors",
        "metrics.json",
        "golden.json",
        "MANIFEST.json",
        "state.json",
        "optimizer.safetensors",
        "card.json",
    )
)
"""Files that the jobs write next to those of a family."""
INSIDE = 0.377
"""A point inside a range, as a fraction of its width, that is no whole number for the usual ends."""


def check_family(family: Family) -> None:
    """Raise ValueError for inconsistent members of a family."""
    for check in (
        _check_names,
        _check_classes,
        _check_space,
        _check_unused_settings,
        _check_files,
        _check_endpoints,
        _check_streams,
        _check_paths,
        _check_gate,
    ):
        for problem in check(family):
            raise ValueError(problem)


def _check_names(family: Family) -> Iterator[str]:
    name = family.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield f"the name {name!r} of a family is not a plain word; use lower-case letters, digits and underscores"
    metrics = [each.name for each in family.all_metrics]
    for metric in metrics:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", metric):
            yield (
                f"{name} has the metric {metric!r}, a name that MLflow or a tag does not accept; use letters, digits "
                "and underscores, such as ndcg_at_10"
            )
    if repeated := _repeated(metrics):
        yield f"{name} has more than one metric {repeated!r}; rename one"
    if repeated := _repeated([each.name for each in family.features]):
        yield f"{name} has more than one feature {repeated!r}; rename one"


def _check_classes(family: Family) -> Iterator[str]:
    for member in ("Config", "PrepareConfig"):
        made: Any = getattr(family, member)
        parameters = getattr(made, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            yield f"{member} of {family.name} is {made!r}, not a frozen dataclass; use @dataclass(frozen=True)"
    if not issubclass(family.Config, TrainConfig):
        yield f"Config of {family.name} is {family.Config!r}; derive it from TrainConfig"
    for each in dataclasses.fields(family.Config):
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            yield f"the field {each.name!r} of {family.name}'s Config has no default; give it one"
    # Annotations are text where the module postpones their evaluation.
    if {each.name: each.type for each in dataclasses.fields(family.PrepareConfig)}.get("raw") not in (str, "str"):
        yield f"PrepareConfig of {family.name} has no field `raw: str`, the path of the raw data; add it"


def _check_space(family: Family) -> Iterator[str]:
    fields = {each.name for each in dataclasses.fields(family.Config)}
    for name, searched in family.space.items():
        where = f"the space of {family.name} searches {name!r}"
        if name not in fields:
            yield f"{where}, which is not a field of its Config; there are {', '.join(sorted(fields))}"
        elif isinstance(searched, Choice) and not searched.options:
            yield f"{where} among no options; give some, or leave it out"
        elif not isinstance(searched, Choice) and not -math.inf < searched.low < searched.high < math.inf:
            yield f"{where} from {searched.low} to {searched.high}; `low` must be less than `high`, and both finite"
        elif isinstance(searched, LogUniform) and searched.low <= 0:
            yield f"{where} from {searched.low} on a logarithmic scale; `low` must be positive, or use Uniform"
        else:
            yield from _check_values(family, where, name, searched)


def _check_values(family: Family, where: str, name: str, searched: Range) -> Iterator[str]:
    if isinstance(searched, Choice):
        values, remedy = searched.options, "name options that the field accepts"
    else:
        inside = searched.low + INSIDE * (searched.high - searched.low)
        values, remedy = (searched.low, inside, searched.high), "a range needs a float field; use Choice for others"
    for value in values:
        try:
            check_setting(family.Config, name, value)
        except ValueError as error:
            yield f"{where}, and {error}; {remedy}"


def _check_unused_settings(family: Family) -> Iterator[str]:
    known = {each.name for each in dataclasses.fields(family.Config)}
    for network, names in family.unused_settings.items():
        for name in names:
            if name not in known:
                yield (
                    f"{family.name} has {name!r} in the unused_settings of {network!r}, which is no field of Config; "
                    f"there are {', '.join(sorted(known))}"
                )


def _check_files(family: Family) -> Iterator[str]:
    for name in family.files:
        if name in ("", ".", "..") or not set(name).isdisjoint("/\\\0"):
            yield f"{family.name} has {name!r} among its `files`; use plain file names without a directory"
        if name in BUNDLE_FILES:
            yield f"{family.name} has {name!r} among its `files`, which the jobs write themselves; rename it"
    if repeated := _repeated(family.files):
        yield f"{family.name} has {repeated!r} more than once among its `files`; list each file once"


def _check_endpoints(family: Family) -> Iterator[str]:
    if not family.endpoints:
        yield f"{family.name} has no endpoint, and `predict` runs the first one; add one"
    if any(each.update for each in family.endpoints) and all(each.rows for each in family.features):
        yield f"{family.name} has an endpoint with `update`, and no feature without `rows` for it to write"
    for endpoint in family.endpoints:
        where = f"the endpoint {endpoint.path} of {family.name}"
        timeout_s = endpoint.answer_timeout_s
        if timeout_s is not None and not _is_positive(timeout_s):
            yield f"{where} has answer_timeout_s = {timeout_s}; use a positive number of seconds, or None"
        yield from _check_raw(where, endpoint)


def _check_raw(where: str, endpoint: AnyEndpoint) -> Iterator[str]:
    raw = endpoint.raw
    if raw is None:
        return
    if raw.field not in endpoint.Request.model_fields:
        yield (
            f"{where} takes a raw body as the field {raw.field!r}, which its {endpoint.Request.__name__} lacks; "
            f"there are {', '.join(endpoint.Request.model_fields)}"
        )
    if raw.max_bytes <= 0:
        yield f"{where} takes raw bodies of at most {raw.max_bytes} bytes; use a positive max_bytes"


def _check_streams(family: Family) -> Iterator[str]:
    for stream in family.streams:
        if stream.max_message_bytes <= 0:
            yield (
                f"the stream {stream.path} of {family.name} has max_message_bytes = {stream.max_message_bytes}; "
                "use a positive number"
            )


def _check_paths(family: Family) -> Iterator[str]:
    paths = [each.path for each in family.endpoints] + [each.path for each in family.streams]
    prefix = family.route_prefix.rstrip("/")
    # The service's own paths, with and without the prefix.
    taken = {"/healthz", "/metrics", "/v1/models", f"{prefix}/healthz", f"{prefix}/metrics", family.models_path}
    if family.events is not None:
        taken.add(events_path(family.route_prefix))
    for path in paths:
        where = f"the path {path} of {family.name}"
        if not path.startswith(f"{prefix}/") or paths.count(path) > 1:
            yield f"{where} must start with {prefix}/ and be unique"
        if found := re.search(r"[\s?#{}]", path):
            yield f"{where} has {found.group()!r}; a path must not have spaces, ?, # or braces"
        if path in taken:
            yield f"{where} is one of the service's own ({', '.join(sorted(taken))}); choose another"


def _check_gate(family: Family) -> Iterator[str]:
    for each in dataclasses.fields(family.gate):
        limit = getattr(family.gate, each.name)
        if not _is_positive(limit):
            yield f"the gate of {family.name} has {each.name} = {limit}; use a finite, positive number"


def _is_positive(number: float) -> bool:
    return 0 < number < math.inf


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
