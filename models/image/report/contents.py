"""The sections of an image report: confusion matrix, metrics by class, errors, calibration, robustness and saliency.

Shapes: N images, K classes of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.image.config import Config
from models.image.networks.autoencoder import Autoencoder
from models.image.networks.classifier import Classifier
from models.image.networks.gan import Gan
from models.image.report.anomalies import most_anomalous
from models.image.report.embedding_map import embedding_map
from models.image.report.generated import generated_section
from models.image.report.predictions import Misclassification, SplitPredictions, predict_split, words
from models.image.report.robustness import robustness
from models.image.report.saliency import saliency
from models.image.report.thumbnails import thumbnail
from models.image.report.titles import titles_section
from models.image.schema import Schema
from models.metrics import calibration_error, confusion, reliability
from models.prepared import Prepared
from models.report import Cell, Content, Gallery, Matrix, Picture, Plot, Section, Table

MAX_MATRIX = 30
"""Maximum number of classes of the first head for which a confusion matrix is shown."""
NUM_PAIRS = 10, 4
"""Rows of the table of most frequent confusions, for the first head and for each other one."""
NUM_EXAMPLES = 3
NUM_ERRORS = 14, 7
MAX_UNFOLDED = 12
MIN_BIN = 10
"""Bins with fewer images are left out of the reliability diagram."""
HIGH_CONFIDENCE = 0.9


def report(
    network: Classifier | Autoencoder | Gan, data: Prepared, split: str, *, schema: Schema, config: Config
) -> list[Section]:
    """The sections of a classifier, or of a GAN; none for the prior baseline, or without labels."""
    if isinstance(network, Gan):
        return [generated_section(network, data, split, schema=schema)]
    classifier = network.linear_probe if isinstance(network, Autoencoder) else network
    if not isinstance(classifier, Classifier) or config.network == "prior":
        return []
    predictions = predict_split(classifier, data, split, schema=schema)
    if len(predictions.known(next(iter(schema.heads)))) == 0:
        return []
    sections = [
        confusions(predictions),
        metrics_by_class(predictions),
        most_confident_errors(predictions),
        calibration(predictions),
        robustness(classifier, predictions),
        saliency(classifier, predictions),
        embedding_map(predictions),
        most_anomalous(network, predictions) if isinstance(network, Autoencoder) else None,
        titles_section(classifier, predictions, data),
    ]
    return [section for section in sections if section is not None]


def confusions(predictions: SplitPredictions) -> Section:
    """The confusion matrix, and the most frequent confusions with example images."""
    content: list[Content] = []
    for number, head in enumerate(predictions.heads):
        classes = predictions.schema.heads[head]
        counts = _counts(predictions, head)
        if number == 0 and len(classes) <= MAX_MATRIX:
            content.append(Matrix(classes, counts.tolist(), "label", "prediction", f"Confusion matrix: {words(head)}"))
        pairs = _pairs(predictions, head, at_most=NUM_PAIRS[min(number, 1)])
        if pairs:
            columns = ["Label", "Prediction", "Images", "Share of the label", "Most confident examples"]
            content.append(Table(f"mixed_up_{head}", columns, pairs, f"Most frequent confusions: {words(head)}"))
    reading = (
        "Number of images by label and prediction, with correct predictions in framed cells; before you blame the "
        "model for a confusion, check whether a person can distinguish the images."
    )
    return Section("Confusion matrix", reading, content)


def metrics_by_class(predictions: SplitPredictions) -> Section:
    """Precision, recall and F1 of every class."""
    content: list[Content] = []
    numbers = {}
    for head in predictions.heads:
        classes = predictions.schema.heads[head]
        counts = _counts(predictions, head)
        correct, labelled, predicted = counts.diagonal().double(), counts.sum(1).double(), counts.sum(0).double()
        shares = torch.stack([correct / predicted, correct / labelled, 2 * correct / (labelled + predicted)], 1)
        order = [
            index
            for index in labelled.argsort(descending=True, stable=True).tolist()
            if labelled[index] + predicted[index]
        ]
        rows: list[list[Cell]] = [[classes[index], *shares[index].tolist(), int(labelled[index])] for index in order]
        folded = head != predictions.heads[0] or len(rows) > MAX_UNFOLDED
        title = f"{words(head).capitalize()}: {len(rows)} classes"
        columns = ["Class", "Precision", "Recall", "F1", "Images"]
        content.append(Table(f"classes_of_{head}", columns, rows, title, folded))
        numbers[f"macro_recall_{head}"] = float(shares[labelled > 0, 1].mean())
        numbers[f"macro_precision_{head}"] = float(shares[predicted > 0, 0].mean())
    reading = (
        "Precision is the share of correct predictions of the class, recall the share of its images that are found, F1 "
        "their harmonic mean; with few images all three are noisy."
    )
    return Section("Metrics by class", reading, content, numbers)


def most_confident_errors(predictions: SplitPredictions) -> Section:
    """The incorrect predictions with the highest confidence."""
    content: list[Content] = []
    numbers = {}
    for number, head in enumerate(predictions.heads):
        misclassified = predictions.misclassified(head)
        shown = [
            _example(predictions, head, misclassification, captioned=True)
            for misclassification in misclassified[: NUM_ERRORS[min(number, 1)]]
        ]
        title = words(head).capitalize() if len(predictions.heads) > 1 else ""
        content += [Gallery(shown, title)] if shown else []
        num_confident = sum(misclassification.confidence >= HIGH_CONFIDENCE for misclassification in misclassified)
        numbers[f"sure_but_wrong_{head}"] = num_confident / len(predictions.known(head))
    shares = ", ".join(f"{words(name.removeprefix('sure_but_wrong_'))} {share:.1%}" for name, share in numbers.items())
    content.append(
        f"Share of all images with an incorrect prediction at a confidence of {HIGH_CONFIDENCE:.0%} or more: {shares}."
    )
    reading = (
        "The incorrect predictions with the highest confidence; some may be label errors in the catalogue, which you "
        "can correct by the name below each image."
    )
    return Section("Most confident errors", reading, content, numbers)


def calibration(predictions: SplitPredictions) -> Section:
    """Reliability diagram and expected calibration error, with and without temperature scaling."""
    first = predictions.heads[0]
    curves = {
        "with temperature scaling, as served": _reliability(predictions, first, predictions.probabilities[first])[0],
        "without temperature scaling": _reliability(predictions, first, predictions.uncalibrated(first))[0],
    }
    rows: list[list[Cell]] = []
    numbers = {}
    for head in predictions.heads:
        before = _reliability(predictions, head, predictions.uncalibrated(head))[1]
        after = _reliability(predictions, head, predictions.probabilities[head])[1]
        rows.append([words(head), before, after, predictions.temperatures[head]])
        numbers[f"calibration_error_before_{head}"] = before
    columns = ["Label", "ECE without temperature scaling", "ECE", "Temperature"]
    title = f"Accuracy of {words(first)} by confidence"
    axes = ("confidence", "accuracy")
    content: list[Content] = [
        Plot(title, curves, axes, joined=True, diagonal="perfect calibration"),
        f"Each point is a bin of {MIN_BIN} or more images of similar confidence.",
        Table("calibration", columns, rows, "Expected calibration error"),
    ]
    reading = (
        "Points below the diagonal show overconfidence, points above it underconfidence; the logits are divided by a "
        "temperature, chosen on the validation split, to correct both."
    )
    return Section("Calibration", reading, content, numbers)


def _counts(predictions: SplitPredictions, head: str) -> Tensor:
    """Confusion matrix [K, K] by label and prediction."""
    known = predictions.known(head)
    predicted = predictions.probabilities[head][known].argmax(1)
    return confusion(predictions.labels_of(head)[known], predicted, num_classes=len(predictions.schema.heads[head]))


def _pairs(predictions: SplitPredictions, head: str, *, at_most: int) -> list[list[Cell]]:
    """Rows of the most frequent confusions: label, prediction, count, share of the label's images, examples."""
    classes, counts = predictions.schema.heads[head], _counts(predictions, head)
    examples: dict[tuple[int, int], list[Misclassification]] = {}
    for misclassification in predictions.misclassified(head):
        examples.setdefault((misclassification.label, misclassification.predicted), []).append(misclassification)
    largest = sorted(examples, key=lambda pair: (-len(examples[pair]), pair))[:at_most]
    return [
        [
            classes[label],
            classes[predicted],
            int(counts[label, predicted]),
            float(counts[label, predicted] / counts[label].sum()),
            tuple(_example(predictions, head, each) for each in examples[label, predicted][:NUM_EXAMPLES]),
        ]
        for label, predicted in largest
    ]


def _example(
    predictions: SplitPredictions, head: str, misclassification: Misclassification, *, captioned: bool = False
) -> Picture:
    label, predicted = (
        predictions.schema.heads[head][index] for index in (misclassification.label, misclassification.predicted)
    )
    name = predictions.names[misclassification.index]
    text = f"{name}: {label}, predicted as {predicted} with a confidence of {misclassification.confidence:.1%}"
    caption = f"{label}, predicted as {predicted}, {misclassification.confidence:.1%} ({name})" if captioned else ""
    return thumbnail(predictions.pixels(misclassification.index), text, caption)


def _reliability(
    predictions: SplitPredictions, head: str, probabilities: Tensor
) -> tuple[list[tuple[float, float]], float]:
    """Mean confidence and accuracy of each bin with enough images, and the expected calibration error."""
    known = predictions.known(head)
    confidence, predicted = probabilities[known].max(1)
    bins = reliability(confidence, predicted == predictions.labels_of(head)[known])
    full = bins[bins[:, 0] >= MIN_BIN]
    points = [(sums / count, hits / count) for count, sums, hits in full.tolist()]
    return points, calibration_error(bins)
