"""Blends of demand models, with weights that are chosen on validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from models.pricing.design import Design
from models.pricing.panel import Floats


class Predictor(Protocol):
    """A fitted model of demand."""

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        ...


@dataclass(frozen=True)
class Blend:
    """The weighted mean of the log units of several models; falls with the own price if all of them do."""

    models: Sequence[Predictor]
    weights: Sequence[float]

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        pairs = [(one, weight) for one, weight in zip(self.models, self.weights, strict=True) if weight]
        result: Floats = np.sum([weight * one.log_units(design) for one, weight in pairs], axis=0)
        return result


def blend_weights(predictions: Mapping[str, Floats], target: Floats) -> dict[str, float]:
    """Weights by model that add up to one, none negative, with the least squared error on validation rows."""
    if not predictions:
        raise ValueError("a blend needs the predictions of at least one model")
    errors = np.stack([target - one for one in predictions.values()], axis=1)
    strength = 1e3 * np.sqrt(np.square(errors).sum() + 1.0)
    rows = np.concatenate([errors, np.full((1, errors.shape[1]), strength)])
    found, _ = nnls(rows, np.append(np.zeros(len(errors)), strength))
    found = np.where(found < 1e-3, 0.0, found)
    return dict(zip(predictions, (found / found.sum()).tolist(), strict=True))


def r2(target: Floats, predicted: Floats) -> float:
    """The share of the variance of log units that is explained."""
    return float(1 - np.square(target - predicted).sum() / np.square(target - target.mean()).sum())


def wape(target: Floats, predicted: Floats) -> float:
    """The summed absolute error of units by their sum, from log units."""
    return float(np.abs(np.exp(target) - np.exp(predicted)).sum() / np.exp(target).sum())
