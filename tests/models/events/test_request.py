"""Events as a shop sends them: what is accepted, and the reason why another is not."""

from __future__ import annotations

from typing import Any

import pytest

from models.events.request import EventRefused, EventsRefused, check_event, read_events

NOW_S = 1_800_000_000.0
GOOD = {"user_id": "ann", "item_id": "shoe"}


@pytest.mark.parametrize(
    ("body", "count"), [(GOOD, 1), ([GOOD, GOOD], 2), ({"events": [GOOD] * 3}, 3), (["not an event", 5], 2)]
)
def test_a_body_is_one_event_a_list_or_an_object_with_a_list(body: Any, count: int) -> None:
    assert len(read_events(body)) == count


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "no events"),
        ({"events": {}}, "events is an object"),
        ({"events": [], "user_id": "ann"}, "'user_id' beside events"),
        ([GOOD] * 1001, "1,001 events; send at most 1,000"),
    ],
)
def test_another_body_is_refused(body: Any, message: str) -> None:
    with pytest.raises(EventsRefused, match=message):
        read_events(body)


@pytest.mark.parametrize(
    ("timestamp", "time_s"),
    [
        ("2026-05-01T10:00:00Z", 1_777_629_600.0),
        ("2026-05-01T12:00:00.25+02:00", 1_777_629_600.25),
        (1_777_629_600, 1_777_629_600.0),
        (1_777_629_600.5, 1_777_629_600.5),
        (NOW_S + 599, NOW_S + 599),
        (None, NOW_S),
    ],
)
def test_a_time_is_rfc_3339_or_epoch_seconds_or_now(timestamp: Any, time_s: float) -> None:
    assert check_event({**GOOD, "timestamp": timestamp}, now_s=NOW_S).timestamp_s == time_s


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timestamp": "2026-05-01T10:00:00"}, "timestamp: '2026-05-01T10:00:00' has no zone"),
        ({"timestamp": "yesterday"}, "timestamp: 'yesterday' is not RFC 3339"),
        ({"timestamp": "2026-02-30T10:00:00Z"}, "is no time that exists"),
        ({"timestamp": NOW_S + 7200}, "7,200 s after the server's time; at most 600 .* check the clock and the zone"),
        ({"timestamp": NOW_S * 1000}, "looks like milliseconds"),
        ({"timestamp": 5}, "before 1990"),
        ({"timestamp": float("nan")}, "before 1990 or no time"),
        ({"timestamp": 10**400}, "looks like milliseconds|no time"),
        ({"timestamp": True}, "timestamp: a boolean is no time"),
        ({"timestamp": {}}, "timestamp: an object is no time"),
        ({"user_id": None}, "user_id: is missing, and so is session_id"),
        ({"user_id": "session:5"}, "begins with 'session:'"),
        ({"user_id": "null"}, "stands for a missing value"),
        ({"user_id": "a\x00b"}, "control characters"),
        ({"user_id": '{"id": 5}'}, "an object or a list as text"),
        ({"user_id": "\ud800"}, "user_id: .*unicode"),
        ({"user_id": 2.0**60}, "not exact as a number"),
        ({"user_id": True}, "user_id: "),
        ({"user_id": None, "session_id": "s" * 250}, "session_id: has more than 248 characters"),
        ({"item_id": "x" * 300}, "item_id: .*256"),
        ({"item_id": ""}, "item_id: "),
        ({"event_type": "vi\new"}, "event_type: has control characters"),
        ({"event_type": 5}, "event_type: "),
        ({"recommendation_id": "\ud800"}, "recommendation_id: .*unicode"),
        ({"price": -1}, "price: "),
        ({"price": "5"}, "price: "),
        ({"price": float("inf")}, "price: "),
        ({"quantity": 0}, "quantity: "),
        ({"userid": "ann"}, "'userid': is no field of an event; there are event_id, user_id"),
    ],
)
def test_a_bad_event_is_refused_with_its_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EventRefused, match=message) as error:
        check_event({**GOOD, **fields}, now_s=NOW_S)
    str(error.value).encode()  # it is sent back


@pytest.mark.parametrize("sent", [5, None, "shoe", [], True])
def test_what_is_no_object_is_no_event(sent: Any) -> None:
    with pytest.raises(EventRefused, match="an event is an object, not"):
        check_event(sent, now_s=NOW_S)


def test_ids_and_types_have_the_form_that_prepare_gives_them() -> None:
    found = check_event({"user_id": 17850.0, "item_id": " e\u0301 ", "event_type": " View "}, now_s=NOW_S)

    assert (found.user_id, found.item_id, found.event_type) == ("17850", "\u00e9", "view")
    assert check_event({**GOOD, "event_type": "None"}, now_s=NOW_S).event_type is None


def test_an_event_without_an_id_gets_one_by_its_content_if_it_has_a_time() -> None:
    def made(**fields: Any) -> str:
        return check_event({**GOOD, **fields}, now_s=NOW_S).event_id

    assert made(timestamp=NOW_S) == made(timestamp=NOW_S)
    assert made(timestamp=NOW_S) != made(timestamp=NOW_S, price=5)
    assert made() != made(), "without a time two events may be two"
    assert made(event_id="e1") == "e1"
