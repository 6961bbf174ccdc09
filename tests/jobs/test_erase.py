"""`shopkeeper erase`: what a store holds of a user goes at once, and the receipt names what stays until retrained."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest import MonkeyPatch

import jobs.erase
from jobs import prepare
from jobs.cli.context import Context, Store, UsageFailure
from jobs.erasure import data as erasure_data
from jobs.erasure.pending import outside
from models import FAMILIES
from models.erasure.copies import record_copy
from models.erasure.tombstones import NAME, Tombstones
from models.events.event import Event
from models.events.store import open_events
from models.features import write_store
from models.prepared import Prepared
from models.recommender.schema import Schema
from tests.kit.erasable import USER, bytes_with, erase, log_of, prepare_erasable
from tests.kit.logs import Row, histories, make_log, prepared, quarantined, write_csv


@pytest.fixture
def data(context: Context, tmp_path: Path) -> Prepared:
    return prepare_erasable(context, tmp_path)


def test_nothing_in_the_store_has_the_id_any_more(context: Context, data: Prepared) -> None:
    with closing(open_events(str(context.store.events))) as events:
        events.append([Event("e1", USER, None, "i1", "view", time.time())])
    context.store.logs.mkdir()
    (context.store.logs / "deploy.log").write_text(f"started\nuser_id='{USER}' failed\nended\n")
    assert bytes_with(context.store.root, USER) != []

    outcome = erase(context, USER)

    assert bytes_with(context.store.root, USER) == []
    assert (context.store.logs / "deploy.log").read_text() == "started\nended\n"
    (receipt,) = outcome.details["receipts"]
    deleted = {(each["what"], each.get("count")) for each in receipt["traces"] if each["state"] == "deleted"}
    assert {("events", 1), ("feature store", 2), ("quarantine", 1), ("log", 1), ("prepared data", None)} <= deleted


def test_prepared_data_are_replaced_by_those_of_a_log_without_the_user(context: Context, data: Prepared) -> None:
    before = histories(data)
    fingerprint = data.fingerprint

    receipt = erase(context, USER).details["receipts"][0]

    now = context.store.current_data("recommender")
    assert histories(now) == {user: events for user, events in before.items() if user != USER}
    assert [path.name for path in context.store.data("recommender").iterdir() if path.is_dir()] == [now.name]
    (trace,) = [each for each in receipt["traces"] if each["what"] == "prepared data"]
    assert (trace["fingerprint"], trace["new_fingerprint"]) == (fingerprint, now.fingerprint)


def test_all_versions_of_the_data_are_rewritten_and_the_pointer_follows_its_own(
    context: Context, data: Prepared, tmp_path: Path
) -> None:
    later = prepared(
        context.store, write_csv(tmp_path / "later.csv", log_of()[:-200]), max_bad_fraction=0.5, split="leave-one-out"
    )
    assert later.name != data.name

    erase(context, USER)

    assert not data.path.exists() and not later.path.exists()
    assert context.store.current_data("recommender").schema(Schema).split == "leave-one-out"
    assert len([path for path in context.store.data("recommender").iterdir() if path.is_dir()]) == 2


def test_a_later_prepare_of_the_same_log_leaves_the_user_out(context: Context, data: Prepared, tmp_path: Path) -> None:
    erase(context, USER)

    again = prepared(context.store, tmp_path / "log.csv", max_bad_fraction=0.5, split="leave-one-out")

    assert USER not in histories(again)
    assert again.card()["bad"]["erased_user"] == sum(row["user_id"] == USER for row in log_of())
    assert quarantined(again) == []


def test_the_next_prepare_finishes_an_erasure_that_came_over_http(
    context: Context, data: Prepared, tmp_path: Path
) -> None:
    Tombstones(context.store.tombstones).add([USER])

    prepared(context.store, tmp_path / "log.csv", max_bad_fraction=0.5, split="leave-one-out")

    assert not data.path.exists()


def test_pending_erasures_are_finished_without_the_id(context: Context, data: Prepared) -> None:
    Tombstones(context.store.tombstones).add([USER])

    erase(context, pending=True)

    assert bytes_with(context.store.root, USER) == []


def test_an_unknown_user_gets_a_receipt_of_nothing_and_a_tombstone(context: Context, data: Prepared) -> None:
    outcome = erase(context, "nobody")

    assert "nothing was found" in str(outcome.summary)
    assert Tombstones(context.store.tombstones).has("nobody")
    assert data.path.exists()


def test_ids_come_from_a_file_too(context: Context, data: Prepared, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(f"\ufeff{USER}\r\n\nu3\n -5 \nu5\u0085u6\n".encode())

    outcome = erase(context, "u4", from_file=str(tmp_path / "ids.txt"))

    assert len(outcome.details["receipts"]) == 5
    assert not Tombstones(context.store.tombstones).any_of(["u5", "u6"]), "a line ends at a line feed only"
    assert not {USER, "u3", "u4"} & histories(context.store.current_data("recommender")).keys()


@pytest.mark.parametrize(
    ("users", "options", "said"),
    [
        ((), {}, "name the user"),
        (("",), {}, "'' is not a user id"),
        (("u1", "a\x00b"), {}, "control characters"),
        (("--purgee",), {}, "unknown flag --purgee"),
        (("u1",), {"pending": True}, "leave the ids out"),
    ],
)
def test_bad_input_erases_nobody(context: Context, users: tuple[str, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageFailure, match=said):
        erase(context, *users, **options)

    assert not context.store.tombstones.exists()


def test_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="--lift and --verify"):
        jobs.erase.Options(lift=True, verify=True)
    with pytest.raises(ValueError, match="--model names the model of --prove"):
        jobs.erase.Options(model="runs:/1")


def test_lifting_an_erasure_counts_events_from_then_on(context: Context, data: Prepared, tmp_path: Path) -> None:
    erase(context, USER)

    assert erase(context, USER, lift=True).status == "lifted"
    assert erase(context, USER, lift=True).status == "unchanged"

    assert not Tombstones(context.store.tombstones).has(USER)
    assert USER not in histories(prepared(context.store, tmp_path / "log.csv", max_bad_fraction=0.5))


def test_exports_in_recorded_places_are_cleaned_and_backups_are_named(
    context: Context, data: Prepared, tmp_path: Path
) -> None:
    rows: list[Row] = [
        {"user_id": USER, "session_id": "s1", "item_id": "i1"},
        {"user_id": None, "session_id": "s1", "item_id": "i2"},
        {"user_id": None, "session_id": "s2", "item_id": "i3"},
        {"user_id": "u3", "session_id": "s2", "item_id": "i4"},
    ]
    rows = [{**row, "event_seq": number, "event_store": "shop"} for number, row in enumerate(rows, start=1)]
    export, backup = tmp_path / "export", tmp_path / "events.backup"
    export.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), export / "events-1.parquet")
    (export / "events-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_csv(export / "events-3.csv", [{key: value or "" for key, value in row.items()} for row in rows])
    backup.write_bytes(b"copy")
    for _ in range(2):
        record_copy(context.store.root, "export", export)
    record_copy(context.store.root, "backup", backup)

    receipt = erase(context, USER).details["receipts"][0]

    assert pq.read_table(export / "events-1.parquet")["item_id"].to_pylist() == ["i3", "i4"]
    assert [json.loads(line)["item_id"] for line in (export / "events-2.jsonl").read_text().splitlines()] == [
        "i3",
        "i4",
    ]
    assert (export / "events-3.csv").read_text().splitlines()[1:] == [",s2,i3,3,shop", "u3,s2,i4,4,shop"]
    states = {each["what"]: each["state"] for each in receipt["traces"]}
    assert (states["export"], states["backup"], states["raw log"]) == ("deleted", "held", "outside")


@pytest.mark.parametrize("step", ["add_directory", "_move_pointer", "_remove_derived", "remove_directory"])
def test_an_erasure_that_is_killed_goes_on_when_it_is_run_again(
    context: Context, data: Prepared, monkeypatch: MonkeyPatch, step: str
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(erasure_data, step, killed)
        with pytest.raises(KeyboardInterrupt):
            erase(context, USER)
    assert Tombstones(context.store.tombstones).has(USER)

    receipt = erase(context, USER).details["receipts"][0]

    assert USER not in histories(context.store.current_data("recommender"))
    assert bytes_with(context.store.root, USER) == []
    (trace,) = [each for each in receipt["traces"] if each["what"] == "prepared data"]
    assert trace["new_fingerprint"] == context.store.current_data("recommender").fingerprint


@pytest.mark.parametrize("name", ["0123456789abcdef", "rewritten"])
def test_what_a_killed_erasure_left_is_deleted(context: Context, data: Prepared, name: str) -> None:
    left = data.path.with_name(f".{name}.0123abcd")
    left.mkdir()
    (left / "users").write_text(USER)

    erase(context, USER)

    assert bytes_with(context.store.root, USER) == []


def test_data_of_which_too_little_is_left_are_deleted(context: Context, tmp_path: Path) -> None:
    rows = [row for row in log_of()[:-1] if row["user_id"] in (USER, "u3")]
    data = prepared(context.store, write_csv(tmp_path / "small.csv", rows), split="leave-one-out")

    outcome = erase(context, USER)

    assert not data.path.exists()
    assert not (context.store.data("recommender") / "CURRENT").exists()
    assert outcome.details["receipts"][0]["status"] == "erased"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_is_refused_with_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        context = Context(store=Store(Path(directory)))
        erase(context, "u1")

        child = os.fork()
        if child == 0:
            os.setuid(65534)
            failures = 0
            for options in ({}, {"lift": True}, {"verify": True}):
                try:
                    erase(context, "u2", **options)
                except UsageFailure as error:
                    failures += "writable" in str(error)
            os._exit(failures)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert not Tombstones(context.store.tombstones).has("u2")


def test_one_tracking_server_that_is_down_does_not_stop_an_erasure(context: Context, data: Prepared) -> None:
    down = replace(context, tracking_uri="http://127.0.0.1:9")

    receipt = erase(down, USER).details["receipts"][0]

    assert "tracking server" in {each["what"] for each in receipt["traces"]}
    assert USER not in histories(context.store.current_data("recommender"))


def test_an_id_that_is_also_a_number_elsewhere_takes_no_event_of_others(context: Context, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{**row, "user_id": row["user_id"][1:], "price": str(draw.randrange(1, 9))} for row in make_log()]
    data = prepared(context.store, write_csv(tmp_path / "log.csv", rows))
    before = histories(data)

    erase(context, "7.0")

    now = histories(context.store.current_data("recommender"))
    assert now == {user: events for user, events in before.items() if user != "7"}


def test_verbs_and_service_mean_one_file_of_tombstones(store: Store) -> None:
    assert store.tombstones == store.root / NAME


def test_reviews_of_an_erased_user_leave_data_and_reports_and_deployed_quotes_are_held_until_the_next_deployment(
    context: Context, tmp_path: Path
) -> None:
    family = FAMILIES["reviews"]
    raw = tmp_path / "reviews.csv"
    users = [USER if n % 9 == 0 else f"u{n % 5}" for n in range(120)]
    lines = [f"{'good' if n % 2 else 'bad'} thing {n},{n % 2},{user},p{n % 3}" for n, user in enumerate(users)]
    raw.write_text("\n".join(["text,label,user_id,product_id", *lines]) + "\n", encoding="utf-8")
    prepare.run(context, family, prepare.Options(), family.PrepareConfig(raw=str(raw)))
    data = context.store.current_data("reviews")
    write_store(context.store.feature_store("reviews"), family.features, data)
    report = context.store.root / "reviews" / "reports" / "1-test" / "evaluation.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"data_fingerprint": data.fingerprint}))

    receipt = erase(context, USER).details["receipts"][0]

    assert bytes_with(context.store.data("reviews"), USER) == [] and not report.exists()
    assert context.store.current_data("reviews").card()["bad"]["erased_user"] == 14
    traces = {(each["what"], each["state"]): each for each in receipt["traces"]}
    assert "shopkeeper deploy reviews" in traces["feature store", "held"]["remedy"]
    assert ("prepared data", "deleted") in traces
    write_store(context.store.feature_store("reviews"), family.features, context.store.current_data("reviews"))
    assert ("feature store", "held") not in {(each.what, each.state) for each in outside(context)}
