"""The image family's metrics: direction, title and meaning; a label's name may follow the name of a metric."""

from __future__ import annotations

from models.metrics import Metric

ACCURACY = Metric("accuracy", "max", "Accuracy", "Share of correct predictions.")

METRICS = (
    ACCURACY,
    Metric("log_loss", "min", "Log loss", "Mean negative log-likelihood of the label."),
    Metric("macro_f1", "max", "Macro F1", "Unweighted mean of the F1 of all classes."),
    Metric(
        "calibration_error",
        "min",
        "Calibration error",
        "Expected calibration error: mean gap between confidence and accuracy over bins of confidence.",
    ),
    Metric("fid", "min", "FID", "Fréchet distance of the features of generated and real images."),
    Metric("class_fidelity", "max", "Class fidelity", "Share of generated images classified as their class."),
    Metric(
        "reconstruction_error",
        "min",
        "Reconstruction error",
        "Share of the pixels' variance that is not reconstructed.",
    ),
    Metric(
        "strange_share",
        "min",
        "Share of anomalies",
        "Share of images with an anomaly score above the 99th percentile of the validation split.",
    ),
)
