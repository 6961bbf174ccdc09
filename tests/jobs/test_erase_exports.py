"""Erasure and events together: the verb of exports records them, and prepare leaves erased users out of them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from jobs.cli.context import Context, Failure
from models.erasure.tombstones import Tombstones
from models.events.event import Event
from models.events.store import open_events
from models.prepared import events_until
from tests.kit.erasable import USER, bytes_with, erase
from tests.kit.logs import histories, prepared, write_csv

MARCH = 1_709_251_200


def events_of(first: int, until: int) -> list[Event]:
    """Events of five users, one of whom is to be erased, and whose anonymous events of a session are too."""
    users = (USER, "u1", "u2", "u3", "u4")
    sent = [Event(f"e{n}", users[n % 5], None, f"i{n % 7}", None, MARCH + n) for n in range(first, until)]
    login = Event(f"login{first}", USER, f"s{first}", "i1", None, MARCH + until)
    return [*sent, login, Event(f"anonymous{first}", None, f"s{first}", "i2", None, MARCH + until + 1)]


def export(context: Context, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["events", "export", "--to", str(folder), "--store", str(context.store.root), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.fixture
def filled(context: Context) -> Context:
    with closing(open_events(str(context.store.events))) as events:
        events.append(events_of(0, 60))
    return context


def test_an_erasure_reaches_what_the_verb_has_exported_and_later_exports_go_on(
    filled: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(filled, tmp_path / "exports", capsys)
    before = prepared(filled.store, tmp_path / "exports")
    until = events_until(before)
    assert USER in histories(before)

    erase(filled, USER)

    assert bytes_with(tmp_path / "exports", USER) == bytes_with(filled.store.root, USER) == []
    now = filled.store.current_data("recommender")
    assert events_until(now) == until != {}
    with closing(open_events(str(filled.store.events))) as events:
        events.append([Event("late", "u1", None, "i1", None, MARCH + 500)])
    assert export(filled, tmp_path / "exports", capsys)["events"] == 1
    after = prepared(filled.store, tmp_path / "exports")
    assert set(histories(after)) == {"u1", "u2", "u3", "u4"}
    assert list(events_until(after).values()) == [63]


def test_prepare_leaves_erased_users_out_of_exports_next_to_a_log_with_other_columns(
    filled: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"visitor": f"u{n % 4 + 1}", "sku": f"i{n % 7}", "at": MARCH - 100 + n} for n in range(60)]
    rows += [{"visitor": USER, "sku": "i3", "at": MARCH - 200}]
    export(filled, tmp_path / "log", capsys)
    write_csv(tmp_path / "log" / "log.csv", rows)
    Tombstones(filled.store.tombstones).add([USER])  # as DELETE /v1/users does, which leaves exports for later

    data = prepared(filled.store, tmp_path / "log", columns="user_id=visitor,item_id=sku,timestamp=at")

    assert set(histories(data)) == {"u1", "u2", "u3", "u4"}
    assert data.card()["bad"]["erased_user"] == 1 + 12 + 2
    assert list(events_until(data).values()) == [62]


def test_a_session_that_was_erased_over_http_is_found_and_deleted_without_its_id(filled: Context) -> None:
    with closing(open_events(str(filled.store.events))) as events:
        events.append([Event("a", None, "lonely", "i1", None, MARCH), Event("b", None, "other", "i1", None, MARCH)])
    Tombstones(filled.store.tombstones).add(["session:lonely"])
    with pytest.raises(Failure, match=r"events\.sqlite"):
        erase(filled, "session:lonely", verify=True)

    erase(filled, pending=True)

    with closing(open_events(str(filled.store.events))) as events:
        assert events.of(user_id=None, session_id="lonely", after_seq=0) == []
        assert len(events.of(user_id=None, session_id="other", after_seq=0)) == 1
