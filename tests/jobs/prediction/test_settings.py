"""Fields for every request: JSON or text, separated by the commas that are not in a value."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import predict
from jobs.cli.flags import Parser
from jobs.prediction.settings import parse_settings


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("count=20", {"count": 20}),
        ("count=20, exclude_seen=false", {"count": 20, "exclude_seen": False}),
        (
            'filter={"title": "red, blue", "a": {"b": 2}},count=3',
            {"filter": {"title": "red, blue", "a": {"b": 2}}, "count": 3},
        ),
        ('filter={"note":"a,count=3"}', {"filter": {"note": "a,count=3"}}),
        ("user_id=0017", {"user_id": "0017"}),
        ("title=red, blue,count=3", {"title": "red, blue", "count": 3}),
        ("title=,count= 3,", {"title": "", "count": 3}),
        ("", {}),
    ],
)
def test_commas_separate_fields_and_not_what_is_in_a_value(text: str, fields: dict[str, Any]) -> None:
    assert dict(parse_settings(text)) == fields


@pytest.mark.parametrize("text", ["20", "count", '{"count":20}', "a b=3"])
def test_what_is_no_name_and_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME=VALUE, such as count=20"):
        dict(parse_settings(text))


def test_the_flag_keeps_the_blanks_of_a_value_and_may_be_repeated() -> None:
    parser = Parser({"Options": predict.Options}, prog="predict", description="")
    given = ["--set", 'filter={"title": "red, blue"}', "--set", "count=3,exclude_seen=true"]

    (options,) = parser.read(["--input", "a.csv", "--output", "b.csv", *given])

    assert options.fields == {"filter": {"title": "red, blue"}, "count": 3, "exclude_seen": True}
