"""Times of raw tables: the forms that are read, formats that are given, and what the message says of others."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from models.raw.rejections import Rejections
from models.raw.time_formats import format_remedy, unit_remedy
from models.raw.times import check_format, read_times

NOW_S = 1_800_000_000


def read(values: list[str | None], format: str = "") -> list[str | None]:
    """The times in UTC, None for bad ones."""
    found = read_times(pa.array(values, pa.string()), Rejections(len(values)), now_s=NOW_S, format=format).to_pylist()
    times = [None if us is None else datetime.fromtimestamp(us / 1e6, UTC) for us in found]
    return [None if time is None else time.isoformat(sep=" ").removesuffix("+00:00") for time in times]


FORMS = {
    "2024-05-01": "2024-05-01 00:00:00",
    "2024-05-01 10:00": "2024-05-01 10:00:00",
    "2024-05-01T10:00:00": "2024-05-01 10:00:00",
    "2024-05-01t10:00:00z": "2024-05-01 10:00:00",
    "2024-05-01 10:00:00 UTC": "2024-05-01 10:00:00",
    "2024-05-01 10:00:00.5 UTC": "2024-05-01 10:00:00.500000",
    "2024-05-01 10:00:00 GMT": "2024-05-01 10:00:00",
    "2024-05-01 10:00:00 Z": "2024-05-01 10:00:00",
    "2024-05-01 10:00:00.123+02": "2024-05-01 08:00:00.123000",
    "2024-05-01T10:00:00-0530": "2024-05-01 15:30:00",
    "2024-05-01T10:00:00 -05:30": "2024-05-01 15:30:00",
    "2024-05-01 10:00:00,250": "2024-05-01 10:00:00.250000",
    "2024-05-01 10:00:00.123456789": "2024-05-01 10:00:00.123456",
    "2024/05/01 10:00": "2024-05-01 10:00:00",
    "2024.05.01": "2024-05-01 00:00:00",
    "1714557600": "2024-05-01 10:00:00",
    "1714557600000": "2024-05-01 10:00:00",
    "2024-02-30 10:00:00": None,
    "2024-05-01 10": None,
    "2024-05-01 10:00:00 CET": None,
    "01/05/2024": None,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_time_is_read_alone(form: str) -> None:
    assert read([form]) == [FORMS[form]]


def test_times_of_all_forms_are_read_from_one_column_in_any_order() -> None:
    assert read([*FORMS, None]) == [*FORMS.values(), None]
    assert read([None, *reversed(FORMS)]) == [None, *reversed(FORMS.values())]


@pytest.mark.parametrize(
    ("format", "value", "expected"),
    [
        ("day-first", "31/12/2024 14:00", "2024-12-31 14:00:00"),
        ("day-first", "1.2.2024", "2024-02-01 00:00:00"),
        ("day-first", "01-02-2024 9:05:03", "2024-02-01 09:05:03"),
        ("day-first", "01/02/2024, 9:05 PM", "2024-02-01 21:05:00"),
        ("day-first", "01/02/2024 12:05 a.m.", "2024-02-01 00:05:00"),
        ("day-first", "31/12/2024 14:00:00.5+02", "2024-12-31 12:00:00.500000"),
        ("day-first", "2024-05-01T10:00:00Z", "2024-05-01 10:00:00"),
        ("day-first", "12/31/2024 14:00", None),
        ("month-first", "12/31/2024 14:00", "2024-12-31 14:00:00"),
        ("month-first", "1/2/2024 12:00 PM", "2024-01-02 12:00:00"),
        ("%d/%m/%Y %H:%M", "01/03/2024 10:00", "2024-03-01 10:00:00"),
        ("%d/%m/%Y %H:%M", "30/02/2024 10:00", None),
        ("%d/%m/%Y %H:%M", "2024-03-01 10:00", None),
        ("%Y%m%d", "20240501", "2024-05-01 00:00:00"),
        ("%d/%m/%y", "31/12/24", "2024-12-31 00:00:00"),
        ("%d/%b/%Y:%H:%M:%S %z", "01/May/2024:12:00:00 +0200", "2024-05-01 10:00:00"),
        ("%d.%m.%Y %H:%M:%S.%f", "01.05.2024 12:00:00.25", "2024-05-01 12:00:00.250000"),
    ],
)
def test_a_format_that_is_given_reads_times(format: str, value: str, expected: str | None) -> None:
    assert read([value, None], format) == [expected, None]


def test_whole_numbers_are_dates_where_the_format_says_so() -> None:
    column = pa.array([20240501, None])
    found = read_times(column, Rejections(2), now_s=NOW_S, format="%Y%m%d")
    assert found.to_pylist() == [int(datetime(2024, 5, 1, tzinfo=UTC).timestamp()) * 1_000_000, None]


@pytest.mark.parametrize("format", ["dd/mm/yyyy", "%d/%m", "%H:%M", "%Y-%m-%d %Q", "%c"])
def test_a_format_without_a_date_is_refused(format: str) -> None:
    with pytest.raises(ValueError, match="--timestamp-format"):
        check_format(format)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (["01/02/2024 14:00", "31/01/2024 09:30"], "day/month/year: use --timestamp-format '%d/%m/%Y %H:%M'"),
        (["01/02/2024 14:00", "01/31/2024 09:30"], "month/day/year: use --timestamp-format '%m/%d/%Y %H:%M'"),
        (["31.12.2024 14:00:05"], "use --timestamp-format '%d.%m.%Y %H:%M:%S'"),
        (["31.12.2024 14:00", "30.12.2024 14:00", "30.12.2024"], "use --timestamp-format day-first"),
        (["12/31/2024 1:05:00 PM"], "use --timestamp-format '%m/%d/%Y %I:%M:%S %p'"),
        (["01-May-2024 10:00"], "use --timestamp-format '%d-%b-%Y %H:%M'"),
        (["Wed, 01 May 2024 12:00:00 GMT"], "use --timestamp-format '%a, %d %b %Y %H:%M:%S GMT'"),
        (["2024/5/1 9:05"], "use --timestamp-format '%Y/%m/%d %H:%M'"),
        (["yesterday"], "write RFC 3339"),
    ],
)
def test_the_message_names_the_format_that_the_values_have(samples: list[str], expected: str) -> None:
    assert expected in format_remedy(samples)


def test_a_log_that_does_not_tell_days_from_months_is_not_guessed() -> None:
    message = format_remedy(["01/02/2024", "03/04/2024"])
    assert "'%d/%m/%Y' if they are day/month/year or '%m/%d/%Y' if they are month/day/year" in message


def test_a_date_of_excel_is_recognised() -> None:
    assert "Excel" in unit_remedy("45413.5")
