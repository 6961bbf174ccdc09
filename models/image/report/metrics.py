"""How people are told of the image family's metrics; a label column's name follows the metric's."""

from __future__ import annotations

from models.metrics import Metric

ACCURACY = Metric("accuracy", "max", "Accuracy", "Share of pictures whose label is recognised.")

METRICS = (
    ACCURACY,
    Metric("log_loss", "min", "Log loss", "Minus the logarithm of the probability of the right class, on average."),
    Metric("macro_f1", "max", "Macro F1", "F1 of each class, averaged: a rare class counts as much as any other."),
    Metric(
        "calibration_error",
        "min",
        "Calibration error",
        "How far the confidence is from the share that is right, on average over bins of confidence.",
    ),
    Metric("fid", "min", "FID", "Fréchet distance of the features of generated and real pictures."),
    Metric("class_fidelity", "max", "Class fidelity", "Share of generated pictures recognised as their class."),
    Metric("reconstruction_error", "min", "Reconstruction error", "Share of the pixels' variance that is lost."),
    Metric("strange_share", "min", "Share of anomalies", "Share of pictures that are unlike those trained on."),
)
