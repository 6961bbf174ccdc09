"""A loaded model with everything that a request or a connection needs."""

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
"""Called with (path, model version, batch size) for every batch."""


@dataclass(frozen=True)
class Loaded:
    """The model of a request or connection from start to end, even if another one is deployed meanwhile."""

    version: str
    model: Bundle
    features: StoredFeatures
    answerers: Mapping[str, Answerer]
    """Path of an endpoint or stream -> its answerer."""
    predicts: Mapping[str, Predict]
    """Path of an endpoint or stream -> its batch prediction function."""
    loaded_at: str


def make_loaded(
    family: Family, model: Bundle, *, version: str, features: StoredFeatures, observe: Observer, loaded_at: str
) -> Loaded:
    """A model with an answerer for every path of its family."""
    routes: list[AnyEndpoint | AnyStream] = [*family.endpoints, *family.streams]
    answerers = {each.path: Answerer(family, each, model.network, model.schema, version) for each in routes}
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
