"""Near-duplicates, bursts, flags and quotes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from models.reviews.aspects.mentions import aspects_of
from models.reviews.aspects.reading import SEEDS
from models.reviews.integrity.bursts import bursts, poisson_tail
from models.reviews.integrity.flags import flags_of
from models.reviews.integrity.minhash import Pairs, grams_of, groups_of, near_duplicates, normalised, signatures
from models.reviews.summary import summarise

LETTERS = "abcdefghijklmnopqrstuvwxyz "
SOMETHING = "".join(random.Random(1).choice(LETTERS) for _ in range(200))


def made_up(number: int, length: int = 80) -> str:
    draw = random.Random(number)
    return "".join(draw.choice(LETTERS) for _ in range(length))


def test_copies_with_small_edits_are_found_and_others_are_not() -> None:
    texts = [made_up(number) for number in range(60)]
    edited = texts[7][:30] + "XX" + texts[7][31:]
    found = near_duplicates([*texts, edited, texts[9].upper() + "!!!"], least_similarity=0.5)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(7, 60), (9, 61)]
    assert 0.5 <= found.similarity[0] < found.similarity[1] == 1.0


def test_signatures_agree_as_often_as_texts_are_similar() -> None:
    first, second = grams_of(SOMETHING[:150]), grams_of(SOMETHING[50:])
    exact = len(np.intersect1d(first, second)) / len(np.union1d(first, second))
    signed = signatures([first, second])
    assert (signed[0] == signed[1]).mean() == pytest.approx(exact, abs=0.17)
    assert (signatures([first]) == signed[0]).all()


def test_short_texts_are_nobodys_copies_and_empty_ones_do_no_harm() -> None:
    assert len(near_duplicates(["很好！", "很好", "", "\x00", "ok"], least_similarity=0.5).first) == 0
    assert len(near_duplicates([], least_similarity=0.5).first) == 0
    with pytest.raises(ValueError, match="a similarity of 0 is not above 0"):
        near_duplicates(["a"], least_similarity=0)


def test_widths_case_blanks_and_numbers_do_not_distinguish_texts() -> None:
    assert normalised("Ｇood  2024, 很 好!") == normalised("good 7 很好") == "good0很好"


def test_many_copies_of_one_text_are_one_group_at_linear_cost() -> None:
    texts = [made_up(0)] * 900 + [made_up(1)]
    found = near_duplicates(texts, least_similarity=0.9)
    assert len(found.first) < 2 * 900
    group = groups_of(found, len(texts))
    assert (group[:900] == 0).all() and group[900] == 900


def test_the_poisson_tail_is_a_sum_of_probabilities() -> None:
    mean, terms = 2.5, [np.exp(-2.5) * 2.5**k / np.prod(np.arange(1, k + 1), initial=1.0) for k in range(4)]
    assert poisson_tail(np.array([4]), np.array([mean]))[0] == pytest.approx(1 - sum(terms))


def quiet_log(seed: int = 0) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[str]]:
    """One review on each of 100 days."""
    return np.arange(100), [made_up(1000 * seed + number) for number in range(100)]


def test_a_burst_of_copies_with_one_rating_scores_above_a_busy_day() -> None:
    days, texts = quiet_log()
    copies = [made_up(9999)[:70] + made_up(number, 10) for number in range(10)]
    others = [made_up(5000 + number) for number in range(10)]
    day = np.concatenate([days, np.full(10, 40), np.full(10, 70)])
    positive = np.concatenate([np.tile([1.0, 0.0, 0.5, 1.0], 25), np.ones(10), np.tile([1.0, 0.0], 5)])
    everything = [*texts, *copies, *others]
    pairs = near_duplicates(everything, least_similarity=0.4)
    found = bursts(np.zeros(120, int), day, positive, pairs)
    assert found.day.tolist() == [40, 70] and found.reviews.tolist() == [11, 11]
    assert found.score[0] > 10 * found.score[1]
    flags = flags_of(everything, np.zeros(120, int), day * 86_400.0, positive)
    assert [flag.kind for flag in flags] == ["near-duplicates", "burst"]
    assert flags[1].message.startswith("look here: 11 reviews on 1970-02-10, 1.1 a day are usual; 10 of them")
    assert 40 in flags[1].reviews and set(range(100, 110)) <= set(flags[1].reviews)
    assert not any("fake" in flag.message for flag in flags)


def test_flags_need_no_times_and_ignore_unknown_ones() -> None:
    texts = [made_up(1), made_up(1), made_up(2)]
    without = flags_of(texts, np.array([0, 1, 1]), None, np.ones(3))
    some = flags_of(texts, np.array([0, 1, 1]), np.array([np.nan, 5.0, np.nan]), np.ones(3))
    assert without == some
    assert [(flag.product, flag.reviews) for flag in without] == [(0, (0,)), (1, (1,))]
    assert "also at 1 other products" in without[0].message


def test_no_reviews_have_no_bursts() -> None:
    nothing = np.zeros(0, np.int64)
    found = bursts(nothing, nothing, np.zeros(0), Pairs(nothing, nothing, np.zeros(0)))
    assert len(found.score) == 0


def test_every_quote_is_a_part_of_its_review_and_no_two_say_the_same() -> None:
    draw = random.Random(0)
    said = {
        "en": ["The price is great.", "Awful service, never again!", "delivery was late", "Size fits perfectly", "Hm."],
        "zh": ["质量很好。", "物流太慢了！", "价格便宜", "客服态度差，不理人", "嗯"],
    }
    for _ in range(40):
        languages = [draw.choice(["en", "zh"]) for _ in range(15)]
        texts = [draw.choice([" ", "\n", ""]).join(draw.choices(said[language], k=3)) for language in languages]
        mentions = [aspects_of(text, one, SEEDS[one]) for text, one in zip(texts, languages, strict=True)]
        for aspect in summarise(texts, languages, mentions):
            assert 0 < aspect.share <= 1 and -1 <= aspect.polarity <= 1
            for side in (aspect.praise, aspect.blame):
                assert len(side) <= 2 and len({normalised(quote.text) for quote in side}) == len(side)
                for quote in side:
                    assert texts[quote.review][quote.start : quote.end] == quote.text


def test_quotes_for_are_praise_and_quotes_against_are_blame() -> None:
    texts = ["The staff is friendly.", "The staff was rude.", "Good food."]
    mentions = [aspects_of(text, "en", SEEDS["en"]) for text in texts]
    (service,) = summarise(texts, ["en"] * 3, mentions)
    assert [quote.text for quote in service.praise] == [texts[0]]
    assert [quote.text for quote in service.blame] == [texts[1]]
    assert service.share == pytest.approx(2 / 3) and service.num_positive == service.num_negative == 1
