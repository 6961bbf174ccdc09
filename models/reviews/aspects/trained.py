"""The networks of a model that read aspect terms and their polarity in a text, trained on labelled sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from models.reviews.aspects.labelled import Sentence, polar_terms
from models.reviews.aspects.lexicon import Lexicon
from models.reviews.aspects.network import POLARITIES, PolaritySettings, TermPolarity, fit_polarity, predict_polarity
from models.reviews.aspects.reading import FILE, lexicons_of
from models.reviews.aspects.tags import TagSettings, TermTagger, find_terms, fit_tagger
from models.reviews.aspects.terms import Floats, term_inputs
from models.reviews.schema import Schema
from models.reviews.sentences import sentences

BLOCK = 512
"""Terms whose inputs are in memory at once."""


@dataclass(frozen=True)
class Term:
    """A term of a text, `text[start:end]`."""

    start: int
    end: int
    polarity: str
    """One of POLARITIES."""
    confidence: float
    """Probability of the polarity, not calibrated."""


class TermNetworks(nn.Module):
    """A tagger that finds terms, and a network of their polarity; fitted before training and not trained with the rest.

    Opinions, negations and contrasts are those of the lexicons of all languages together.
    """

    def __init__(self, members: int, schema: Schema) -> None:
        super().__init__()
        self._members = members
        self._lexicon = _of_all_languages(schema)
        self.tagger, self.polarity = TermTagger(), TermPolarity(members)
        self.requires_grad_(False)

    def fit(self, labelled: Sequence[Sentence], *, seed: int) -> None:
        """Learn from labelled sentences; the random numbers of the caller stay as they are."""
        known = polar_terms(labelled)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            texts, spans = [one.text for one in labelled], [one.spans for one in labelled]
            tagger = fit_tagger(texts, spans, self._lexicon, TagSettings(seed=seed))
            inputs = term_inputs(known.texts, known.starts, known.ends, self._lexicon)
            settings = PolaritySettings(members=self._members, seed=seed)
            polarity = fit_polarity(inputs, np.array(known.labels, np.int64), settings)
        self.tagger.load_state_dict(tagger.state_dict())
        self.polarity.load_state_dict(polarity.state_dict())

    def read(self, texts: Sequence[str]) -> list[list[Term]]:
        """The terms of each text in order; of a sentence only the first `tags.MOST_TOKENS` tokens are read."""
        parts = [(row, *span) for row, text in enumerate(texts) for span in sentences(text)]
        cut = [texts[row][start:end] for row, start, end in parts]
        spans = [
            (row, part, offset, start, end)
            for (row, offset, _), part, own in zip(parts, cut, find_terms(self.tagger, cut, self._lexicon), strict=True)
            for start, end in own
        ]
        chances = self.polarities([one[1] for one in spans], [one[3] for one in spans], [one[4] for one in spans])
        found: list[list[Term]] = [[] for _ in texts]
        for (row, _, offset, start, end), own in zip(spans, chances, strict=True):
            best = int(own.argmax())
            found[row].append(Term(offset + start, offset + end, POLARITIES[best], float(own[best])))
        return found

    def polarities(self, texts: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> Floats:
        """Probabilities of POLARITIES for given terms [N, 3]."""
        blocks = [slice(first, first + BLOCK) for first in range(0, len(texts), BLOCK)]
        found = [np.zeros((0, len(POLARITIES)), np.float32)]
        for rows in blocks:
            inputs = term_inputs(texts[rows], starts[rows], ends[rows], self._lexicon)
            found.append(predict_polarity(self.polarity, inputs))
        return np.concatenate(found)


def _of_all_languages(schema: Schema) -> Lexicon:
    first, *others = lexicons_of(schema.files.get(FILE, b"")).values()
    for other in others:
        first = first.with_more(other)
    return first
