"""Events from the store to prepared data: exports, the watermark, and a replay that ends in the same data."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import models.events.export_files
from jobs.__main__ import main
from jobs.cli.context import Store
from models.errors import DataRejected
from models.events.backup import backup, restore
from models.events.event import Event
from models.events.export_files import export
from models.events.exports import export_of
from models.events.store import EventStore, open_events
from models.features import FeatureStore, found_in, write_store
from models.prepared import events_until
from tests.kit.logs import RECOMMENDER, Row, contents, prepared, quarantined, write_csv

MARCH = 1_709_300_000
FORMATS = ("parquet", "csv", "jsonl")


def shop_log(num_events: int = 1_500) -> list[Row]:
    """A log in order of time, with types, prices, baskets of one moment, exact repeats, sessions that log in later."""
    draw = random.Random(0)
    rows: list[Row] = []
    for number in range(num_events):
        user, session = f"u{draw.randrange(25)}", f"s{draw.randrange(60)}"
        kind = draw.choices(["view", "addtocart", "purchase"], [6, 2, 1])[0]
        rows.append(
            {
                "user_id": user if draw.random() < 0.5 else "",
                "session_id": session,
                "item_id": f"i {draw.randrange(30)}, ü",
                "timestamp": MARCH + 37 * (number // 2) + draw.choice([0, 0, 0.123456]),
                "event_type": kind,
                "price": draw.choice([9.99, 0.1, 1234.5]) if kind == "purchase" else "",
                "quantity": draw.choice([1, 2.5]) if kind == "purchase" else "",
                "event_id": f"e{number}",
            }
        )
    return [row for row in rows for _ in range(1 + (draw.random() < 0.1))]


def write_log(path: Path, rows: Sequence[Row], **renamed: str) -> Path:
    """A log as CSV, with quotes around the ids of items."""
    described = [{**row, "item_id": f'"{row["item_id"]}"', "timestamp": f"{row['timestamp']:.6f}"} for row in rows]
    return write_csv(path, [{renamed.get(name, name): value for name, value in row.items()} for row in described])


def sent(row: Row) -> Event:
    """The event of a row as the shop sends it."""
    return Event(
        row["event_id"],
        row["user_id"] or None,
        row["session_id"] or None,
        row["item_id"],
        row["event_type"],
        row["timestamp"],
        "r1",
        row["price"] or None,
        row["quantity"] or None,
    )


def events_of(numbers: Sequence[int]) -> list[Event]:
    """Events of five users that make a small log."""
    return [Event(f"e{number}", f"u{number % 5}", None, f"i{number % 7}", None, MARCH + number) for number in numbers]


def filled(path: Path, events: Sequence[Event]) -> EventStore:
    store = open_events(str(path))
    store.append(events)
    return store


@pytest.mark.parametrize("format", FORMATS)
def test_a_log_of_which_a_part_came_as_events_is_prepared_to_the_same_data(
    format: Any, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.events.export_files, "EVENTS_PER_FILE", 100)
    rows = shop_log()
    half = len(rows) // 2
    whole = prepared(store, write_log(tmp_path / "whole" / "log.csv", rows))
    write_log(tmp_path / "split" / "log.csv", rows[:half], user_id="visitor", item_id="sku", timestamp="at")
    # The shop sends what overlaps with its log twice, in batches, and some of it again.
    sent_rows = rows[half - 40 :]
    with closing(open_events(str(store.events))) as events:
        for start in range(0, len(sent_rows), 50):
            events.append([sent(row) for row in sent_rows[start : start + 70]])
            if start == 400:
                export(events, tmp_path / "split", format=format)
        done = export(events, tmp_path / "split", format=format)
        store_id = events.store_id
        last_seq = max(each.seq for block in events.scan(after_seq=0, until_seq=events.last_seq()) for each in block)

    data = prepared(Store(tmp_path / "other"), tmp_path / "split", columns="user_id=visitor,item_id=sku,timestamp=at")

    assert done.num_events < len(sent_rows), "the second export has only what is new"
    assert data.fingerprint == whole.fingerprint
    ours, theirs = contents(data), contents(whole)
    assert {name for name in ours if ours[name] != theirs[name]} == {"schema.json"}
    assert events_until(data) == {store_id: last_seq}
    assert events_until(whole) == {}
    assert data.card()["anonymous"] == whole.card()["anonymous"]
    assert whole.card()["anonymous"]["stitched_events"] > 100
    assert whole.card()["duplicates"] > 50


def test_an_export_has_what_is_newer_than_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    with closing(filled(tmp_path / "events.sqlite", events_of(range(10)))) as store:
        first = export(store, folder)
        assert export(store, folder).files == []
        store.append(events_of(range(10, 15)))
        second = export(store, folder)
        again = export(store, folder, all_again=True)
    spans = [export_of(path.name) for done in (first, second, again) for path in done.files]
    assert [(span.first, span.until) for span in spans if span] == [(1, 10), (11, 15), (1, 15)]
    assert again.superseded == [*first.files, *second.files]
    numbers = pq.read_table(second.files[0])["event_seq"].to_pylist()
    assert numbers == [11, 12, 13, 14, 15]


def test_an_export_that_is_interrupted_leaves_complete_files_and_goes_on_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.events.export_files, "EVENTS_PER_FILE", 2)
    monkeypatch.setattr("models.events.sqlite.BLOCK", 2)
    folder = tmp_path / "exports"
    written: list[Path] = []

    def disk_fills(temporary: Path, path: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(temporary.rename(path))

    with closing(filled(tmp_path / "events.sqlite", events_of(range(7)))) as store:
        with monkeypatch.context() as patched:
            patched.setattr(models.events.export_files, "put_file", disk_fills)
            with pytest.raises(OSError, match="No space left"):
                export(store, folder)
        assert sorted(folder.iterdir()) == written
        assert export(store, folder).num_events == 3
    assert [(span.first, span.until) for path in sorted(folder.iterdir()) if (span := export_of(path.name))] == [
        (1, 2),
        (3, 4),
        (5, 6),
        (7, 7),
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_bad_rows_of_an_export_count_as_held(format: Any, tmp_path: Path, store: Store) -> None:
    late = Event("late", "u1", None, "i1", None, 4_000_000_000.0)
    with closing(filled(tmp_path / "events.sqlite", [*events_of(range(300)), late])) as events:
        export(events, tmp_path / "exports", format=format)
        data = prepared(store, tmp_path / "exports")
        assert [row["reason"] for row in quarantined(data)] == ["implausible_timestamp"]
        assert events_until(data) == data.card()["events_until"] == {events.store_id: 301}


def test_the_feature_store_that_deploy_fills_has_the_watermark(tmp_path: Path, store: Store) -> None:
    with closing(filled(tmp_path / "events.sqlite", events_of(range(60)))) as events:
        export(events, tmp_path / "exports")
        data = prepared(store, tmp_path / "exports")
        write_store(tmp_path / "features.sqlite", RECOMMENDER.features, data)
        assert RECOMMENDER.events is not None
        keys = RECOMMENDER.events.until_keys
        with closing(FeatureStore(tmp_path / "features.sqlite", read_only=True)) as features:
            found = found_in(keys, features.fetch(keys), path=features.path).values
        assert RECOMMENDER.events.until(found) == {events.store_id: 60}


def test_data_without_events_of_a_store_have_no_watermark(tmp_path: Path, store: Store) -> None:
    rows = [{**vars(each), "event_seq": 5, "timestamp": each.timestamp_s} for each in events_of(range(60))]
    named = ("user_id", "item_id", "timestamp", "event_seq")
    data = prepared(store, write_csv(tmp_path / "log.csv", [{name: row[name] for name in named} for row in rows]))
    assert events_until(data) == {}


def test_events_that_change_nothing_raise_the_watermark_of_the_same_data(tmp_path: Path, store: Store) -> None:
    with closing(filled(tmp_path / "events.sqlite", events_of(range(60)))) as events:
        export(events, tmp_path / "exports")
        before = prepared(store, tmp_path / "exports", max_bad_fraction=0.1)
        events.append([Event("late", "u1", None, "i1", None, 4_000_000_000.0)])
        export(events, tmp_path / "exports")
        after = prepared(store, tmp_path / "exports", max_bad_fraction=0.1)
        assert after.path == before.path
        assert events_until(after) == after.card()["events_until"] == {events.store_id: 61}


def export_in_three(tmp_path: Path, folder: Path, format: Any = "parquet") -> list[Path]:
    files = []
    with closing(open_events(str(tmp_path / "events.sqlite"))) as events:
        for start in (0, 40, 80):
            events.append(events_of(range(start, start + 40)))
            files += export(events, folder, format=format).files
    return files


def test_a_missing_export_between_two_others_is_refused_with_its_name(tmp_path: Path, store: Store) -> None:
    files = export_in_three(tmp_path, tmp_path / "exports")
    files[1].unlink()

    with pytest.raises(DataRejected, match=rf"events 41 to 80 .* add the file {files[1].name}, or export all"):
        prepared(store, tmp_path / "exports")
    data = prepared(store, tmp_path / "exports", accept_gaps=True)

    assert any("events 41 to 80 of the store" in note for note in data.card()["notes"])
    assert list(events_until(data).values()) == [120]


def test_exports_before_the_first_file_may_be_left_out_with_a_note(tmp_path: Path, store: Store) -> None:
    files = export_in_three(tmp_path, tmp_path / "exports")
    files[0].unlink()
    data = prepared(store, tmp_path / "exports")
    assert any("events 1 to 40 of the store" in note for note in data.card()["notes"])
    assert list(events_until(data).values()) == [120]


def test_renamed_and_merged_exports_are_recognised_by_their_columns(tmp_path: Path, store: Store) -> None:
    first, second, third = export_in_three(tmp_path, tmp_path / "exports", "csv")
    first.rename(first.with_name("a.csv"))
    merged = second.read_text() + third.read_text().partition("\n")[2]
    second.write_text(merged)
    second.rename(second.with_name("b.csv"))
    third.unlink()
    data = prepared(store, tmp_path / "exports")
    assert list(events_until(data).values()) == [120]
    assert not any("events" in note and "in no file" in note for note in data.card()["notes"])


def test_events_that_were_erased_before_an_export_leave_no_gap(tmp_path: Path, store: Store) -> None:
    with closing(filled(tmp_path / "events.sqlite", events_of(range(60)))) as events:
        events.append([Event(f"x{n}", "gone", None, "i1", None, MARCH + n) for n in range(10)])
        export(events, tmp_path / "exports")
        events.append([Event(f"y{n}", "gone", None, "i1", None, MARCH + n) for n in range(10)])
        events.erase("gone")
        assert export(events, tmp_path / "exports").files == []
        events.append(events_of(range(60, 90)))
        export(events, tmp_path / "exports")
        data = prepared(store, tmp_path / "exports")
        assert events_until(data) == {events.store_id: 110}
        assert not any("in no file" in note for note in data.card()["notes"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [("u1,i1,1709300000,x,abc", "has the event_seq 'x'"), ("u1,i1,1709300000,,abc", "only one of event_seq and")],
)
def test_a_number_of_an_event_that_is_none_is_refused(line: str, reason: str, tmp_path: Path, store: Store) -> None:
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp,event_seq,event_store\n{line}\n")
    with pytest.raises(DataRejected, match=rf"log.csv has .*{reason}|log.csv {reason}"):
        prepared(store, tmp_path / "log.csv")


def test_what_a_store_gives_after_a_restore_is_above_every_watermark(tmp_path: Path, store: Store) -> None:
    with closing(filled(tmp_path / "events.sqlite", events_of(range(60)))) as events:
        backup(events, tmp_path / "backup.sqlite")
        events.append(events_of(range(60, 90)))
        export(events, tmp_path / "exports")
        until = events_until(prepared(store, tmp_path / "exports"))
    restore(tmp_path / "backup.sqlite", str(tmp_path / "restored.sqlite"))
    with closing(open_events(str(tmp_path / "restored.sqlite"))) as restored:
        restored.append(events_of(range(90, 120)))
        new = [each for block in restored.scan(after_seq=60, until_seq=restored.last_seq()) for each in block]
        assert all(each.seq > until[restored.store_id] for each in new)
        export(restored, tmp_path / "exports")
        assert prepared(store, tmp_path / "exports").card()["kept"] == 120


def line(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main([*arguments, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_verb_exports_backs_up_restores_and_reports(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--store", str(store.root))
    view = Event("v", "u1", None, "i1", "view", MARCH + 1_000.5)
    filled(store.events, [*events_of(range(60)), view]).close()

    exported = line(capsys, "events", "export", "--to", str(tmp_path / "exports"), *root)
    prepared(store, tmp_path / "exports")
    with closing(open_events(str(store.events))) as events:
        events.append([Event("w", "u2", None, "i1", "view", MARCH)])
    status = line(capsys, "events", "status", *root)
    saved = line(capsys, "events", "backup", str(tmp_path / "b.sqlite"), *root)
    refused = line(capsys, "events", "restore", str(tmp_path / "b.sqlite"), *root)
    restored = line(capsys, "events", "restore", str(tmp_path / "b.sqlite"), "--force", *root)

    assert (exported["exit_code"], exported["events"], len(exported["files"])) == (0, 61, 1)
    assert (status["events"], status["last_seq"], status["by_type"]) == (62, 62, {"": 60, "view": 2})
    assert status["oldest"] == datetime.fromtimestamp(MARCH, UTC).isoformat()
    assert status["families"]["recommender"] == {"events_until": 61, "waiting": 1}
    assert status["bytes"] > 0
    assert saved["last_seq"] == 62
    assert refused["exit_code"] == 2
    assert "--force" in refused["error"]
    assert (restored["exit_code"], restored["events"]) == (0, 62)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ("events", 2, "use events export --to DIR"),
        ("events exprot", 2, "'events exprot' is not a command"),
        ("events export", 2, "export needs a folder"),
        ("events export --too x", 2, "unknown flag --too"),
        ("events restore absent.sqlite", 2, "there is no backup at"),
        ("events status", 5, "no event store at"),
        ("events status --events redis://:hunter2@127.0.0.1:1/0", 5, "cannot be reached"),
        ("events status --events ftp://:hunter2@127.0.0.1", 2, "is not the address"),
    ],
)
def test_mistakes_are_named_with_the_remedy(
    arguments: str, exit_code: int, message: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    found = line(capsys, *arguments.split(), "--store", str(store.root))
    assert (found["exit_code"], message in found["error"]) == (exit_code, True), found
    assert "hunter2" not in found["error"]
