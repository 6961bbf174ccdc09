"""`shopkeeper erase` where something cannot be erased now: the rest is, and the receipt names it until a later run."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import jobs.erase
from jobs.cli.context import Context, Failure
from jobs.erasure import pending
from jobs.serving import event_store
from models.erasure import features
from models.erasure.copies import record_copy
from models.erasure.receipts import read_receipts
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable
from models.events.event import Event
from models.events.store import open_events
from models.prepared import Prepared
from tests.kit.erasable import USER, erase, prepare_erasable

HEADER = "user_id,session_id,item_id,event_seq,event_store\n"


@pytest.fixture
def data(context: Context, tmp_path: Path) -> Prepared:
    return prepare_erasable(context, tmp_path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def pending_in(receipt: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["what"], each["where"]) for each in receipt["traces"] if each["state"] == "pending"]


def test_a_locked_feature_store_is_pending_until_a_later_run(
    context: Context, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BUSY_TIMEOUT_S", 0.05)
    with locked(context.store.feature_store("recommender")):
        erase(context, USER)
        outcome = erase(context, pending=True)

    (receipt,) = outcome.details["receipts"]
    assert pending_in(receipt) == [("feature store", "recommender/features.sqlite")]
    assert (outcome.status, outcome.exit_code) == ("pending", 5)
    assert "to do" in str(outcome.summary)
    pending.update_receipts(context)  # as prepare and train do, which look at prepared data only
    assert [each.status for each in read_receipts(context.store.root)] == ["pending"]

    outcome = erase(context, pending=True)

    assert pending_in(outcome.details["receipts"][0]) == []
    assert outcome.exit_code == 0


def test_events_of_a_server_that_is_down_are_pending(
    context: Context, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_store, "read_config", lambda path: deployed_with("redis://127.0.0.1:9/0"))

    outcome = erase(context, USER)

    assert pending_in(outcome.details["receipts"][0]) == [("events", "redis://127.0.0.1:9/0")]
    assert (outcome.status, outcome.exit_code) == ("pending", 5)


def deployed_with(events: str) -> dict[str, Any]:
    return {"applications": [{"deployments": [{"user_config": {"events": events}}]}]}


def test_an_export_that_cannot_be_read_is_pending_and_the_others_are_cleaned(
    context: Context, data: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "bad.jsonl").write_text("[1]\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "good.csv").write_text(f"{HEADER}{USER},s1,i1,1,shop\n")
    for name in ("one", "two"):
        record_copy(context.store.root, "export", tmp_path / name)

    outcome = erase(context, USER)

    assert pending_in(outcome.details["receipts"][0]) == [("export", str(tmp_path / "one" / "bad.jsonl"))]
    assert (outcome.status, outcome.exit_code) == ("pending", 1)
    assert (tmp_path / "two" / "good.csv").read_text() == HEADER


def test_verify_finds_the_user_in_a_recorded_export(context: Context, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"{HEADER}{USER},s1,i1,1,shop\n")
    record_copy(context.store.root, "export", tmp_path)
    Tombstones(context.store.tombstones).add([USER])

    with pytest.raises(Failure, match=rf"pending  export {tmp_path}, 1 rows"):
        erase(context, USER, verify=True)


def test_a_damaged_record_of_copies_stops_nothing_else(context: Context, data: Prepared) -> None:
    (context.store.root / "copies.json").write_text("[{")

    outcome = erase(context, USER)

    record = context.store.root / "copies.json"
    assert pending_in(outcome.details["receipts"][0]) == [("export", str(record))]
    assert not data.path.exists()


def test_a_damaged_receipt_is_named_and_the_others_are_updated(
    context: Context, data: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    erase(context, USER)
    damaged = context.store.root / "erasures" / "er_0_damaged.json"
    damaged.write_text("{")

    with caplog.at_level("WARNING"):
        outcome = erase(context, pending=True)

    assert len(outcome.details["receipts"]) == 1
    assert str(damaged) in caplog.text and "delete it" in caplog.text


def test_unfinished_data_of_a_killed_prepare_are_in_the_receipt(context: Context, data: Prepared) -> None:
    left = data.path.with_name(".new.0123abcd")
    left.mkdir()

    (receipt,) = erase(context, USER).details["receipts"]

    (trace,) = [each for each in receipt["traces"] if each["what"] == "unfinished data"]
    assert (trace["where"], trace["state"], trace["remedy"]) == (str(left), "maybe", f"rm -r {left}")


@pytest.mark.parametrize("step", ["erase_at_once", "finish", "update_receipts"])
def test_an_error_after_the_tombstone_says_what_finishes_it(
    context: Context, data: Prepared, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def failing(*arguments: Any, **options: Any) -> None:
        Tombstones(context.store.tombstones).add([USER])
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(jobs.erase, step, failing)

    with pytest.raises(Failure, match=r"free some space.*unknown from now on.*erase --pending"):
        erase(context, USER)


def test_tombstones_that_a_full_disk_refuses_ask_for_space() -> None:
    for error in (sqlite3.OperationalError("database or disk is full"), OSError(errno.ENOSPC, "No space left")):
        message = str(TombstonesUnreadable(Path("erased.sqlite"), error, writing=True))
        assert "free some space" in message and "owner" not in message


def test_a_locked_event_store_is_pending_in_the_receipt(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_events(str(context.store.events))) as events:
        events.append([Event("e1", USER, None, "i1", "view", 1_709_251_200.0)])

    def refused(address: str, erased: object) -> int:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(pending, "_erase_events", refused)

    outcome = erase(context, USER)

    assert pending_in(outcome.details["receipts"][0]) == [("events", "events.sqlite")]
    assert outcome.exit_code == 5
