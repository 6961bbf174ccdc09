"""The report section that compares titles from templates with those of the learned title generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from models.image.data import titles
from models.image.networks.classifier import Classifier
from models.image.report.predictions import SplitPredictions
from models.image.schema import MISSING, UNKNOWN, Schema
from models.image.text.describe import THRESHOLD, Attribute, confident_attributes, describe, describe_title, role_of
from models.image.text.titles import Lexicon, stem, words_of
from models.image.text.writer import TitleGenerator
from models.prepared import Prepared
from models.report import Cell, Section, Table

NUM_EXAMPLES = 12
SUBJECTS = {"type": "product", "category": "product", "colour": "colour", "people": "people", "use": "use"}
"""Role of a head -> aspect of the product for `coverage`."""
MEASURES = {
    "titles": "Share of the images with a title",
    "wrong": "Share of the titles with an attribute that contradicts the labels",
    "wrong_statements": "Share of the attributes in titles that contradict the labels",
    "not_held": "Share of the titles with an attribute that the classifier did not predict",
    "brand": "Share of the titles with a brand, or with a word that mostly starts titles, as brands do",
    "coverage": "Share of the predicted attributes (product, colour, people, use) that are in the title",
    "token_f1": "Words shared with the shop's title (F1)",
    "rouge_l": "Words in the same order as in the shop's title (ROUGE-L, F1)",
    "distinct": "Share of distinct titles",
}


@dataclass(frozen=True)
class TitleComparison:
    """Both kinds of titles for the images that have a title of the shop."""

    num_images: int
    scores: dict[str, dict[str, float]]
    """`template` or `learnt` -> measure, see MEASURES -> value."""
    examples: list[dict[str, str]]
    """Some images: `shop`, `template` and `learnt` -> the title."""


@dataclass(frozen=True)
class Case:
    """One image with its labels, its predicted attributes and its titles."""

    labels: Mapping[str, str | None]
    """Head -> class, or None without a label."""
    attributes: Mapping[str, Attribute]
    reference: str
    written: Mapping[str, str]
    """`template` or `learnt` -> title."""


def compare_titles(
    network: Classifier, predictions: SplitPredictions, data: Prepared, *, threshold: float = THRESHOLD
) -> TitleComparison:
    """Generate both titles for each image that has one of the shop, and measure them.

    The attributes of a title are parsed from its text, not reported by the generator. Raises ValueError for a network
    without a title generator or images without titles.
    """
    if network.title_generator is None:
        raise ValueError("this network has no title generator; train a resnet or cnn on images with titles")
    lexicon = Lexicon(predictions.schema.heads)
    brands = brand_stems([title for each in ("train", "val", "test") for title in titles(data, each) if title], lexicon)
    cases = list(_cases(network.title_generator, predictions, threshold))
    if not cases:
        raise ValueError(f"no image of the split in {data.path} has a title; see --columns title=NAME of prepare")
    step = max(1, len(cases) // NUM_EXAMPLES)
    return TitleComparison(
        num_images=len(cases),
        scores={writer: score_titles(cases, writer, lexicon, brands) for writer in ("template", "learnt")},
        examples=[{"shop": case.reference, **case.written} for case in cases[::step][:NUM_EXAMPLES]],
    )


def titles_section(network: Classifier, predictions: SplitPredictions, data: Prepared) -> Section | None:
    """The comparison as a section; None without a title generator or titles of the shop."""
    if network.title_generator is None or not any(predictions.titles):
        return None
    compared = compare_titles(network, predictions, data)
    template, learnt = compared.scores["template"], compared.scores["learnt"]
    measures: list[list[Cell]] = [[text, template[name], learnt[name]] for name, text in MEASURES.items()]
    examples: list[list[Cell]] = [[row["shop"], row["template"], row["learnt"]] for row in compared.examples]
    return Section(
        title="Title generation",
        reading=f"Titles for the {compared.num_images:,} images that have a title of the shop, from attributes "
        f"predicted with a confidence of {THRESHOLD} or more; a wrong attribute in a title is an error of the "
        "classifier, one that was not predicted would be an error of the title generator.",
        content=[
            Table("writers", ["Measure", "Templates", "Learned"], measures),
            Table("written_titles", ["Shop", "Templates", "Learned"], examples, title="Examples"),
        ],
        numbers={
            f"titles_{writer}_{name}": value for writer, of in compared.scores.items() for name, value in of.items()
        },
    )


def brand_stems(all_titles: Sequence[str], lexicon: Lexicon) -> set[str]:
    """Words that mostly start titles, as brands do, and name no class."""
    first, total = Counter[str](), Counter[str]()
    for title in all_titles:
        stems = [stem(word) for word in words_of(title)]
        total.update(stems)
        first.update(stems[:1])
    return {word for word, count in first.items() if 2 * count > total[word] and not any(lexicon.mentions(word))}


def score_titles(cases: Sequence[Case], writer: str, lexicon: Lexicon, brands: set[str]) -> dict[str, float]:
    """Measure -> value for the titles of one writer, see MEASURES."""
    written = [case for case in cases if case.written[writer]]
    num_covered = num_held = num_wrong = num_stated = 0
    shares: dict[str, list[float]] = {name: [] for name in ("wrong", "not_held", "brand", "token_f1", "rouge_l")}
    for case in written:
        title = case.written[writer]
        names = [mention.names for mention in lexicon.mentions(title)]
        values = {head: each.value for head, each in case.attributes.items() if role_of(head) is not None}
        wrong = [_is_wrong(each, case.labels) for each in names]
        num_wrong, num_stated = num_wrong + sum(wrong), num_stated + len(wrong)
        shares["wrong"].append(any(wrong))
        shares["not_held"].append(not all(any(values.get(head) == value for head, value in each) for each in names))
        unsayable = any(all(role_of(head) is None for head, _ in each) for each in names)
        shares["brand"].append(unsayable or any(stem(word) in brands for word in words_of(title)))
        shares["token_f1"].append(_f1(title, case.reference, _num_shared))
        shares["rouge_l"].append(_f1(title, case.reference, _num_in_order))
        num_covered += len(_subjects({name for each in names for name in each} & set(values.items())))
        num_held += len(_subjects(values.items()))
    count = max(len(written), 1)
    return {
        "titles": len(written) / len(cases),
        **{name: sum(of) / count for name, of in shares.items()},
        "wrong_statements": num_wrong / max(num_stated, 1),
        "coverage": num_covered / max(num_held, 1),
        "distinct": len({case.written[writer] for case in written}) / count,
    }


def _cases(title_generator: TitleGenerator, predictions: SplitPredictions, threshold: float) -> Iterator[Case]:
    heads = predictions.schema.heads
    indices = [index for index, title in enumerate(predictions.titles) if title]
    by_head = [predictions.probabilities[head][indices].tolist() for head in heads]
    probabilities = [dict(zip(heads, rows, strict=True)) for rows in zip(*by_head, strict=True)]
    with torch.inference_mode():
        learnt = title_generator.generate(predictions.embeddings[indices], probabilities, [threshold] * len(indices))
    for index, likely, phrases in zip(indices, probabilities, learnt, strict=True):
        attributes = confident_attributes(heads, likely, threshold)
        written = {"template": describe(attributes, "en").title, "learnt": describe_title(phrases).title}
        yield Case(
            _names(predictions.labels[index].tolist(), predictions.schema),
            attributes,
            str(predictions.titles[index]),
            written,
        )


def _names(labels: Sequence[int], schema: Schema) -> dict[str, str | None]:
    special = {MISSING: None, UNKNOWN: ""}
    return {
        head: special[label] if label < 0 else names[label]
        for (head, names), label in zip(schema.heads.items(), labels, strict=True)
    }


def _is_wrong(names: Sequence[tuple[str, str]], labels: Mapping[str, str | None]) -> bool:
    """Whether the labels contradict a statement; without a label it is not wrong."""
    known = [(head, value) for head, value in names if labels.get(head) is not None]
    return bool(known) and all(labels[head] != value for head, value in known)


def _subjects(names: Iterable[tuple[str, str]]) -> set[str]:
    roles = {role_of(head) for head, _ in names}
    return {SUBJECTS[role] for role in roles if role in SUBJECTS}


def _f1(written: str, reference: str, num_common: Callable[[list[str], list[str]], int]) -> float:
    one, other = (words_of(text.lower()) for text in (written, reference))
    return 2 * num_common(one, other) / max(len(one) + len(other), 1)


def _num_shared(one: list[str], other: list[str]) -> int:
    return (Counter(one) & Counter(other)).total()


def _num_in_order(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(other) + 1)
    for word in one:
        now = [0]
        for index, each in enumerate(other):
            now.append(before[index] + 1 if word == each else max(before[index + 1], now[index]))
        before = now
    return before[-1]
