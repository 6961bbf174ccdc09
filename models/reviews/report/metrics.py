"""The reviews family's metrics: what each measures, and those of the whole split."""

from __future__ import annotations

import numpy as np
import torch

from models.metrics import Kept, Metric, calibration_error, reliability


def macro_f1(kept: Kept) -> float:
    """Mean F1 over the classes that occur among the labels; NaN without a known label."""
    known = kept["label"] >= 0
    label, predicted = kept["label"][known], kept["predicted"][known]
    scores = []
    for number in np.unique(label):
        right = float(((label == number) & (predicted == number)).sum())
        scores.append(2 * right / float((label == number).sum() + (predicted == number).sum()))
    return float(np.mean(scores)) if scores else float("nan")


def expected_calibration_error(kept: Kept) -> float:
    """Mean gap between confidence and accuracy over bins of confidence; NaN without a known label."""
    known = kept["label"] >= 0
    if not known.any():
        return float("nan")
    is_right = torch.from_numpy((kept["label"] == kept["predicted"])[known])
    return calibration_error(reliability(torch.from_numpy(kept["confidence"][known]).double(), is_right))


ACCURACY = Metric("accuracy", "max", "Accuracy", "Share of texts whose class is right.")

METRICS = (
    ACCURACY,
    Metric("macro_f1", "max", "Macro F1", "Unweighted mean of the F1 of all classes.", compute=macro_f1),
    Metric("log_loss", "min", "Log loss", "Mean negative log-likelihood of the class."),
    Metric(
        "calibration_error",
        "min",
        "Calibration error",
        "Expected calibration error: mean gap between confidence and accuracy over bins of confidence.",
        compute=expected_calibration_error,
    ),
    Metric("unsure_share", "min", "Unsure", "Share of texts whose answer is marked as unsure."),
    Metric("confident_accuracy", "max", "Accuracy when sure", "Share of right answers among those not unsure."),
)
