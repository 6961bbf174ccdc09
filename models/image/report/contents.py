"""What the report shows of a recogniser: what it mixes up, how sure it is, what disturbs it, and where it looks.

Shapes: N pictures, K classes of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.image.config import Config
from models.image.networks.autoencoder import Autoencoder
from models.image.networks.classifier import Recogniser
from models.image.networks.gan import Gan
from models.image.report.anomalies import strangest
from models.image.report.embedding_map import embedding_map
from models.image.report.generated import made_section
from models.image.report.predictions import Answers, Mistake, answers, words
from models.image.report.robustness import robustness
from models.image.report.saliency import saliency
from models.image.report.thumbnails import thumbnail
from models.image.report.titles import writers_section
from models.image.schema import Schema
from models.metrics import calibration_error, confusion, reliability
from models.prepared import Prepared
from models.report import Cell, Content, Gallery, Matrix, Picture, Plot, Section, Table

MAX_MATRIX = 30
"""Classes of the first head beyond which only the most frequent mistakes are shown."""
NUM_PAIRS = 10, 4
"""Most frequent mistakes that are shown of the first head, and of each other one."""
NUM_EXAMPLES = 3
NUM_WORST = 14, 7
NUM_UNFOLDED = 12
MIN_BIN = 10
"""A bin with fewer pictures says nothing of how often such confidence is right."""
SURE = 0.9


def report(
    network: Recogniser | Autoencoder | Gan, data: Prepared, split: str, *, schema: Schema, config: Config
) -> list[Section]:
    """The sections of a recogniser, or what a gan has made; nothing for what answers without looking at the picture."""
    if isinstance(network, Gan):
        return [made_section(network, data, split, schema=schema)]
    recogniser = network.reader if isinstance(network, Autoencoder) else network
    if not isinstance(recogniser, Recogniser) or config.network == "prior":
        return []
    found = answers(recogniser, data, split, schema=schema)
    if len(found.known(next(iter(schema.heads)))) == 0:
        return []
    made = [
        mixed_up(found),
        each_class(found),
        worst_mistakes(found),
        confidence(found),
        robustness(recogniser, found),
        saliency(recogniser, found),
        embedding_map(found),
        strangest(network, found) if isinstance(network, Autoencoder) else None,
        writers_section(recogniser, found, data),
    ]
    return [section for section in made if section is not None]


def mixed_up(found: Answers) -> Section:
    """Which classes are taken for which others, with pictures."""
    content: list[Content] = []
    for number, head in enumerate(found.heads):
        classes = found.schema.heads[head]
        counts = _counts(found, head)
        if number == 0 and len(classes) <= MAX_MATRIX:
            content.append(Matrix(classes, counts.tolist(), "is", "taken for", f"All pictures by {words(head)}"))
        pairs = _pairs(found, head, at_most=NUM_PAIRS[min(number, 1)])
        if pairs:
            columns = ["It is", "It was taken for", "Pictures", "Share of its class", "The surest ones"]
            content.append(Table(f"mixed_up_{head}", columns, pairs, f"Most frequent mistakes: {words(head)}"))
    reading = (
        "Counts of pictures by what they show and by what they were taken for, with the right answers in framed cells; "
        "before a pair is called a fault of the model, see whether its pictures can be told apart."
    )
    return Section("What is mixed up", reading, content)


def each_class(found: Answers) -> Section:
    """Precision, recall and F1 of every class."""
    content: list[Content] = []
    numbers = {}
    for head in found.heads:
        classes = found.schema.heads[head]
        counts = _counts(found, head)
        right, is_one, said = counts.diagonal().double(), counts.sum(1).double(), counts.sum(0).double()
        shares = torch.stack([right / said, right / is_one, 2 * right / (is_one + said)], 1)
        order = [
            place for place in is_one.argsort(descending=True, stable=True).tolist() if is_one[place] + said[place]
        ]
        rows: list[list[Cell]] = [[classes[place], *shares[place].tolist(), int(is_one[place])] for place in order]
        folded = head != found.heads[0] or len(rows) > NUM_UNFOLDED
        title = f"{words(head).capitalize()}: {len(rows)} classes"
        columns = ["Class", "Precision", "Recall", "F1", "Pictures"]
        content.append(Table(f"classes_of_{head}", columns, rows, title, folded))
        numbers[f"macro_recall_{head}"] = float(shares[is_one > 0, 1].mean())
        numbers[f"macro_precision_{head}"] = float(shares[said > 0, 0].mean())
    reading = (
        "Precision is how often the model is right when it says the class, recall how many of the class it finds, F1 "
        "their harmonic mean; with few pictures all three are rough."
    )
    return Section("Each class by itself", reading, content, numbers)


def worst_mistakes(found: Answers) -> Section:
    """The wrong answers that the model was surest of."""
    content: list[Content] = []
    numbers = {}
    for number, head in enumerate(found.heads):
        mistakes = found.mistakes(head)
        shown = [_example(found, head, mistake, captioned=True) for mistake in mistakes[: NUM_WORST[min(number, 1)]]]
        title = words(head).capitalize() if len(found.heads) > 1 else ""
        content += [Gallery(shown, title)] if shown else []
        num_sure = sum(mistake.confidence >= SURE for mistake in mistakes)
        numbers[f"sure_but_wrong_{head}"] = num_sure / len(found.known(head))
    shares = ", ".join(f"{words(name.removeprefix('sure_but_wrong_'))} {share:.1%}" for name, share in numbers.items())
    content.append(
        f"Share of all pictures that were answered wrongly with a confidence of {SURE:.0%} or more: {shares}."
    )
    reading = (
        "The model was surest of these wrong answers; some of them may be wrong labels in the catalogue, which the "
        "name below each picture helps to correct."
    )
    return Section("Worst mistakes", reading, content, numbers)


def confidence(found: Answers) -> Section:
    """How often the model is right when it is so sure, before and after its temperature."""
    first = found.heads[0]
    curves = {
        "as served, with the temperature": _reliability(found, first, found.probabilities[first])[0],
        "without the temperature": _reliability(found, first, found.uncalibrated(first))[0],
    }
    rows: list[list[Cell]] = []
    numbers = {}
    for head in found.heads:
        before = _reliability(found, head, found.uncalibrated(head))[1]
        after = _reliability(found, head, found.probabilities[head])[1]
        rows.append([words(head), before, after, found.temperatures[head]])
        numbers[f"calibration_error_before_{head}"] = before
    columns = ["Label", "Expected calibration error before", "after", "Temperature"]
    title = f"How often {words(first)} is right, by how sure the model is"
    axes = ("confidence", "share that is right")
    content: list[Content] = [
        Plot(title, curves, axes, joined=True, diagonal="as sure as it should be"),
        f"Each point stands for {MIN_BIN} pictures or more of about the same confidence.",
        Table("calibration", columns, rows, "Average distance from the diagonal"),
    ]
    reading = (
        "Points below the diagonal mean that the model is surer than it has reason to be, points above it that it is "
        "too modest; the temperature, chosen on the validation split, divides the class scores to correct that."
    )
    return Section("Whether its confidence can be believed", reading, content, numbers)


def _counts(found: Answers, head: str) -> Tensor:
    """Pictures [K, K] by label and by most likely class."""
    known = found.known(head)
    said = found.probabilities[head][known].argmax(1)
    return confusion(found.labels_of(head)[known], said, num_classes=len(found.schema.heads[head]))


def _pairs(found: Answers, head: str, *, at_most: int) -> list[list[Cell]]:
    """Rows of the most frequent mistakes: label, answer, number, share of the label's pictures, examples."""
    classes, counts = found.schema.heads[head], _counts(found, head)
    examples: dict[tuple[int, int], list[Mistake]] = {}
    for mistake in found.mistakes(head):
        examples.setdefault((mistake.label, mistake.said), []).append(mistake)
    largest = sorted(examples, key=lambda pair: (-len(examples[pair]), pair))[:at_most]
    return [
        [
            classes[label],
            classes[said],
            int(counts[label, said]),
            float(counts[label, said] / counts[label].sum()),
            tuple(_example(found, head, each) for each in examples[label, said][:NUM_EXAMPLES]),
        ]
        for label, said in largest
    ]


def _example(found: Answers, head: str, mistake: Mistake, *, captioned: bool = False) -> Picture:
    label, said = (found.schema.heads[head][place] for place in (mistake.label, mistake.said))
    name = found.names[mistake.place]
    text = f"{name}: {label}, taken for {said} with a confidence of {mistake.confidence:.1%}"
    caption = f"{label}, taken for {said}, {mistake.confidence:.1%} ({name})" if captioned else ""
    return thumbnail(found.pixels(mistake.place), text, caption)


def _reliability(found: Answers, head: str, probabilities: Tensor) -> tuple[list[tuple[float, float]], float]:
    """Of each full bin the mean confidence and the share that is right; and the expected calibration error."""
    known = found.known(head)
    sure, said = probabilities[known].max(1)
    bins = reliability(sure, said == found.labels_of(head)[known])
    full = bins[bins[:, 0] >= MIN_BIN]
    points = [(sums / count, hits / count) for count, sums, hits in full.tolist()]
    return points, calibration_error(bins)
