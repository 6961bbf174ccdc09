"""The request log: what is in a line and what is not, sampling, rotation, file modes."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from serve.access import request_log
from serve.access.request_log import KEEP_S, NUM_OLD_FILES, LogSettings, RequestLog
from tests.kit.guarded_toy import GuardedToy


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_nothing_is_logged_by_default(endpoint: GuardedToy, tmp_path: Path) -> None:
    endpoint.ask()

    assert not list(tmp_path.rglob("*.jsonl"))
    assert not (tmp_path / "salt").exists()


def test_a_line_says_what_was_asked_without_body_query_or_ids(endpoint: GuardedToy, tmp_path: Path) -> None:
    endpoint.load(request_log=tmp_path / "log", request_log_sample=1.0, salt=tmp_path / "salt")
    header = endpoint.add("read")
    endpoint.client.post("/v1/colours?secret=query", json={"visitor_id": "ann-the-visitor"}, headers=header)
    endpoint.ask(header)
    endpoint.ask()
    endpoint.service.request_log.close()

    unknown, answered, refused = lines(tmp_path / "log")

    assert (unknown["method"], unknown["route"], unknown["code"], unknown["family"]) == (
        "POST",
        "/v1/colours",
        422,
        "toy",
    )
    (hashed,) = unknown["ids"]["visitor"]
    assert len(hashed) == 16
    assert (answered["code"], answered["ids"], answered["model_version"]) == (200, {}, "7")
    assert answered["key"] == unknown["key"] is not None
    assert (refused["code"], refused["key"]) == (401, None)
    text = "".join(path.read_text() for path in (tmp_path / "log").iterdir())
    for secret in ("ann-the-visitor", "query", "numbers", header["Authorization"].rpartition("_")[2]):
        assert secret not in text


def test_an_id_has_the_same_hash_in_all_replicas_of_a_store_and_another_one_in_others(tmp_path: Path) -> None:
    def hashed(store: str) -> dict[str, list[str]]:
        log = RequestLog("toy")
        log.configure(LogSettings(tmp_path / store / "log", 1.0, tmp_path / store / "salt"))
        record = log.begin()
        assert record is not None
        log.note_ids(record, {"history": ["ann", "\ud800"]})
        log.end(record, method="POST", route="/", code=200, seconds=0.0, key=None)
        log.close()
        return record.ids

    assert hashed("one") == hashed("one")
    assert hashed("one") != hashed("two")


def test_only_the_sample_is_logged(endpoint: GuardedToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([0.24, 0.25, 0.9, 0.0])
    monkeypatch.setattr("random.random", lambda: next(draws))
    endpoint.load(request_log=tmp_path / "log", request_log_sample=0.25, salt=tmp_path / "salt")

    for _ in range(4):
        endpoint.ask()
    endpoint.service.request_log.close()

    assert len(lines(tmp_path / "log")) == 2


def test_each_replica_writes_a_private_file_of_its_own(tmp_path: Path) -> None:
    settings = LogSettings(tmp_path / "logs" / "asked.jsonl", 1.0, tmp_path / "salt")
    logs = [RequestLog("toy"), RequestLog("toy")]
    for log in logs:
        log.configure(settings)
        log.close()

    found = list((tmp_path / "logs").iterdir())
    assert len(found) == 2
    assert all(path.name.startswith("asked-toy-") for path in found)
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*found, tmp_path / "salt"]} == {0o600}
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_a_full_file_is_replaced_and_few_old_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "MAX_FILE_BYTES", 1000)
    log = RequestLog("toy")
    log.configure(LogSettings(tmp_path / "log", 1.0, tmp_path / "salt"))
    for number in range(100):
        record = log.begin()
        assert record is not None
        log.end(record, method="POST", route=f"/{number}", code=200, seconds=0.0, key=None)
    log.close()

    files = list((tmp_path / "log").iterdir())
    assert len(files) == NUM_OLD_FILES + 1
    assert max(path.stat().st_size for path in files) <= 1000
    assert "/99" in {line["route"] for line in lines(tmp_path / "log")}, "the newest lines are kept"


def test_files_of_former_replicas_are_removed_after_a_month_and_nothing_else(tmp_path: Path) -> None:
    settings = LogSettings(tmp_path, 1.0, tmp_path / "salt")
    former, other = tmp_path / f"requests-toy-{'0' * 12}.jsonl", tmp_path / "notes.jsonl"
    for path in (former, other):
        path.write_text("")
        os.utime(path, (time.time() - KEEP_S - 1,) * 2)

    log = RequestLog("toy")
    log.configure(settings)
    log.close()

    assert not former.exists()
    assert other.exists()


def test_lines_that_a_slow_disk_cannot_take_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MAX_WAITING", 0)
    dropped: list[None] = []
    log = RequestLog("toy", on_drop=lambda: dropped.append(None))
    log.configure(LogSettings(tmp_path / "log", 1.0, tmp_path / "salt"))
    record = log.begin()
    assert record is not None

    log.end(record, method="POST", route="/", code=200, seconds=0.0, key=None)

    assert len(dropped) == 1
    log.close()
