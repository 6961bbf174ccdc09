"""A loaded model with everything that a request or a connection needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.ask import Answerer, predict
from models.bundle import Bundle
from models.family import AnyEndpoint, AnyStream
from serve.batching import Predict
from serve.live_items import LiveCatalogue
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
    """Path of an endpoint -> its answerer."""
    predicts: Mapping[str, Predict]
    """Path of an endpoint or stream -> its batch prediction function."""
    loaded_at: str
    live: LiveCatalogue | None = None
    """The live items, if the deployment keeps any."""


def make_loaded(
    model: Bundle,
    *,
    version: str,
    features: StoredFeatures,
    observe: Observer,
    loaded_at: str,
    live: LiveCatalogue | None = None,
) -> Loaded:
    """A model with what answers every path of its family."""
    family = model.family
    routes: list[AnyEndpoint | AnyStream] = [*family.endpoints, *family.streams]
    return Loaded(
        version=version,
        model=model,
        features=features,
        answerers={
            each.path: Answerer(
                family, each, model.network, model.schema, version, live=dict if live is None else live.features
            )
            for each in family.endpoints
        },
        predicts={each.path: _observed(model, each, version, observe) for each in routes},
        loaded_at=loaded_at,
        live=live,
    )


def _observed(model: Bundle, route: AnyEndpoint | AnyStream, version: str, observe: Observer) -> Predict:
    def observed(examples: Sequence[Any]) -> list[Any]:
        observe(route.path, version, len(examples))
        return predict(model.family, route, model.network, examples)

    return observed
