"""The report's section on labelled aspects: terms found and their polarity, against the lexicon and the majority."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.prepared import Prepared
from models.report import Cell, Section, Table
from models.reviews.aspects.labelled import Sentence, majority_of, polar_terms, read_sentences
from models.reviews.aspects.lexicon import Lexicon
from models.reviews.aspects.mentions import aspects_of, terms_in
from models.reviews.aspects.network import NEUTRAL, POLARITIES
from models.reviews.aspects.reading import FILE, lexicons_of
from models.reviews.aspects.trained import TermNetworks
from models.reviews.schema import Schema
from models.reviews.sentences import Span
from models.reviews.text import language_of, normalise


def term_section(network: TermNetworks, data: Prepared, split: str, schema: Schema) -> Section | None:
    """F1 of exact spans and accuracy of the polarity of given terms; None without labelled terms in the split."""
    held_out = read_sentences(data.path, split)
    given = polar_terms(held_out)
    if not given.labels:
        return None
    truth = [set(one.spans) for one in held_out]
    found = [[(term.start, term.end) for term in own] for own in network.read([one.text for one in held_out])]
    lexicons = [_lexicon(one.text, schema) for one in held_out]
    listed = [terms_in(one.text, *own) for one, own in zip(held_out, lexicons, strict=True)]
    majority = majority_of(read_sentences(data.path, "train"))
    labels = np.array(given.labels)
    systems = {
        "network": network.polarities(given.texts, given.starts, given.ends).argmax(1),
        "lexicon": _by_lexicon(held_out, lexicons),
        f"most frequent in training ({POLARITIES[majority]})": np.full(len(labels), majority),
    }
    accuracies = [float((guess == labels).mean()) for guess in systems.values()]
    scores = {"network": _scores(found, truth), "lexicon": _scores(listed, truth)}
    spans: list[list[Cell]] = [[name, *own] for name, own in scores.items()]
    polarity: list[list[Cell]] = [[name, own] for name, own in zip(systems, accuracies, strict=True)]
    return Section(
        "Aspect terms",
        f"On {len(held_out):,} held-out sentences with {sum(map(len, truth)):,} labelled terms, of which "
        f"{len(labels):,} have a polarity. A term is found if its first and last characters are right; "
        "polarity is that of given terms.",
        [
            Table("aspect_terms", ["terms by", "F1", "precision", "recall"], spans),
            Table("aspect_polarity", ["polarity by", "accuracy"], polarity),
        ],
        {
            "term_f1": scores["network"][0],
            "lexicon_term_f1": scores["lexicon"][0],
            "term_polarity_accuracy": accuracies[0],
            "lexicon_polarity_accuracy": accuracies[1],
            "majority_polarity_accuracy": accuracies[2],
        },
    )


def _lexicon(text: str, schema: Schema) -> tuple[str, Lexicon]:
    """The language of a sentence and its lexicon, English where there is none."""
    lexicons = lexicons_of(schema.files.get(FILE, b""))
    language = language_of(normalise(text).text)
    return (language, lexicons[language]) if language in lexicons else ("en", lexicons["en"])


def _scores(found: Sequence[Sequence[Span]], truth: Sequence[set[Span]]) -> tuple[float, float, float]:
    """F1, precision and recall of exact spans."""
    hits = sum(len(set(own) & real) for own, real in zip(found, truth, strict=True))
    said, there = sum(map(len, found)), sum(map(len, truth))
    return 2 * hits / max(said + there, 1), hits / max(said, 1), hits / max(there, 1)


def _by_lexicon(sentences: Sequence[Sentence], lexicons: Sequence[tuple[str, Lexicon]]) -> npt.NDArray[np.int64]:
    """The polarity that the mentions which overlap each term say together; neutral where there is none."""
    found = list[int]()
    for one, (language, lexicon) in zip(sentences, lexicons, strict=True):
        mentions = aspects_of(one.text, language, lexicon)
        terms = polar_terms([one])
        for start, end in zip(terms.starts, terms.ends, strict=True):
            said = sum(each.polarity for each in mentions if each.start < end and each.end > start)
            found.append(NEUTRAL + (said > 0) - (said < 0))
    return np.array(found, np.int64)
