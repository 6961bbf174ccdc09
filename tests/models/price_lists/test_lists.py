"""Lists of prices: states, prices that change as one unit or not at all, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from models.price_lists.current import CSV, PARQUET
from models.price_lists.lists import Origin, PriceList, PriceListRefused, PriceLists
from models.price_lists.rows import PriceRow, read_rows, write_rows
from tests.kit.killed import is_killed_at

RULES = "ladder: {step: 0.1}\n"


def origin(**changed: Any) -> Origin:
    known: dict[str, Any] = {
        "model": "models:/pricing/3",
        "model_version": "3",
        "data": "abc",
        "rules_name": "rules.yaml",
        "rules": RULES,
        "rules_sha256": hashlib.sha256(RULES.encode()).hexdigest(),
        "verdict": "recommended",
        "reason": "the model claims +3.0% profit",
        "claim": {"claimed": 0.03, "reestimated": 0.02, "low": 0.01, "high": 0.03},
    }
    return Origin(**{**known, **changed})


def row(product: str, old: float, new: float, store: str = "north") -> PriceRow:
    return PriceRow(product=product, store=store, old=old, new=new, reason="because")


def proposed(lists: PriceLists, rows: Sequence[PriceRow]) -> str:
    return lists.propose(rows, origin(), by="ann").record.id


def approved(lists: PriceLists, *rows: PriceRow) -> str:
    found = proposed(lists, rows)
    lists.approve(found, by="bob")
    return found


def applied(lists: PriceLists, *rows: PriceRow) -> str:
    found = approved(lists, *rows)
    lists.apply(found, by="bob")
    return found


STATES_BEFORE: dict[str, Callable[[PriceLists, Sequence[PriceRow]], str]] = {
    "approve": proposed,
    "apply": lambda lists, rows: approved(lists, *rows),
    "take_back": lambda lists, rows: applied(lists, *rows),
}


def prices(lists: PriceLists) -> dict[str, float]:
    return {product: price for (product, _), price in lists.current().prices.items()}


@pytest.fixture
def lists(tmp_path: Path) -> PriceLists:
    return PriceLists(tmp_path / "pricing")


FIRST = (row("a", 3.0, 3.3), row("b", 2.0, 2.0), row("c", 5.0, 4.5))


def test_a_list_is_proposed_approved_applied_and_taken_back_with_who_and_when(lists: PriceLists) -> None:
    found = proposed(lists, FIRST)
    assert lists.get(found).state == "proposed" and prices(lists) == {}

    lists.approve(found, by="bob", reason="fine")
    assert lists.get(found).state == "approved" and prices(lists) == {}

    lists.apply(found, by="cleo")
    assert prices(lists) == {"a": 3.3, "b": 2.0, "c": 4.5}

    last = lists.take_back(found, by="dora", reason="sales fell")
    assert prices(lists) == {"a": 3.0, "b": 2.0, "c": 5.0}
    assert [(one.state, one.by) for one in last.history] == [
        ("proposed", "ann"),
        ("approved", "bob"),
        ("applied", "cleo"),
        ("taken back", "dora"),
    ]
    assert [one.at for one in last.history] == sorted(one.at for one in last.history)
    assert last.history[-1].reason == "sales fell"


def test_the_current_prices_are_a_file_to_import(lists: PriceLists) -> None:
    applied(lists, row('a, "x"\n=1', 3.0, 3.3), row("b", 2.0, 2.0, store=""))

    for table in (csv.read_csv(str(lists.current_directory / CSV)), pq.read_table(lists.current_directory / PARQUET)):
        assert table.column_names == ["product", "store", "price"]
        assert table["price"].to_pylist() == [3.3, 2.0]
    assert pq.read_table(lists.current_directory / PARQUET)["product"].to_pylist() == ['a, "x"\n=1', "b"]


def test_a_record_says_what_the_list_was_computed_from(lists: PriceLists) -> None:
    found = proposed(lists, FIRST)

    record = json.loads((lists.directory / found / "record.json").read_text())

    assert record["origin"]["model"] == "models:/pricing/3" and record["origin"]["data"] == "abc"
    assert record["origin"]["rules_sha256"] == hashlib.sha256(record["origin"]["rules"].encode()).hexdigest()
    assert record["origin"]["claim"]["low"] == 0.01
    assert csv.read_csv(str(lists.directory / found / "rows.csv")).num_rows == 3
    assert lists.get(found).rows() == list(FIRST)


def test_nothing_is_proposed_where_no_price_changes(lists: PriceLists) -> None:
    with pytest.raises(PriceListRefused, match=r"nothing to propose: the model claims \+3.0% profit"):
        lists.propose([row("a", 3.0, 3.0)], origin(), by="ann")
    assert lists.all() == []


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("proposed", "apply"),
        ("proposed", "take_back"),
        ("approved", "approve"),
        ("rejected", "approve"),
        ("rejected", "apply"),
        ("applied", "apply"),
        ("applied", "reject"),
        ("taken back", "apply"),
        ("taken back", "take_back"),
    ],
)
def test_a_state_that_does_not_allow_a_step_refuses_it_and_says_who_decided(
    lists: PriceLists, state: str, action: str
) -> None:
    found = proposed(lists, FIRST)
    if state not in ("proposed", "rejected"):
        lists.approve(found, by="bob")
    if state == "rejected":
        lists.reject(found, by="bob", reason="no")
    if state in ("applied", "taken back"):
        lists.apply(found, by="bob")
    if state == "taken back":
        lists.take_back(found, by="bob")
    before = prices(lists)

    with pytest.raises(PriceListRefused, match=f"{found} is {state} by (ann|bob) at .* cannot be"):
        getattr(lists, action)(found, by="eve", **({"reason": "x"} if action == "reject" else {}))

    assert lists.get(found).state == state and prices(lists) == before


def test_a_list_from_other_prices_than_todays_is_refused_with_the_offers(lists: PriceLists) -> None:
    later = approved(lists, row("b", 2.1, 2.4), row("x", 1.0, 1.2))
    applied(lists, *FIRST)

    with pytest.raises(PriceListRefused, match=r"other prices than today's \(product b in store north 2.10, now 2.00"):
        lists.apply(later, by="bob")

    assert "x" not in prices(lists)


def test_a_list_that_is_applied_supersedes_open_lists_about_the_same_offers(lists: PriceLists) -> None:
    other, apart = approved(lists, row("a", 3.0, 3.1)), approved(lists, row("x", 1.0, 1.2))
    first = applied(lists, *FIRST)

    assert lists.get(other).state == "superseded"
    assert lists.get(other).history[-1].reason == f"{first} has changed prices of its offers"
    assert lists.get(apart).state == "approved"
    with pytest.raises(PriceListRefused, match="is superseded"):
        lists.apply(other, by="bob")


def test_a_later_list_about_the_same_offers_must_be_taken_back_first(lists: PriceLists) -> None:
    first = applied(lists, *FIRST)
    second = applied(lists, row("a", 3.3, 3.6), row("x", 1.0, 1.1))
    third = applied(lists, row("b", 2.0, 2.2))

    with pytest.raises(PriceListRefused, match=rf"product a in store north 3.30, now 3.60\) by {second}, take that"):
        lists.take_back(first, by="bob")
    assert prices(lists) == {"a": 3.6, "b": 2.2, "c": 4.5, "x": 1.1}

    lists.take_back(second, by="bob")
    lists.take_back(first, by="bob")
    assert prices(lists) == {"a": 3.0, "b": 2.2, "c": 5.0, "x": 1.0}
    assert lists.get(third).state == "applied"


def test_an_unknown_list_is_named_with_those_that_exist(lists: PriceLists) -> None:
    with pytest.raises(PriceListRefused, match=r"no list of prices '20260101-abcdef'; there are none yet"):
        lists.get("20260101-abcdef")
    found = proposed(lists, FIRST)
    with pytest.raises(PriceListRefused, match=found):
        lists.get("../" + found)


def test_damaged_files_are_named_and_nothing_is_applied(lists: PriceLists) -> None:
    found = approved(lists, *FIRST)
    directory = lists.directory / found
    write_rows([row("a", 3.0, 9.9)], directory)
    with pytest.raises(ValueError, match=r"rows.parquet is not what was proposed; restore it"):
        lists.apply(found, by="bob")
    (directory / "record.json").write_text('{"id": 3}')
    with pytest.raises(ValueError, match=r"record.json is not the record of a list of prices"):
        lists.get(found)
    with pytest.raises(ValueError, match=r"none.parquet cannot be read"):
        read_rows(directory / "none.parquet")


@pytest.mark.parametrize("damage", ["cut off", "of another list"])
def test_a_damaged_record_is_left_out_of_all_lists_and_named(
    lists: PriceLists, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = (proposed(lists, [row(product, 3.0, 3.3)]) for product in "ab")
    record = lists.directory / bad / "record.json"
    copied = (lists.directory / good / "record.json").read_text()
    record.write_text(copied[:40] if damage == "cut off" else copied)

    assert [one.record.id for one in lists.all()] == [good]
    assert str(record) in caplog.text and "restore it from a backup" in caplog.text
    lists.approve(good, by="bob")
    lists.apply(good, by="bob")
    assert prices(lists) == {"a": 3.3}


def test_damaged_current_prices_are_named(lists: PriceLists) -> None:
    found = applied(lists, *FIRST)
    (lists.current_directory / "ledger.json").write_text("{")

    with pytest.raises(ValueError, match=r"current-prices does not have today's prices .* restore it"):
        lists.get(found)


def _left(lists: PriceLists, list_id: str) -> tuple[str, dict[str, float]]:
    return lists.get(list_id).state, prices(lists)


@pytest.mark.parametrize("action", ["approve", "apply", "take_back"])
def test_a_process_that_is_killed_at_any_step_leaves_the_old_unit_or_the_new_one(tmp_path: Path, action: str) -> None:
    source = PriceLists(tmp_path / "source")
    applied(source, row("z", 1.0, 1.5))
    rows = [*FIRST, row("z", 1.5, 1.2)]
    found = STATES_BEFORE[action](source, rows)
    old = _left(source, found)
    done = PriceLists(tmp_path / "done")
    shutil.copytree(source.root, done.root)
    getattr(done, action)(found, by="bob")
    new = _left(done, found)

    step, seen, is_killed = 0, [], True
    while is_killed:
        step += 1
        lists = PriceLists(tmp_path / f"killed-{step}")
        shutil.copytree(source.root, lists.root)
        is_killed = is_killed_at(step, lambda lists=lists: getattr(lists, action)(found, by="bob"))  # type: ignore[misc]
        seen.append(_left(lists, found))
        assert seen[-1] in (old, new)
        if seen[-1] == old:
            getattr(lists, action)(found, by="bob")
            assert _left(lists, found) == new, "what a killed process left does not disturb the next one"
    assert step > 10 and seen[0] == old and seen[-1] == new


def test_of_two_lists_at_once_one_wins_and_the_other_is_told(lists: PriceLists) -> None:
    found = [approved(lists, row("a", 3.0, 3.0 + 0.1 * number)) for number in range(1, 7)]
    refused: list[str] = []

    def apply(list_id: str) -> None:
        try:
            lists.apply(list_id, by="bob")
        except PriceListRefused as error:
            refused.append(str(error))

    threads = [threading.Thread(target=apply, args=(one,)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    states = [lists.get(one).state for one in found]
    assert sorted(states) == ["applied", *["superseded"] * 5]
    assert len(refused) == 5 and all("is superseded" in text for text in refused)
    winner: PriceList = lists.get(found[states.index("applied")])
    assert prices(lists) == {"a": winner.rows()[0].new}
