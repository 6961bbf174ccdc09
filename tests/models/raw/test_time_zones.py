"""Time zones of sales: an order belongs to the local day, whatever the column of its time."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.models.raw.test_panel import HEAD, Settings, built, panel

MOMENTS = ("2024-06-30T22:30:00Z", "2024-06-30T23:30:00Z", "2024-06-30T23:30:00", "2024-07-01")
"""In London, where summer time is an hour ahead: half past eleven, half past midnight, and two local times."""


def test_an_order_belongs_to_the_day_of_its_time_zone(tmp_path: Path) -> None:
    lines = [HEAD, *(f"a,{moment},{10**place}" for place, moment in enumerate(MOMENTS))]

    utc, london = panel(tmp_path, lines, period="day"), panel(tmp_path, lines, period="day", time_zone="Europe/London")

    assert utc.units.tolist() == [[111, 1000]] and utc.date(0) == "2024-06-30"
    assert london.units.tolist() == [[101, 1010]] and london.date(0) == "2024-06-30"
    assert london.card["time_zone"] == london.time_zone == "Europe/London" and utc.card["time_zone"] == "UTC"
    assert utc.digest() != london.digest()


@pytest.mark.parametrize(
    ("column", "day"),
    [
        (pa.array([datetime(2024, 1, 1, 23, 30)], pa.timestamp("us", tz="UTC")), "2024-01-02"),
        (pa.array([datetime(2024, 1, 1, 23, 30)], pa.timestamp("us")), "2024-01-01"),
        (pa.array([date(2024, 1, 1)]), "2024-01-01"),
        (pa.array([1_704_151_800]), "2024-01-02"),
        (pa.array(["1704151800"]), "2024-01-02"),
        (pa.array(["2024-01-01 18:30:00-05:00"]), "2024-01-02"),
        (pa.array(["2024-01-01 23:30:00"]), "2024-01-01"),
    ],
)
def test_moments_of_any_type_are_converted_and_local_times_are_not(tmp_path: Path, column: pa.Array, day: str) -> None:
    path = tmp_path / "sales.parquet"
    pq.write_table(pa.table({"product_id": ["a"], "timestamp": column, "units": [1]}), path)

    found = built(Settings(raw=str(path), period="day", time_zone="Asia/Tokyo"), tmp_path)

    assert found.date(0) == day


def test_formats_with_an_offset_are_moments_and_others_are_local(tmp_path: Path) -> None:
    with_offset, local = (
        panel(tmp_path, [HEAD, f"a,{text},1"], period="day", time_zone="Asia/Tokyo", timestamp_format=form).date(0)
        for text, form in (("01/02/2024 23:30 +0000", "%d/%m/%Y %H:%M %z"), ("01/02/2024 23:30", "%d/%m/%Y %H:%M"))
    )

    assert (with_offset, local) == ("2024-02-02", "2024-02-01")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_zone": "Europe/Londn"}, "'Europe/Londn' is not a time zone, did you mean Europe/London"),
        ({"time_zone": "Moon"}, "'Moon' is not a time zone"),
        ({"time_zone": "Europe/London", "period": "number"}, "--period number has none; leave one of them out"),
    ],
)
def test_an_unknown_time_zone_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        panel(tmp_path, [HEAD, "a,2024-01-01,1"], **settings)


def test_a_machine_without_time_zone_data_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zoneinfo.available_timezones", set)

    with pytest.raises(ValueError, match="no time zone data; install it with `pip install tzdata`"):
        panel(tmp_path, [HEAD, "a,2024-01-01,1"], time_zone="Europe/London")
    assert panel(tmp_path, [HEAD, "a,2024-01-01,1"]).units.tolist() == [[1]]
