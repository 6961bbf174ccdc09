"""The networks of aspects: polarity of a given term, and terms by tags."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from models.reviews.aspects.lexicon import Lexicon
from models.reviews.aspects.network import PolaritySettings, TermPolarity, fit_polarity, predict_polarity
from models.reviews.aspects.reading import SEEDS
from models.reviews.aspects.tags import TagSettings, find_terms, fit_tagger
from models.reviews.aspects.terms import TermInputs, term_inputs
from models.reviews.aspects.tokens import tokens_of

EMPTY = Lexicon({})
NAMES = ("lamp", "chair", "table", "shelf")
SAID = {0: ("awful", "wobbly"), 1: ("brown", "metal"), 2: ("lovely", "superb")}


def sentences_of(num: int, seed: int) -> tuple[list[str], list[int], list[int], list[int]]:
    """Sentences with two things of different polarity; the term is one of them."""
    draw = random.Random(seed)
    texts, starts, ends, labels = list[str](), list[int](), list[int](), list[int]()
    for _ in range(num):
        first, second = draw.sample(NAMES, 2)
        one, two = draw.sample(list(SAID), 2)
        text = f"the {first} is {draw.choice(SAID[one])} but the {second} is {draw.choice(SAID[two])}"
        term, label = draw.choice([(first, one), (second, two)])
        texts.append(text)
        starts.append(text.index(term))
        ends.append(text.index(term) + len(term))
        labels.append(label)
    return texts, starts, ends, labels


def inputs_of(seed: int, num: int = 300) -> tuple[TermInputs, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    texts, starts, ends, labels = sentences_of(num, seed)
    return term_inputs(texts, starts, ends, EMPTY), np.array(labels, np.int64)


def test_the_polarity_is_that_of_the_term_and_not_of_the_sentence() -> None:
    train, labels = inputs_of(0)
    held_out, truth = inputs_of(1)
    network = fit_polarity(train, labels, PolaritySettings(epochs=6))
    assert (predict_polarity(network, held_out).argmax(1) == truth).mean() > 0.95
    only_deep = network.deep[0]({name: torch.from_numpy(getattr(held_out, name)) for name in held_out.__dict__})
    assert (only_deep.argmax(1).numpy() == truth).mean() > 0.9


def test_probabilities_add_up_and_come_back_from_the_state_dict() -> None:
    train, labels = inputs_of(0, 60)
    network = fit_polarity(train, labels, PolaritySettings(epochs=1))
    before = predict_polarity(network, train)
    assert before.sum(1) == pytest.approx(np.ones(60), abs=1e-5)
    again = TermPolarity()
    again.load_state_dict(network.state_dict())
    assert (predict_polarity(again.eval(), train) == before).all()


def test_a_seed_gives_the_same_network() -> None:
    train, labels = inputs_of(0, 60)
    first, second = (fit_polarity(train, labels, PolaritySettings(epochs=1, seed=4)) for _ in range(2))
    assert (predict_polarity(first, train) == predict_polarity(second, train)).all()


def test_negation_turns_an_opinion_until_a_comma_or_a_contrast() -> None:
    tokens = tokens_of("It isn't really good, great but not bad.", SEEDS["en"])
    said = {token.word: (token.polarity, token.is_negated) for token in tokens}
    assert said["good"] == (-1, True) and said["great"] == (1, False) and said["bad"] == (1, True)
    assert [token.word for token in tokens[:3]] == ["it", "is", "n't"]
    assert tokens[-1].segment > tokens[0].segment and tokens[6].clause > tokens[0].clause


def test_a_term_outside_its_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a term from 3 to 9 is not inside its text of 4 characters"):
        term_inputs(["good"], [3], [9], EMPTY)


def test_odd_texts_have_inputs() -> None:
    found = term_inputs(["😀", "x" * 5000, " \x00 "], [0, 10, 0], [1, 20, 1], SEEDS["en"])
    assert len(found) == 3 and np.isfinite(found.opinions).all()


def test_terms_are_found_by_their_words_and_places() -> None:
    def made_up(seed: int) -> tuple[list[str], list[list[tuple[int, int]]]]:
        texts, starts, ends, _ = sentences_of(200, seed)
        both = [
            sorted((text.index(name), text.index(name) + len(name)) for name in NAMES if name in text) for text in texts
        ]
        assert len(starts) == len(ends)
        return texts, both

    texts, terms = made_up(0)
    held_out, truth = made_up(1)
    network = fit_tagger(texts, terms, EMPTY, TagSettings(epochs=3))
    assert find_terms(network, held_out, EMPTY) == truth
    assert find_terms(network, ["", "\n"], EMPTY) == [[], []]
