"""Which parts of an image its recognition rests on, by hiding one square after the other.

Occlusion (Zeiler and Fergus, 2014, arXiv:1311.2901), as captum does it: it needs no gradients, so any network will do.

Shapes: B images, C channels, S side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.image.codec import Pixels
from models.image.data import Batch
from models.image.networks.classifier import Classifier
from models.image.report.predictions import Answers
from models.image.report.thumbnails import MAX_SIDE, thumbnail
from models.report import Gallery, Picture, Section

WINDOW, STRIDE = 1 / 4, 1 / 14
"""Side of the square that is hidden and how far it moves, as shares of the image's side."""
WINDOWS_AT_ONCE = 32
MIN_EFFECT = 1e-3
"""Less of the confidence than this on any part is as good as nothing."""
FADED, PAPER = 0.25, 215.0
"""What is left of the contrast where nothing depends on the image, and the grey that it fades to."""
OUTLINE = (255.0, 110.0, 0.0)


def saliency(network: Classifier, found: Answers) -> Section | None:
    """A usual right answer, an unsure right one and the surest wrong one, each beside what it rests on."""
    head = found.heads[0]
    classes = found.schema.heads[head]
    images: list[Picture] = []
    for place in _chosen(found, head):
        pixels, (confidence, said) = found.pixels(place), found.probabilities[head][place].max(0)
        weight = attribution(network, pixels, head=head, said=int(said))
        if float(weight.max()) < MIN_EFFECT:
            continue
        answer, label = classes[int(said)], classes[int(found.labels_of(head)[place])]
        verdict = "right" if answer == label else f"but it is {label}"
        plain = f"{answer}, {float(confidence):.0%}; {verdict} ({found.names[place]})"
        why = f"{answer} rests on {_where(weight)}"
        images += [thumbnail(pixels, plain, plain), thumbnail(outlined(pixels, weight), why, why)]
    if not images:
        return None
    reading = (
        "Half of what the answer hangs on lies within the outline, and what is faded matters little; where that is "
        "beside the product, it counts that nothing is there, or the model has learnt the wrong thing."
    )
    note = (
        "A grey square of a quarter of the side is moved over the image, and at each place the confidence that is "
        "lost is counted."
    )
    return Section("Where it looks", reading, [Gallery(images), note])


def attribution(network: Classifier, pixels: Pixels, *, head: str, said: int) -> Tensor:
    """How much of the probability of a class hangs on each pixel [S, S], on average over the squares that hide it."""
    from captum.attr import Occlusion  # it brings matplotlib, which only a report needs

    channels, side, _ = pixels.shape
    window, stride = max(2, round(WINDOW * side)), max(1, round(STRIDE * side))
    no_labels = torch.empty(0, 0, dtype=torch.int64)

    def probability(images_BCSS: Tensor) -> Tensor:
        answers = network.predict(Batch(images_BCSS, no_labels))
        return torch.tensor([answer.probabilities[head][said] for answer in answers])

    grey = (network.mean * 255).expand(channels, side, side)
    with torch.inference_mode():
        found: Tensor = Occlusion(probability).attribute(
            torch.tensor(pixels).float()[None],
            sliding_window_shapes=(channels, window, window),
            strides=(channels, stride, stride),
            baselines=grey[None],
            perturbations_per_eval=WINDOWS_AT_ONCE,
        )
    return found[0].mean(0)


def outlined(pixels: Pixels, weight_SS: Tensor) -> Pixels:
    """The image [3, MAX_SIDE, MAX_SIDE], faded where it weighs little, with an outline around half of the weight."""
    image = F.interpolate(torch.tensor(pixels).float()[None], size=(MAX_SIDE, MAX_SIDE))[0].expand(3, -1, -1)
    weight = F.interpolate(weight_SS.clamp_min(0)[None, None], size=(MAX_SIDE, MAX_SIDE), mode="bilinear")[0, 0]
    contrast = FADED + (1 - FADED) * weight / weight.max()
    marked = PAPER + contrast * (image - PAPER)
    inside = half_of(weight)
    # A pixel beside one that is outside; the border of the image is no outline.
    edge = inside & (F.max_pool2d((~inside).float()[None], 5, stride=1, padding=2)[0] > 0)
    marked = torch.where(edge, torch.tensor(OUTLINE)[:, None, None], marked)
    return marked.round().to(torch.uint8).numpy()


def half_of(weight_SS: Tensor) -> Tensor:
    """The fewest pixels [S, S] that hold half of the sum of weights that are not negative."""
    values, order = weight_SS.flatten().sort(descending=True, stable=True)
    before = values.cumsum(0) - values
    inside = torch.zeros(weight_SS.numel(), dtype=torch.bool)
    inside[order] = before < values.sum() / 2
    return inside.reshape(weight_SS.shape)


def _chosen(found: Answers, head: str) -> list[int]:
    """Places of images that are worth an explanation."""
    labels, (confidence, said) = found.labels_of(head), found.probabilities[head].max(1)
    right = (labels == said).nonzero().squeeze(1)
    order = right[confidence[right].argsort(stable=True)].tolist()
    # The very surest may be odd; a right answer in the middle is what the model is like.
    examples = dict.fromkeys([order[len(order) // 2], order[0]] if order else [])
    return [*examples, *(mistake.place for mistake in found.mistakes(head)[:1])]


def _where(weight_SS: Tensor) -> str:
    """Where most of the weight lies, in words."""
    weight = weight_SS.clamp_min(0)
    places = torch.linspace(0, 1, len(weight))
    total = float(weight.sum())
    down, across = float(weight.sum(1) @ places) / total, float(weight.sum(0) @ places) / total
    rows = "upper" if down < 0.42 else "lower" if down > 0.58 else "middle"
    columns = "left" if across < 0.42 else "right" if across > 0.58 else "middle"
    return "the middle of the image" if rows == columns else f"the {rows} {columns} of the image"
