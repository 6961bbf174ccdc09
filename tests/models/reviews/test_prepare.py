"""Preparing reviews: what is quarantined and why, classes, splits, and texts of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.errors import DataRejected
from models.prepared import Prepared
from models.reviews import FAMILY
from models.reviews.aspects.reading import LexiconRejected
from models.reviews.endpoints import AnalysisRequest, answer
from models.reviews.networks.sentiment import Prediction
from models.reviews.prepare.settings import PrepareConfig, check_flags
from models.reviews.products import reputation_rows
from models.reviews.schema import Schema
from models.reviews.text import is_mojibake, language_of, normalise
from tests.models.reviews.kit import prepared, written


def rows(count: int = 60) -> dict[str, list[Any]]:
    """Reviews that are good, half of each class."""
    texts = [f"{'很好' if number % 2 else '太差'} 第 {number} 次买" for number in range(count)]
    return {"text": texts, "label": [str(number % 2) for number in range(count)]}


def with_row(**cells: Any) -> dict[str, list[Any]]:
    """Good reviews and one more."""
    found = rows()
    names = dict.fromkeys([*found, *cells])
    return {name: [*found.get(name, [None] * 60), cells.get(name)] for name in names}


def card_of(tmp_path: Path, columns: Mapping[str, Sequence[Any]], **settings: Any) -> tuple[Prepared, dict[str, Any]]:
    data = prepared(tmp_path / "data", raw=str(written(tmp_path / "raw.parquet", columns)), **settings)
    return data, data.card()


def all_rows(data: Prepared) -> list[dict[str, Any]]:
    return [row for shard in data.shards() for row in pq.read_table(shard / "reviews.parquet").to_pylist()]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"text": None, "label": "1"}, "missing_text"),
        ({"text": " \u200b\u3000 ", "label": "1"}, "empty_text"),
        ({"text": "good\x00bad", "label": "1"}, "nul_character"),
        (
            {"text": "\u00e8\u00b4\u00a8\u00e9\u2021\u008f\u00e5\u00be\u02c6\u00e5\u00a5\u00bd", "label": "1"},
            "mojibake",
        ),
        ({"text": "well \ufffd\ufffd made", "label": "1"}, "mojibake"),
        ({"text": "fine", "label": "1", "rating": "many"}, "bad_rating"),
        ({"text": "fine", "label": "1", "rating": "9"}, "bad_rating"),
        ({"text": "fine", "label": "1", "rating": "1"}, "label_contradicts_rating"),
        ({"text": "fine", "label": "1", "timestamp": "soon"}, "bad_timestamp"),
        ({"text": "fine", "label": "1", "product_id": "p" * 300}, "too_long_product_id"),
    ],
)
def test_a_bad_review_goes_to_quarantine_with_its_reason(tmp_path: Path, cells: dict[str, Any], reason: str) -> None:
    data, card = card_of(tmp_path, with_row(**cells), max_bad_fraction=0.1)

    assert card["bad"] == {reason: 1} and card["kept"] == 60
    kept = [pq.read_table(path) for path in (data.path / "quarantine").glob("*.parquet")]
    assert [table["reason"].to_pylist() for table in kept if table.num_rows] == [[reason]]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("😀😀", "other"),
        ("<script>alert('x')</script> good <b>quality</b>", "en"),
        ("מוצר טוב מאוד", "other"),
        ("Sehr gut, ich bin nicht enttäuscht", "other"),
        ("とても良い商品です", "other"),
        ("质量 very 好, 物流快", "zh"),
    ],
)
def test_unusual_texts_are_kept_as_they_are(tmp_path: Path, text: str, language: str) -> None:
    data, card = card_of(tmp_path, with_row(text=text, label="1"))

    assert card["bad"] == {} and card["kept"] == 61
    assert text in [row["text"] for row in all_rows(data)]
    assert language_of(normalise(text).text) == language


def test_a_million_characters_are_cut_off_and_counted(tmp_path: Path) -> None:
    data, card = card_of(tmp_path, with_row(text="好" * 10**6, label="1"), max_chars=1000)

    assert card["special"] == {"cut off at --max-chars": 1}
    assert max(len(row["text"]) for row in all_rows(data)) == 1000


def test_the_same_text_is_one_example_and_in_one_split(tmp_path: Path) -> None:
    columns = rows(200)
    again = [f"  {text.replace(' ', chr(0x3000))}！".upper().rstrip("！") for text in columns["text"]]
    both = {"text": [*columns["text"], *again], "label": columns["label"] * 2}

    data, card = card_of(tmp_path, both)

    used = [row for row in all_rows(data) if row["split"]]
    assert len(used) == 200 == sum(data.schema(Schema).num_examples.values())
    assert card["repeated_texts"] == 200


def test_a_text_with_two_classes_is_trained_on_by_its_shares_and_never_tested_on(tmp_path: Path) -> None:
    columns = {"text": [*rows()["text"], *["so so"] * 4], "label": [*rows()["label"], "1", "0", "1", "1"]}
    columns["user_id"] = [str(number) for number in range(64)]

    data, card = card_of(tmp_path, columns)

    assert card["texts_with_several_classes"] == 1
    assert {row["split"] for row in all_rows(data) if row["text"] == "so so"} == {"train", ""}


def test_ratings_become_classes_and_the_middle_is_dropped_or_kept(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "review": [f"text {number}" for number in range(300)],
        "stars": [1 + number % 5 for number in range(300)],
    }

    dropped, card = card_of(tmp_path / "a", columns)
    kept, _ = card_of(tmp_path / "b", columns, neutral="keep")

    assert dropped.schema(Schema).classes == ["negative", "positive"] and card["unlabelled"] == 60
    assert kept.schema(Schema).classes == ["negative", "neutral", "positive"]
    assert kept.schema(Schema).class_ratings == pytest.approx([1.5, 3.0, 4.5], abs=0.1)


def test_a_held_out_category_is_the_test_and_none_of_its_texts_are_trained_on(tmp_path: Path) -> None:
    columns = {**rows(90), "cat": ["书籍" if number % 3 else "水果" for number in range(90)]}

    data, _ = card_of(tmp_path, columns, hold_out="cat=水果")

    assert {row["category"] for row in all_rows(data) if row["split"] == "test"} == {"水果"}
    assert {row["category"] for row in all_rows(data) if row["split"] in ("train", "val")} == {"书籍"}


def test_a_split_by_time_tests_on_the_newest(tmp_path: Path) -> None:
    columns = {**rows(100), "date": [f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}" for number in range(100)]}

    data, _ = card_of(tmp_path, columns, split="time")

    times = {split: [row["time_us"] for row in all_rows(data) if row["split"] == split] for split in ("train", "test")}
    assert max(times["train"]) < min(times["test"])


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"text": ["a", "b"], "label": ["1", "1"]}, {}, "two classes|only the class"),
        ({"text": ["a"], "label": ["fine"]}, {}, "'fine' is not known.*--label-names"),
        ({"words": ["a"], "label": ["1"]}, {}, "no column for 'text'"),
        ({"text": ["a"]}, {}, "no column for 'label' or 'rating'"),
        (rows(), {"hold_out": "category=toys"}, "no review has category = 'toys'"),
        (rows(), {"split": "time"}, "have no time"),
    ],
)
def test_reviews_that_cannot_be_learned_from_are_rejected_with_the_remedy(
    tmp_path: Path, columns: dict[str, list[Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataRejected, match=message):
        card_of(tmp_path, columns, **settings)


@pytest.mark.parametrize(
    "settings", [{"val_fraction": 0.6, "test_fraction": 0.4}, {"hold_out": "weather=rain"}, {"columns": "txt=a"}]
)
def test_flags_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"val|hold|column"):
        check_flags(PrepareConfig(raw="reviews.csv", **settings))


def test_labels_in_words_of_the_shop_are_read_by_their_names(tmp_path: Path) -> None:
    columns = {**rows(), "label": ["thumbs up" if label == "1" else "thumbs down" for label in rows()["label"]]}

    data, _ = card_of(tmp_path, columns, label_names="negative=thumbs down,positive=thumbs up")

    assert data.schema(Schema).classes == ["negative", "positive"]


def test_accents_and_arrows_are_not_taken_for_a_wrong_encoding() -> None:
    assert not is_mojibake("Très bien, à bientôt — 10 € → “parfait”. Ça va, garçon; não é mau, coração")


def test_the_shop_s_own_words_for_aspects_reach_answers_and_reputations(tmp_path: Path) -> None:
    lexicon = tmp_path / "aspects.yaml"
    lexicon.write_text("en: {aspects: {taste: {terms: [taste], positive: [rich]}}}\n", encoding="utf-8")
    columns = {**rows(), "product_id": ["p"] * 60, "text": [f"a rich taste, the {n}th" for n in range(60)]}

    data, _ = card_of(tmp_path / "own", columns, lexicon=str(lexicon))
    plain, _ = card_of(tmp_path / "plain", columns)

    schema = data.schema(Schema, FAMILY.files)
    request = AnalysisRequest(text="A rich taste")
    found = answer(request, [Prediction([0.5] * len(schema.classes), False, ())], schema, "1").reviews[0].aspects
    assert [(one.aspect, one.text) for one in found] == [("taste", "rich taste")]
    assert "taste" in {aspect["aspect"] for _, row in reputation_rows(data) for aspect in row["summary"]}
    assert data.fingerprint != plain.fingerprint
    with pytest.raises(LexiconRejected, match=r"there is no file"):
        card_of(tmp_path / "none", columns, lexicon=str(tmp_path / "no.yaml"))
