"""One form of ids, whatever the type of their column or of the value in a request."""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel, ValidationError

from models.errors import DataRejected
from models.raw.ids import MISSING_WORDS, Id, as_text, id_text, refuse_nested

ACCENTED = unicodedata.normalize("NFD", "café")


class Request(BaseModel):
    item_id: Id


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("17850", "17850"),
        (17850, "17850"),
        (17850.0, "17850"),
        (Decimal("7.0000000000"), "7"),
        (" 17850.0\t", "17850"),
        ("10001.000", "10001"),
        ("-5.0", "-5"),
        ("007", "007"),
        ("007.0", "007"),
        (12.5, "12.5"),
        ("1.10", "1.10"),
        ("v1.0", "v1.0"),
        ("15056bl", "15056bl"),
        (2**60 + 1, str(2**60 + 1)),
        (ACCENTED, "café"),
        ("\u00a0u1\u3000", "u1"),
        ("\ufeffu1\u200b", "u1"),
        ("u1\x1f", "u1"),
        ("two words", "two words"),
        ("{3F2504E0-4F89}", "{3F2504E0-4F89}"),
    ],
)
def test_an_id_has_one_form_in_tables_and_requests(value: Any, expected: str) -> None:
    text, unreadable = as_text(pa.array([value]))
    assert (text.to_pylist(), unreadable.to_pylist()) == ([expected], [False])
    assert id_text(value) == expected
    assert Request(item_id=value).item_id == expected


@pytest.mark.parametrize("word", ["", "NULL", "None", "NaN", "NaT", "n/a", "NA", "<NA>", "#N/A", "undefined", r"\N"])
def test_a_word_for_a_missing_value_is_missing_in_a_table(word: str) -> None:
    text, _ = as_text(pa.array([word, f" {word} ", "0"]))
    assert text.to_pylist() == [None, None, "0"]
    assert word.lower() in MISSING_WORDS


def test_floats_that_are_not_exact_are_no_ids() -> None:
    _, unreadable = as_text(pa.array([2.0**53, 2.0**53 - 1]))
    assert unreadable.to_pylist() == [True, False]
    with pytest.raises(ValidationError, match="write the id as text, '9007199254740992'"):
        Request(item_id=2.0**53)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "  ", True, None, ["17850"], {"id": "17850"}, "x" * 257])
def test_a_request_refuses_what_is_not_an_id(value: Any) -> None:
    with pytest.raises(ValidationError):
        Request(item_id=value)


def test_the_api_says_that_an_id_is_text_or_an_integer() -> None:
    kinds = Request.model_json_schema()["properties"]["item_id"]["anyOf"]
    assert [kind["type"] for kind in kinds] == ["string", "integer"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"name": "a", "id": "u1"}], "objects with the fields name, id.*--columns user_id=who.id"),
        ([["u1", "u2"]], "holds lists.*one row per value"),
        ([[{"id": "u1"}]], "holds lists.*one row per value"),
    ],
)
def test_a_nested_id_is_refused_with_the_way_to_name_it(values: list[Any], expected: str) -> None:
    rows = pa.table({"who": pa.array(values), "item_id": ["i1"]})
    with pytest.raises(DataRejected, match=f"log.jsonl: column 'who', which is user_id, .*{expected}"):
        refuse_nested(rows, {"user_id": "who", "item_id": "item_id"}, flag="--columns", source="log.jsonl")
