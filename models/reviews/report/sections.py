"""What the reviews family adds to a report: the deep part's gain, wrong labels, mistakes, aspect terms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from models.prepared import Prepared
from models.report import Cell, Section, Table
from models.reviews.config import Config
from models.reviews.data import Texts, collate, dataset
from models.reviews.networks.sentiment import Sentiment
from models.reviews.networks.wide import Linear
from models.reviews.report.terms import term_section
from models.reviews.schema import Schema

MAX_TEXTS = 20_000
BLOCK = 256
MIN_GAIN = 0.002
"""A deep part that adds less to the accuracy is said not to be worth its cost."""
NUM_LABELS, NUM_MISTAKES = 50, 20
EXCERPT = 120

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def report(network: Sentiment, data: Prepared, split: str, *, schema: Schema, config: Config) -> Sequence[Section]:
    """What the deep part adds, confident mistakes, likely wrong labels of training texts, and aspect terms."""
    found = []
    texts = _opened(data, split, schema, config)
    chosen = _known(texts)
    if len(chosen):
        wide, both, labels = _scored(network, texts, chosen)
        if isinstance(network.wide, Linear) and network.deep is not None:
            found.append(_gain(wide, both, labels))
        found.append(_mistakes(data, texts, chosen, both, labels, schema))
    if isinstance(network.wide, Linear):
        texts = _opened(data, "train", schema, config)
        chosen = _known(texts)
        wide, _, labels = _scored(network, texts, chosen)
        found.append(_labels(data, texts, chosen, _probabilities(wide), labels, schema))
    if network.terms is not None and (section := term_section(network.terms, data, split, schema)):
        found.append(section)
    return found


def suspects(probabilities: Floats, labels: Ints) -> tuple[Ints, Ints]:
    """The rows whose label is likely wrong, the surest first, and the class of each instead.

    Confident learning (Northcutt et al., JAIR 2021): another class is at least as probable [N, K] as it is on average
    for the texts with its label. The probabilities of a text must come from a model that has not seen it.
    """
    num_classes = probabilities.shape[1]
    means = [probabilities[labels == number, number] for number in range(num_classes)]
    threshold = np.array([float(mean.mean()) if len(mean) else np.inf for mean in means])
    above = np.where(probabilities >= threshold, probabilities, -1.0)
    best = above.argmax(1)
    margin = probabilities.max(1) - probabilities[np.arange(len(labels)), labels]
    rows = np.flatnonzero((above.max(1) > 0) & (best != labels))
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    return rows, best[rows]


def _opened(data: Prepared, split: str, schema: Schema, config: Config) -> Texts:
    texts = dataset(data, split, range(data.num_shards), schema=schema, config=config, epoch=0)
    assert isinstance(texts, Texts)
    return texts


def _known(texts: Texts) -> Ints:
    """At most MAX_TEXTS places of labelled texts, evenly spaced."""
    known = np.flatnonzero(texts.labels() >= 0)
    return known[np.unique(np.linspace(0, len(known) - 1, min(len(known), MAX_TEXTS)).astype(np.int64))]


def _scored(network: Sentiment, texts: Texts, chosen: Ints) -> tuple[Floats, Floats, Ints]:
    """Logits of the linear part and of both [N, K], and the labels [N]; of a training text those without its fold."""
    device = network.temperature.device
    parts, labels = [], []
    with torch.inference_mode():
        for rows in np.array_split(chosen, -(-len(chosen) // BLOCK)):
            batch = collate([texts[int(row)] for row in rows]).to(device)
            wide, deep = network.parts(batch)
            both = (wide + network.share * deep) / network.temperature
            parts.append(torch.stack([wide, both]).double().cpu().numpy())
            labels.append(batch.labels.cpu().numpy())
    wide_logits, both_logits = np.concatenate(parts, 1)
    return wide_logits, both_logits, np.concatenate(labels)


def _probabilities(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    found: Floats = shifted / shifted.sum(1, keepdims=True)
    return found


def _gain(wide: Floats, both: Floats, labels: Ints) -> Section:
    """Accuracy of the linear part alone and of both, and the paired difference with its 95 % interval."""
    alone, together = (logits.argmax(1) == labels for logits in (wide, both))
    difference = together.astype(float) - alone.astype(float)
    gain, half = float(difference.mean()), 1.96 * float(difference.std()) / len(labels) ** 0.5
    verdict = "is worth its cost" if gain >= MIN_GAIN else "adds less than 0.2 points: --network linear is as good"
    rows: list[list[Cell]] = [
        ["linear part alone", float(alone.mean()), ""],
        ["with the deep part", float(together.mean()), f"{gain:+.4f} ± {half:.4f}"],
    ]
    return Section(
        "What the deep part adds",
        f"On {len(labels):,} texts the deep part {verdict}.",
        [Table("deep_part", ["network", "accuracy", "difference, 95 % interval"], rows)],
        {"deep_gain": gain},
    )


def _mistakes(data: Prepared, texts: Texts, chosen: Ints, logits: Floats, labels: Ints, schema: Schema) -> Section:
    probabilities = _probabilities(logits)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
    excerpts = _excerpts(data, texts, chosen[wrong])
    rows: list[list[Cell]] = [
        [schema.classes[labels[row]], schema.classes[predicted[row]], float(confidence[row]), *told]
        for row, told in zip(wrong, excerpts, strict=True)
    ]
    return Section(
        "Confident mistakes",
        "The wrong answers that the model is surest of; often it is the label that is wrong.",
        [Table("confident_mistakes", ["label", "answer", "probability", "product", "text"], rows, folded=True)],
    )


def _labels(data: Prepared, texts: Texts, chosen: Ints, probabilities: Floats, labels: Ints, schema: Schema) -> Section:
    """The training labels that are likely wrong, for a person to check; nothing is changed."""
    rows, instead = suspects(probabilities, labels)
    share = len(rows) / len(labels)
    excerpts = _excerpts(data, texts, chosen[rows[:NUM_LABELS]])
    table: list[list[Cell]] = [
        [schema.classes[labels[row]], schema.classes[other], float(probabilities[row, other]), *told]
        for row, other, told in zip(rows, instead, excerpts, strict=False)
    ]
    return Section(
        "Likely wrong labels",
        f"{len(rows):,} of {len(labels):,} training texts ({share:.1%}) look as if their label was another, by a linear"
        " model that has not seen them. If test labels are wrong as often, and all of these are, no model can be right "
        f"in more than {1 - share:.1%}; a person should look at some. Labels are never changed.",
        [Table("likely_wrong_labels", ["label", "rather", "probability", "product", "text"], table, folded=True)],
        {"likely_wrong_labels": share, "estimated_ceiling": 1 - share},
    )


def _excerpts(data: Prepared, texts: Texts, places: Ints) -> list[list[str]]:
    """Product and beginning of each text."""
    of_shard: dict[int, list[tuple[int, int]]] = {}
    for number, place in enumerate(places.tolist()):
        shard, row = texts.place(place)
        of_shard.setdefault(shard, []).append((number, row))
    found = [["", ""]] * len(places)
    for shard, wanted in of_shard.items():
        table = pq.read_table(data.shard(shard) / "reviews.parquet", columns=["product_id", "text"])
        for number, row in wanted:
            text = " ".join(table["text"][row].as_py().split())
            shown = text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."
            found[number] = [table["product_id"][row].as_py() or "", shown]
    return found
