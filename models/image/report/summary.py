"""Metrics of the whole: macro F1, calibration error, and of a GAN the Fréchet distance."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.image.networks.frechet import frechet
from models.image.schema import Schema
from models.metrics import calibration_error


def summarise(accumulators: Mapping[str, Tensor], schema: Schema) -> dict[str, float]:
    """Macro F1 over the classes that occur and the expected calibration error of every head; of a gan also the FID."""
    found = {}
    for head in schema.heads:
        found[f"macro_f1_{head}"] = _macro_f1(accumulators[f"confusion/{head}"])
        found[f"calibration_error_{head}"] = calibration_error(accumulators[f"reliability/{head}"])
    if "moments/made" in accumulators:
        found["fid"] = frechet(accumulators["moments/real"], accumulators["moments/made"])
    return found


def _macro_f1(confusion_KK: Tensor) -> float:
    labelled, predicted = confusion_KK.sum(1), confusion_KK.sum(0)
    scores = 2 * confusion_KK.diagonal() / (labelled + predicted).clamp_min(1)
    return float(scores[labelled > 0].mean()) if bool((labelled > 0).any()) else 0.0
