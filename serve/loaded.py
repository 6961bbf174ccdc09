"""A model that is ready to answer, with all that a request or a connection needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.ask import Answerer
from models.bundle import Bundle
from models.family import AnyEndpoint, AnyStream, Family
from serve.batching import Predict
from serve.stored_features import StoredFeatures

Observer = Callable[[str, str, int], None]
"""Told (path, model version, batch size) of every batch."""


@dataclass(frozen=True)
class Loaded:
    """A request sees one of these from start to end, and so does a connection, whatever is deployed meanwhile."""

    version: str
    model: Bundle
    features: StoredFeatures
    answerers: Mapping[str, Answerer]
    """Path of an endpoint or stream -> the model there."""
    predicts: Mapping[str, Predict]
    """Path of an endpoint or stream -> what runs a batch of its examples."""
    loaded_at: str


def make_loaded(
    family: Family, model: Bundle, *, version: str, features: StoredFeatures, observe: Observer, loaded_at: str
) -> Loaded:
    """A model at every path of its family."""
    places: list[AnyEndpoint | AnyStream] = [*family.endpoints, *family.streams]
    answerers = {each.path: Answerer(family, each, model.network, model.schema, version) for each in places}
    return Loaded(
        version=version,
        model=model,
        features=features,
        answerers=answerers,
        predicts={path: _observed(path, answerer, observe) for path, answerer in answerers.items()},
        loaded_at=loaded_at,
    )


def _observed(path: str, answerer: Answerer, observe: Observer) -> Predict:
    def predict(examples: Sequence[Any]) -> list[Any]:
        observe(path, answerer.model_version, len(examples))
        return answerer.predict(examples)

    return predict
