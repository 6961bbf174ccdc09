"""The two writers of titles on the same pictures, in numbers that a shop understands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from models.image.data import titles
from models.image.networks.classifier import Recogniser
from models.image.report.predictions import Answers
from models.image.schema import MISSING, UNKNOWN, Schema
from models.image.text.describe import THRESHOLD, Attribute, describe, entitled, held_attributes, role_of
from models.image.text.titles import Lexicon, stem, words_of
from models.image.text.writer import Writer
from models.prepared import Prepared
from models.report import Cell, Section, Table

NUM_EXAMPLES = 12
SUBJECTS = {"type": "product", "category": "product", "colour": "colour", "people": "people", "use": "use"}
"""Role of a head -> what a title says by it."""
MEASURES = {
    "titles": "Share of the pictures that get a title",
    "wrong": "Share of the titles that state an attribute which the labels contradict",
    "wrong_statements": "Share of the single statements that the labels contradict",
    "not_held": "Share of the titles that name an attribute which the classifier does not hold",
    "brand": "Share of the titles with a brand, or a word with which titles begin as they do with brands",
    "coverage": "Share of the held attributes (product, colour, people, use) that are stated",
    "token_f1": "Words shared with the shop's title (F1)",
    "rouge_l": "Words in the same order as in the shop's title (ROUGE-L, F1)",
    "distinct": "Different titles, as a share of the titles",
}


@dataclass(frozen=True)
class WriterComparison:
    """What both writers made of the pictures that have a title of the shop."""

    num_pictures: int
    scores: dict[str, dict[str, float]]
    """Writer -> measure, see MEASURES -> value."""
    examples: list[dict[str, str]]
    """Some pictures: `shop`, `template` and `learnt` -> the title."""


@dataclass(frozen=True)
class Case:
    """One picture: what is true, what is held, and what was written."""

    labels: Mapping[str, str | None]
    """Head -> class; None where it is not known."""
    held: Mapping[str, Attribute]
    real: str
    written: Mapping[str, str]
    """Writer -> title."""


def compare_writers(
    network: Recogniser, found: Answers, data: Prepared, *, threshold: float = THRESHOLD
) -> WriterComparison:
    """Let both writers write a title for each picture that was answered and has one by the shop.

    What a title states is read from its words, not taken from the writer. Raises ValueError for a network without a
    learnt writer or pictures without titles.
    """
    if network.writer is None:
        raise ValueError("this network has learnt no titles; train a resnet or cnn on pictures with titles")
    lexicon = Lexicon(found.schema.heads)
    brands = brand_stems([title for each in ("train", "val", "test") for title in titles(data, each) if title], lexicon)
    cases = list(_cases(network.writer, found, threshold))
    if not cases:
        raise ValueError(f"no picture of the split in {data.path} has a title; see --columns title=NAME of prepare")
    step = max(1, len(cases) // NUM_EXAMPLES)
    return WriterComparison(
        num_pictures=len(cases),
        scores={writer: score_titles(cases, writer, lexicon, brands) for writer in ("template", "learnt")},
        examples=[{"shop": case.real, **case.written} for case in cases[::step][:NUM_EXAMPLES]],
    )


def writers_section(network: Recogniser, found: Answers, data: Prepared) -> Section | None:
    """The comparison as a part of a report; None where no titles were learnt or there are none to compare with."""
    if network.writer is None or not any(found.titles):
        return None
    compared = compare_writers(network, found, data)
    template, learnt = compared.scores["template"], compared.scores["learnt"]
    measures: list[list[Cell]] = [[text, template[name], learnt[name]] for name, text in MEASURES.items()]
    examples: list[list[Cell]] = [[row["shop"], row["template"], row["learnt"]] for row in compared.examples]
    return Section(
        title="Two writers of titles",
        reading=f"Both wrote a title for the {compared.num_pictures:,} pictures that have one by the shop, from what "
        f"the classifier holds with a confidence of {THRESHOLD} or more; a wrong attribute in a title is the "
        "classifier's mistake, one that is not held would be the writer's.",
        content=[
            Table("writers", ["Measure", "templates", "learnt"], measures),
            Table("written_titles", ["The shop's", "templates", "learnt"], examples, title="Some titles"),
        ],
        numbers={
            f"titles_{writer}_{name}": value for writer, of in compared.scores.items() for name, value in of.items()
        },
    )


def brand_stems(all_titles: Sequence[str], lexicon: Lexicon) -> set[str]:
    """Words that mostly stand first in titles, as brands do, and name no class."""
    first, total = Counter[str](), Counter[str]()
    for title in all_titles:
        stems = [stem(word) for word in words_of(title)]
        total.update(stems)
        first.update(stems[:1])
    return {word for word, count in first.items() if 2 * count > total[word] and not any(lexicon.mentions(word))}


def score_titles(cases: Sequence[Case], writer: str, lexicon: Lexicon, brands: set[str]) -> dict[str, float]:
    """Measure -> value of what one writer wrote, see MEASURES."""
    written = [case for case in cases if case.written[writer]]
    stated = num_held = num_wrong = num_stated = 0
    shares: dict[str, list[float]] = {name: [] for name in ("wrong", "not_held", "brand", "token_f1", "rouge_l")}
    for case in written:
        title = case.written[writer]
        names = [mention.names for mention in lexicon.mentions(title)]
        values = {head: each.value for head, each in case.held.items() if role_of(head) is not None}
        wrong = [_is_wrong(each, case.labels) for each in names]
        num_wrong, num_stated = num_wrong + sum(wrong), num_stated + len(wrong)
        shares["wrong"].append(any(wrong))
        shares["not_held"].append(not all(any(values.get(head) == value for head, value in each) for each in names))
        unsayable = any(all(role_of(head) is None for head, _ in each) for each in names)
        shares["brand"].append(unsayable or any(stem(word) in brands for word in words_of(title)))
        shares["token_f1"].append(_f1(title, case.real, _num_shared))
        shares["rouge_l"].append(_f1(title, case.real, _num_in_order))
        stated += len(_subjects({name for each in names for name in each} & set(values.items())))
        num_held += len(_subjects(values.items()))
    count = max(len(written), 1)
    return {
        "titles": len(written) / len(cases),
        **{name: sum(of) / count for name, of in shares.items()},
        "wrong_statements": num_wrong / max(num_stated, 1),
        "coverage": stated / max(num_held, 1),
        "distinct": len({case.written[writer] for case in written}) / count,
    }


def _cases(writer: Writer, found: Answers, threshold: float) -> Iterator[Case]:
    heads = found.schema.heads
    places = [place for place, title in enumerate(found.titles) if title]
    by_head = [found.probabilities[head][places].tolist() for head in heads]
    probabilities = [dict(zip(heads, rows, strict=True)) for rows in zip(*by_head, strict=True)]
    with torch.inference_mode():
        learnt = writer.write(found.embeddings[places], probabilities, [threshold] * len(places))
    for place, likely, phrases in zip(places, probabilities, learnt, strict=True):
        held = held_attributes(heads, likely, threshold)
        written = {"template": describe(held, "en").title, "learnt": entitled(phrases).title}
        yield Case(_names(found.labels[place].tolist(), found.schema), held, str(found.titles[place]), written)


def _names(labels: Sequence[int], schema: Schema) -> dict[str, str | None]:
    special = {MISSING: None, UNKNOWN: ""}
    return {
        head: special[label] if label < 0 else names[label]
        for (head, names), label in zip(schema.heads.items(), labels, strict=True)
    }


def _is_wrong(names: Sequence[tuple[str, str]], labels: Mapping[str, str | None]) -> bool:
    """Whether the labels know better; a statement about which they say nothing is not wrong."""
    known = [(head, value) for head, value in names if labels.get(head) is not None]
    return bool(known) and all(labels[head] != value for head, value in known)


def _subjects(names: Iterable[tuple[str, str]]) -> set[str]:
    roles = {role_of(head) for head, _ in names}
    return {SUBJECTS[role] for role in roles if role in SUBJECTS}


def _f1(written: str, real: str, num_common: Callable[[list[str], list[str]], int]) -> float:
    one, other = (words_of(text.lower()) for text in (written, real))
    return 2 * num_common(one, other) / max(len(one) + len(other), 1)


def _num_shared(one: list[str], other: list[str]) -> int:
    return (Counter(one) & Counter(other)).total()


def _num_in_order(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(other) + 1)
    for word in one:
        now = [0]
        for place, each in enumerate(other):
            now.append(before[place] + 1 if word == each else max(before[place + 1], now[place]))
        before = now
    return before[-1]
