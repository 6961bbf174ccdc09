"""Erased users and prepared logs: as if the raw log never had them, and no file of the data mentions them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.erasure.erased import FOREVER, Erased, digest_of
from models.prepared import Prepared
from models.recommender.erasure import held, rewrite
from models.recommender.prepare.pipeline import prepare
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import Schema
from tests.kit.logs import Row, contents, histories, make_log, quarantined, write_csv

SALT = b"0" * 32
CUTS = {"val_from": "2024-04-15T00:00:00Z", "test_from": "2024-04-22T00:00:00Z"}


def erasing(*user_ids: str, until_s: float = FOREVER) -> Erased:
    return Erased(SALT, {digest_of(user_id, SALT): until_s for user_id in user_ids})


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepares rows of a log under a name."""

    def make(name: str, rows: list[Row] | str, *, erased: Erased | None = None, **settings: Any) -> Prepared:
        out = tmp_path / name
        out.mkdir()
        raw = out.with_suffix(".csv" if isinstance(rows, list) else ".txt")
        raw = write_csv(raw, rows) if isinstance(rows, list) else Path(raw)
        if isinstance(rows, str):
            raw.write_text(rows)
        with ThreadPoolExecutor(1) as executor:
            prepare(PrepareConfig(raw=str(raw), max_bad_fraction=0.5, **settings), out, executor, erased or Erased())
        return Prepared(out)

    return make


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[..., Prepared]:
    """Rewrites prepared data without erased users."""

    def make(data: Prepared, erased: Erased) -> Prepared:
        out = tmp_path / f"{data.name}-rewritten"
        out.mkdir()
        with ThreadPoolExecutor(1) as executor:
            rewrite(data, out, executor, erased)
        return Prepared(out)

    return make


def assert_same(one: Prepared, other: Prepared) -> None:
    assert one.schema(Schema) == other.schema(Schema)
    assert contents(one) == contents(other)


def typed_log() -> list[Row]:
    """A log with types, sessions, and an item and a type that only one user has."""
    draw = random.Random(3)
    rows = [{**row, "event_type": draw.choice(["view", "cart", "purchase"])} for row in make_log(900)]
    only = {"user_id": "u7", "item_id": "i-only", "price": "1.0", "event_type": "gift"}
    return [*rows, {**only, "timestamp": "2024-03-05 10:00:00"}, {**only, "timestamp": "2024-04-25 10:00:00"}]


def without(rows: list[Row], *user_ids: str) -> list[Row]:
    return [row for row in rows if row["user_id"] not in user_ids]


@pytest.mark.parametrize("split", ["time", "leave-one-out", "held-out-users"])
def test_a_log_prepared_without_erased_users_is_a_log_that_never_had_them(
    made: Callable[..., Prepared], split: str
) -> None:
    rows = typed_log()

    erased = made("erased", rows, erased=erasing("u7", "u12"), split=split)

    assert_same(erased, made("never", without(rows, "u7", "u12"), split=split))
    assert erased.card()["bad"] == {"erased_user": len(rows) - len(without(rows, "u7", "u12"))}
    assert erased.card()["rows"] == len(rows)


@pytest.mark.parametrize("split", ["time", "leave-one-out", "held-out-users"])
def test_rewritten_data_are_those_of_a_log_that_never_had_the_users(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared], split: str
) -> None:
    rows = typed_log()
    settings: dict[str, Any] = {"split": split, "target": ("purchase",), **(CUTS if split == "time" else {})}

    data = rewritten(made("all", rows, **settings), erasing("u7", "u12"))

    assert_same(data, made("never", without(rows, "u7", "u12"), **settings))
    assert "i-only" not in data.schema(Schema).items
    assert data.card()["users"] == 28


def test_rewritten_items_are_as_old_as_before_so_that_live_items_stay_newer(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared]
) -> None:
    data = made("all", typed_log())
    os.utime(data.path / "items.parquet", (1e9, 1e9))

    found = rewritten(data, erasing("u7"))

    assert (found.path / "items.parquet").stat().st_mtime == 1e9


def test_rewritten_sequences_are_those_of_a_log_that_never_had_the_user(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared]
) -> None:
    draw = random.Random(1)
    lines = [f"u{user} " + " ".join(f"i{draw.randrange(20)}" for _ in range(6)) for user in range(40)]
    kept = "\n".join(line for line in lines if not line.startswith("u5 "))

    data = made("all", "\n".join(lines), split="leave-one-out")

    never = made("never", kept, split="leave-one-out")
    assert_same(rewritten(data, erasing("u5")), never)
    assert_same(made("erased", "\n".join(lines), erased=erasing("u5"), split="leave-one-out"), never)


