"""Chooses between demand models and their blend on validation weeks, and fits what was chosen to all training weeks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.pricing.blend import Blend, Predictor, blend_weights, r2, wape
from models.pricing.design import Design, design_of
from models.pricing.panel import Floats, Panel

MIN_GAIN = 0.002
"""A blend is chosen over the best single model if its R2 on validation weeks is higher by this much."""


@dataclass(frozen=True)
class Choice:
    """The fitted models, the weight of each, and R2 and WAPE by model and of the blend on validation weeks.

    A single model has the weight 1 if the blend does not win. `design` is that of the whole panel, by training weeks.
    """

    models: Mapping[str, Predictor]
    weights: Mapping[str, float]
    validation: Mapping[str, tuple[float, float]]
    design: Design

    @property
    def chosen(self) -> Blend:
        """The model to use."""
        return Blend([self.models[name] for name in self.weights], list(self.weights.values()))


def choose(
    panel: Panel, fits: Mapping[str, Callable[[Design], Predictor]], *, folds: Sequence[tuple[int, int]], end: int
) -> Choice:
    """Fit every model before each fold (start, stop) of periods, weigh them on the folds, and refit before `end`.

    Raises ValueError if a fold is not after some periods and before `end`.
    """
    predicted: dict[str, list[Floats]] = {name: [] for name in fits}
    targets = []
    for start, stop in folds:
        before, held = panel.row_period < start, (panel.row_period >= start) & (panel.row_period < stop)
        if not before.any() or not held.any() or stop > end:
            raise ValueError(
                f"the fold of periods {start} to {stop - 1} needs rows before and in it, and to end by {end}"
            )
        design = design_of(panel, before)
        for name, fit in fits.items():
            predicted[name].append(fit(design.rows(before)).log_units(design.rows(held)))
        targets.append(design.rows(held).log_units)
    target = np.concatenate(targets)
    weights, validation = _weighed({name: np.concatenate(parts) for name, parts in predicted.items()}, target)
    is_training = panel.row_period < end
    design = design_of(panel, is_training)
    models = {name: fit(design.rows(is_training)) for name, fit in fits.items()}
    return Choice(models, weights, validation, design)


def _weighed(
    predicted: Mapping[str, Floats], target: Floats
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    weights = blend_weights(predicted, target)
    blended: Floats = np.sum([weights[name] * values for name, values in predicted.items()], axis=0)
    scores = {
        name: (r2(target, values), wape(target, values)) for name, values in (*predicted.items(), ("blend", blended))
    }
    best = max(predicted, key=lambda name: scores[name][0])
    if scores["blend"][0] < scores[best][0] + MIN_GAIN:
        weights = {name: float(name == best) for name in predicted}
    return weights, scores
