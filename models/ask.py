"""From a request to its answer: encode, collate, predict, answer. The service, batch prediction and the gate use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from models.family import AnyEndpoint, AnyStream, Family, Features

NO_FEATURES: Features = {}


@dataclass(frozen=True)
class Answerer:
    """An endpoint, or the examples of a stream, with the model that answers there."""

    family: Family
    endpoint: AnyEndpoint | AnyStream
    network: nn.Module
    """In evaluation mode."""
    schema: Any
    model_version: str

    def encode(self, request: BaseModel, features: Features = NO_FEATURES) -> list[Any]:
        """The examples of a request; ValueError when it has none that can be answered."""
        assert isinstance(self.endpoint, AnyEndpoint), "a stream encodes messages, not requests"
        return list(self.endpoint.encode(request, self.schema, features))

    def predict(self, examples: Sequence[Any]) -> list[Any]:
        """One prediction per example, on the network's device; the examples may belong to several requests."""
        if not examples:
            return []
        with torch.inference_mode():
            batch = self.family.collate(examples).to(device_of(self.network))
            predictions = list(self.endpoint.predict(self.network, batch))
        assert len(predictions) == len(examples), "predict gives one prediction per example"
        return predictions

    def answer(self, request: BaseModel, predictions: Sequence[Any]) -> BaseModel:
        """The response to a request, given the predictions for its examples in their order."""
        assert isinstance(self.endpoint, AnyEndpoint), "a stream answers messages, not requests"
        response: BaseModel = self.endpoint.answer(request, predictions, self.schema, self.model_version)
        return response

    def __call__(self, request: BaseModel, features: Features = NO_FEATURES) -> BaseModel:
        """The response to one request by itself."""
        return self.answer(request, self.predict(self.encode(request, features)))


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first tensor; a CPU where it has none."""
    return next(iter(network.state_dict().values()), torch.empty(0)).device
