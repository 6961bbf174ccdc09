"""Joins by id: what matched, and what would match if ids were written alike."""

from __future__ import annotations

import pyarrow as pa
import pytest

from models.errors import DataRejected
from models.raw.joins import Join, join_ids


def join(ids: list[str], table_ids: list[str]) -> Join:
    return join_ids(pa.array(ids), pa.array(table_ids), names=("the log", "items.csv"), remedy="name the column")


def test_matches_are_counted_on_both_sides() -> None:
    assert join(["a", "b", "c"], ["b", "c", "d", "e"]) == Join(3, 2, 4, 2)


@pytest.mark.parametrize(
    ("table_ids", "hint"),
    [
        (["00a1", "12", "13"], "2 more ids would match without leading zeros"),
        (["00A1", "007", "x"], "1 more ids would match in lower case"),
        (["SKU-0012", "SKU-0013", "SKU-007"], "without the prefix '' in the log and 'SKU-' in items.csv"),
    ],
)
def test_ids_written_differently_give_a_hint(table_ids: list[str], hint: str) -> None:
    ids = ["00a1", "0012", "0013", "007"]
    table_ids = table_ids if set(ids) & set(table_ids) else [*table_ids, "0012"]
    assert hint in join(ids, table_ids).hint


def test_a_join_that_matches_nothing_is_refused_with_an_example_of_each_side() -> None:
    with pytest.raises(
        DataRejected, match=r"no id of the log .*'0012'.* among the 2 of items.csv .*'12'.*leading zeros"
    ):
        join(["0012", "0013"], ["12", "13"])
    with pytest.raises(DataRejected, match=r"'a'.*'x'.*name the column"):
        join(["a", "b"], ["x", "y"])
