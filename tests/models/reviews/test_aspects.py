"""Mentions of aspects by lexicons, and a shop's own words."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.reviews.aspects.lexicon import AspectWords, Lexicon
from models.reviews.aspects.mentions import aspects_of, merged
from models.reviews.aspects.reading import SEEDS, LexiconRejected, lexicons_of, parse_lexicons, read_lexicon
from models.reviews.sentences import clauses, sentences


def polarities(text: str, language: str) -> dict[str, float]:
    return merged(aspects_of(text, language, SEEDS[language]))


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The price was low but the service was terrible.", {"price": 1, "service": -1}),
        ("en", "The staff wasn't very friendly.", {"service": -1}),
        ("en", "Not only is the quality great, shipping was fast.", {"quality": 1, "delivery": 1}),
        ("en", "Affordable. It runs small though.", {"price": 1, "size": -1}),
        ("en", "We talked about the weather.", {}),
        ("zh", "质量很好，就是物流太慢", {"quality": 1, "delivery": -1}),
        ("zh", "客服态度不好", {"service": -1}),
        ("zh", "质量没问题，价格不贵", {"quality": 1, "price": 1}),
        ("zh", "衣服偏大，不过很便宜", {"size": -1, "price": 1}),
        ("zh", "今天天气晴", {}),
    ],
)
def test_aspects_are_found_with_their_polarity(language: str, text: str, expected: dict[str, int]) -> None:
    found = polarities(text, language)
    assert {aspect: (value > 0) - (value < 0) for aspect, value in found.items()} == expected


def test_what_follows_but_counts_more_than_what_is_before_it() -> None:
    assert polarities("The service was good but slow.", "en")["service"] < 0
    assert polarities("服务好，但是慢", "zh")["service"] < 0


def test_a_term_without_an_opinion_is_a_mention_without_polarity() -> None:
    (mention,) = aspects_of("I asked about the price.", "en", SEEDS["en"])
    assert (mention.aspect, mention.polarity) == ("price", 0.0)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_evidence_lies_inside_any_text(language: str) -> None:
    draw = random.Random(0)
    words = sorted(SEEDS[language].positive | SEEDS[language].negations | SEEDS[language].contrasts)
    words += [term for aspect in SEEDS[language].aspects.values() for term in sorted(aspect.terms)]
    for _ in range(300):
        parts = [draw.choice([*draw.sample(words, 4), ",", "。", "\n", "İ", "😀", "\x00", "<b>"]) for _ in range(12)]
        text = ("" if language == "zh" else " ").join(parts)
        for mention in aspects_of(text, language, SEEDS[language]):
            assert 0 <= mention.start < mention.end <= len(text)
            assert -1 <= mention.polarity <= 1
            assert text[mention.start : mention.end].strip()


def test_sentences_and_clauses_are_parts_of_the_text() -> None:
    text = "Costs 3.50 only. Great!! 很好。物流快，服务好\nend"
    assert [text[start:end] for start, end in sentences(text)] == [
        "Costs 3.50 only.",
        "Great!!",
        "很好。",
        "物流快，服务好",
        "end",
    ]
    assert [text[start:end] for start, end in clauses(text, sentences(text)[3])] == ["物流快", "服务好"]
    assert sentences("") == [] and sentences(" ..!? ") == []


def test_a_shop_adds_an_aspect_and_turns_a_word(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(
        "en:\n  aspects:\n    taste: {terms: [taste, mouth feel], positive: [rich]}\n  negative: [cheap]\n", "utf-8"
    )
    lexicon = lexicons_of(read_lexicon(path).encode())["en"]
    found = merged(aspects_of("The taste is rich. Cheap! What a mouth  feel.", "en", lexicon))
    assert found == {"taste": 1.0, "price": 1.0}
    assert "cheap" not in lexicon.positive and "cheap" in lexicon.negative
    assert lexicons_of(read_lexicon(path).encode())["zh"] is SEEDS["zh"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en: {aspcts: {}}", "words.yaml:1: en.aspcts: there is no such key, did you mean aspects?"),
        ("fr: {}", "words.yaml:1: fr: there is no such key; known are en, zh"),
        ("en:\n  aspects:\n    taste: {terms: sweet}", "words.yaml:3: en.aspects.taste.terms: needs a list of words"),
        ("en: {positive: [a], negative: [a]}", "'a' is both positive and negative; keep one"),
        ("en: {aspects: {x: {positive: [a], negative: [a]}}}", "'a' is both positive and negative; keep one"),
        ("en: {positive: ['']}", "each word must be text that is not empty"),
        ("[a]", "needs keys, such as `en:"),
        ("", "the file is empty"),
    ],
)
def test_mistakes_in_a_shops_words_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(LexiconRejected) as caught:
        parse_lexicons(text, Path("words.yaml"))
    assert message in str(caught.value)


def test_a_missing_file_of_words_is_named(tmp_path: Path) -> None:
    with pytest.raises(LexiconRejected, match=r"there is no file .*none\.yaml"):
        read_lexicon(tmp_path / "none.yaml")


def test_the_later_lexicon_wins_where_two_disagree() -> None:
    first = Lexicon({"price": AspectWords(positive=frozenset({"low"}))}, positive=frozenset({"sick"}))
    second = Lexicon({"price": AspectWords(negative=frozenset({"low"}))}, negative=frozenset({"sick"}))
    both = first.with_more(second)
    assert both.positive == frozenset() and both.negative == {"sick"}
    assert both.aspects["price"].positive == frozenset() and both.aspects["price"].negative == {"low"}


@pytest.mark.real
def test_the_lexicon_agrees_with_people_about_service_and_price(shared_data: Path) -> None:
    rows = pq.read_table(shared_data / "semeval2014_absa" / "restaurants_train.parquet").to_pylist()
    right = wrong = 0
    for row in rows:
        found = polarities(row["text"], "en")
        for one in row["aspect_categories"]:
            said = found.get(one["category"], 0.0)
            if one["polarity"] in ("positive", "negative") and said:
                right += (said > 0) == (one["polarity"] == "positive")
                wrong += (said > 0) != (one["polarity"] == "positive")
    assert right + wrong > 350
    assert right / (right + wrong) > 0.85
