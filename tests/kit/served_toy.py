"""Serves the extended toy family on a cluster whose processes have not registered it."""

from __future__ import annotations

import dataclasses
from typing import Any

from models import FAMILIES
from models.family import Family
from serve.app import Model
from tests.kit.toy_extras import SOUNDS, first

BUILDER = "tests.kit.served_toy:build"
PREFIX = "/v1/toy"


def _below_prefix(family: Family) -> Family:
    def moved(each: Any) -> Any:
        return dataclasses.replace(each, path=each.path.replace("/v1", PREFIX))

    endpoints, streams = [moved(each) for each in family.endpoints], [moved(each) for each in family.streams]
    return dataclasses.replace(family, route_prefix=PREFIX, endpoints=endpoints, streams=streams)


FAMILY = _below_prefix(first(SOUNDS))


class FamilyName(str):
    """The family's name; unpickling it registers the family in the receiving process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _register, (str(self),)


def _register(name: str) -> FamilyName:
    FAMILIES[name] = FAMILY
    return FamilyName(name)


def build(args: dict[str, Any]) -> Any:
    """Like `serve.app:build`, for this family."""
    deployment: Any = Model
    return deployment.bind(FamilyName(FAMILY.name), 1)
