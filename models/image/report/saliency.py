"""The report section with saliency maps by occlusion.

Zeiler and Fergus, 2014, arXiv:1311.2901, implemented by captum; it needs no gradients, so it works for any network.

Shapes: B images, C channels, S side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.extras import extra
from models.image.codec import Pixels
from models.image.data import Batch
from models.image.networks.classifier import Classifier
from models.image.report.predictions import SplitPredictions
from models.image.report.thumbnails import MAX_SIDE, thumbnail
from models.report import Gallery, Picture, Section

WINDOW, STRIDE = 1 / 4, 1 / 14
"""Side and stride of the occluding square, as fractions of the image side."""
WINDOWS_AT_ONCE = 32
MIN_EFFECT = 1e-3
"""Smallest attribution that is shown, as a change of the confidence."""
FADED, PAPER = 0.25, 215.0
"""Contrast of regions without attribution, and the grey they fade to."""
OUTLINE = (255.0, 110.0, 0.0)


def saliency(network: Classifier, predictions: SplitPredictions) -> Section | None:
    """Saliency of a typical and of an unsure correct prediction and of the most confident error."""
    head = predictions.heads[0]
    classes = predictions.schema.heads[head]
    images: list[Picture] = []
    for index in _examples(predictions, head):
        pixels, (confidence, predicted) = predictions.pixels(index), predictions.probabilities[head][index].max(0)
        weight = attribution(network, pixels, head=head, predicted=int(predicted))
        if float(weight.max()) < MIN_EFFECT:
            continue
        answer, label = classes[int(predicted)], classes[int(predictions.labels_of(head)[index])]
        outcome = "correct" if answer == label else f"label {label}"
        caption = f"{answer}, {float(confidence):.0%}; {outcome} ({predictions.names[index]})"
        region = f"{answer}: mainly {_region(weight)}"
        images += [thumbnail(pixels, caption, caption), thumbnail(with_outline(pixels, weight), region, region)]
    if not images:
        return None
    reading = (
        "The outline encloses half of the attribution, and faded regions have little effect; if it encloses the "
        "background, the absence of something there matters, or the model uses a spurious feature."
    )
    note = (
        "Occlusion: a grey square of a quarter of the side is moved over the image, and the loss of confidence is "
        "attributed to the pixels it hides."
    )
    return Section("Saliency", reading, [Gallery(images), note])


def attribution(network: Classifier, pixels: Pixels, *, head: str, predicted: int) -> Tensor:
    """Attribution [S, S] of the probability of a class to each pixel, averaged over the squares that cover it."""
    with extra("image"):
        from captum.attr import Occlusion  # it brings matplotlib, which only a report needs

    channels, side, _ = pixels.shape
    window, stride = max(2, round(WINDOW * side)), max(1, round(STRIDE * side))
    no_labels = torch.empty(0, 0, dtype=torch.int64)

    def probability(images_BCSS: Tensor) -> Tensor:
        outputs = network.predict(Batch(images_BCSS, no_labels))
        return torch.tensor([output.probabilities[head][predicted] for output in outputs])

    grey = (network.mean * 255).expand(channels, side, side)
    with torch.inference_mode():
        attributions: Tensor = Occlusion(probability).attribute(
            torch.tensor(pixels).float()[None],
            sliding_window_shapes=(channels, window, window),
            strides=(channels, stride, stride),
            baselines=grey[None],
            perturbations_per_eval=WINDOWS_AT_ONCE,
        )
    return attributions[0].mean(0)


def with_outline(pixels: Pixels, weight_SS: Tensor) -> Pixels:
    """The image [3, MAX_SIDE, MAX_SIDE], faded at low attribution, with an outline around half of the attribution."""
    image = F.interpolate(torch.tensor(pixels).float()[None], size=(MAX_SIDE, MAX_SIDE))[0].expand(3, -1, -1)
    weight = F.interpolate(weight_SS.clamp_min(0)[None, None], size=(MAX_SIDE, MAX_SIDE), mode="bilinear")[0, 0]
    contrast = FADED + (1 - FADED) * weight / weight.max()
    marked = PAPER + contrast * (image - PAPER)
    inside = smallest_half(weight)
    # Pixels next to one outside; the border of the image is not part of the outline.
    edge = inside & (F.max_pool2d((~inside).float()[None], 5, stride=1, padding=2)[0] > 0)
    marked = torch.where(edge, torch.tensor(OUTLINE)[:, None, None], marked)
    return marked.round().to(torch.uint8).numpy()


def smallest_half(weight_SS: Tensor) -> Tensor:
    """The smallest set of pixels [S, S] with half of the sum of non-negative weights."""
    values, order = weight_SS.flatten().sort(descending=True, stable=True)
    before = values.cumsum(0) - values
    inside = torch.zeros(weight_SS.numel(), dtype=torch.bool)
    inside[order] = before < values.sum() / 2
    return inside.reshape(weight_SS.shape)


def _examples(predictions: SplitPredictions, head: str) -> list[int]:
    """Indices of the images to explain."""
    labels, (confidence, predicted) = predictions.labels_of(head), predictions.probabilities[head].max(1)
    correct = (labels == predicted).nonzero().squeeze(1)
    order = correct[confidence[correct].argsort(stable=True)].tolist()
    # The most confident prediction may be unusual; that of median confidence is typical.
    examples = dict.fromkeys([order[len(order) // 2], order[0]] if order else [])
    return [*examples, *(misclassification.index for misclassification in predictions.misclassified(head)[:1])]


def _region(weight_SS: Tensor) -> str:
    """Name of the region with most of the weight."""
    weight = weight_SS.clamp_min(0)
    indices = torch.linspace(0, 1, len(weight))
    total = float(weight.sum())
    down, across = float(weight.sum(1) @ indices) / total, float(weight.sum(0) @ indices) / total
    rows = "upper" if down < 0.42 else "lower" if down > 0.58 else "middle"
    columns = "left" if across < 0.42 else "right" if across > 0.58 else "middle"
    return "the middle of the image" if rows == columns else f"the {rows} {columns} of the image"