def test_the_items_of_a_separate_table_stay_when_their_only_user_is_erased(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared], tmp_path: Path
) -> None:
    items = write_csv(
        tmp_path / "items.csv",
        [{"item_id": f"i{place}", "colour": "red"} for place in range(12)] + [{"item_id": "i-only", "colour": "blue"}],
    )
    rows = typed_log()
    settings: dict[str, Any] = {"items": str(items), **CUTS}

    data = rewritten(made("all", rows, **settings), erasing("u7"))

    assert_same(data, made("never", without(rows, "u7"), **settings))
    assert "i-only" in data.schema(Schema).items


def test_attributes_that_only_an_erased_user_wrote_are_gone_where_the_log_is_the_item_table(
    made: Callable[..., Prepared], tmp_path: Path
) -> None:
    rows = [{**row, "title": "secret" if row["user_id"] == "u7" else ""} for row in make_log()]
    path = write_csv(tmp_path / "log.csv", rows)
    out = tmp_path / "out"
    out.mkdir()
    config = PrepareConfig(raw=str(path), items=str(path))

    with ThreadPoolExecutor(1) as executor:
        prepare(config, out, executor, erasing("u7"))

    assert "secret" not in pq.read_table(out / "items.parquet").to_pydict().get("title", [])


def test_bad_rows_of_erased_users_are_not_in_quarantine(made: Callable[..., Prepared]) -> None:
    bad = {"item_id": "i1", "timestamp": "never", "price": "1"}
    rows = [*make_log(), {"user_id": "u7", **bad}, {"user_id": "u8", **bad}]

    data = made("erased", rows, erased=erasing("u7"))

    assert [row["reason"] for row in quarantined(data)] == ["bad_timestamp"]
    assert not any("u7" in row["row"] for row in quarantined(data))
    assert data.card()["bad"]["bad_timestamp"] == 1


def test_rewriting_deletes_bad_rows_that_quote_the_user(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared]
) -> None:
    bad = {"item_id": "i1", "timestamp": "never", "price": "1"}
    data = made("all", [*make_log(), {"user_id": "u7", **bad}, {"user_id": "u8", **bad}])

    after = rewritten(data, erasing("u7"))

    assert [("u7" in row["row"], "u8" in row["row"]) for row in quarantined(after)] == [(False, True)]
    assert after.card()["quarantined_rows_deleted"] == 1


def test_an_id_as_the_log_writes_it_is_the_erased_one(made: Callable[..., Prepared]) -> None:
    rows = [{**row, "user_id": f"{row['user_id'][1:]}.0"} for row in make_log()]

    data = made("erased", rows, erased=erasing("7"))

    assert "7" not in histories(data)
    assert "8" in histories(data)


def test_what_an_erased_user_did_before_the_login_goes_too(made: Callable[..., Prepared]) -> None:
    rows = [{**row, "session_id": f"s-{row['user_id']}"} for row in make_log()]
    before = {"user_id": "", "item_id": "i3", "timestamp": "2024-03-01 00:00:00", "price": "1", "session_id": "s-u7"}
    other = {**before, "session_id": "stranger"}

    data = made("erased", [*rows, before, other], erased=erasing("u7"))

    assert not {"u7", "session:s-u7"} & histories(data).keys()
    assert "session:stranger" in histories(data)


def test_an_anonymous_session_can_be_erased(made: Callable[..., Prepared]) -> None:
    rows = [{**row, "session_id": ""} for row in make_log()]
    visit = {"user_id": "", "item_id": "i3", "timestamp": "2024-03-01 00:00:00", "price": "1", "session_id": "visit"}

    data = made("erased", [*rows, visit], erased=erasing("session:visit"))

    assert "session:visit" not in histories(data)
    assert data.card()["bad"] == {"erased_user": 1}


def test_after_a_new_consent_only_what_came_before_stays_erased(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared]
) -> None:
    rows = make_log()
    consent_s = float(np.datetime64("2024-04-01T00:00:00", "s").astype(np.int64))
    lifted = erasing("u7", until_s=consent_s)
    of_user = [(item, time) for item, time in histories(made("all", rows, **CUTS))["u7"] if time >= consent_s]

    data = made("lifted", rows, erased=lifted, **CUTS)

    assert histories(data)["u7"] == of_user
    assert held(data, lifted) == set()
    assert_same(rewritten(made("whole", rows, **CUTS), lifted), data)


def test_data_hold_an_erased_user_until_they_are_rewritten(
    made: Callable[..., Prepared], rewritten: Callable[..., Prepared]
) -> None:
    erased = erasing("u7", "nobody")
    data = made("all", make_log())

    assert held(data, erased) == {digest_of("u7", SALT)}
    assert held(rewritten(data, erased), erased) == set()
