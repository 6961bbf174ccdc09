"""From a request to its response: encode, collate, predict, answer; for the service, batch prediction and the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from models.family import AnyEndpoint, AnyStream, Family, Features

if TYPE_CHECKING:
    import torch
    from torch import nn

NO_FEATURES: Features = {}


@dataclass(frozen=True)
class Answerer:
    """An endpoint, with the model that answers its requests."""

    family: Family
    endpoint: AnyEndpoint
    network: nn.Module
    """In evaluation mode."""
    schema: Any
    model_version: str
    live: Callable[[], Features] = dict
    """Features beyond the stored ones, as they are at the time of a request: the view of live items."""

    def encode(self, request: BaseModel, features: Features = NO_FEATURES) -> list[Any]:
        """The examples of a request; raises ValueError for one that cannot be answered."""
        return list(self.endpoint.encode(request, self.schema, {**features, **self.live()}))

    def predict(self, examples: Sequence[Any]) -> list[Any]:
        """One prediction per example, in order."""
        return predict(self.family, self.endpoint, self.network, examples)

    def answer(self, request: BaseModel, predictions: Sequence[Any]) -> BaseModel:
        """The response to a request, given the predictions of its examples, in order."""
        response: BaseModel = self.endpoint.answer(request, predictions, self.schema, self.model_version)
        return response

    def __call__(self, request: BaseModel, features: Features = NO_FEATURES) -> BaseModel:
        """The response to a single request."""
        return self.answer(request, self.predict(self.encode(request, features)))


def predict(family: Family, route: AnyEndpoint | AnyStream, network: nn.Module, examples: Sequence[Any]) -> list[Any]:
    """One prediction per example, on the network's device; the examples may come from several requests."""
    if not examples:
        return []
    import torch

    with torch.inference_mode():
        batch = family.collate(examples).to(device_of(network))
        predictions = list(route.predict(network, batch))
    assert len(predictions) == len(examples), "predict gives one prediction per example"
    return predictions


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first tensor; the CPU if it has none."""
    import torch

    return next(iter(network.state_dict().values()), torch.empty(0)).device
