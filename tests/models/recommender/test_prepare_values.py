"""Values of other people's logs in prepare: ids, times, numbers, and the join with the item table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Store
from jobs.prepare_summary import summary_of
from models.errors import DataRejected
from models.recommender.prepare.settings import PrepareConfig
from tests.kit.logs import histories, make_log, prepare, prepared, write_csv


def details_of(store: Store, raw: Path, **settings: Any) -> dict[str, Any]:
    return dict(prepare(store, PrepareConfig(raw=str(raw), **settings)).details)


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("{year}-{month}-{day} {time} UTC", {}),
        ("{year}-{month}-{day} {time}+00", {}),
        ("{day}/{month}/{year} {time}", {"timestamp_format": "day-first"}),
        ("{month}.{day}.{year} {time}", {"timestamp_format": "%m.%d.%Y %H:%M:%S"}),
    ],
)
def test_a_log_is_the_same_whatever_the_form_of_its_times(
    tmp_path: Path, store: Store, form: str, settings: dict[str, Any]
) -> None:
    rows = make_log()
    expected = histories(prepared(store, write_csv(tmp_path / "plain.csv", rows)))
    for row in rows:
        date, time = row["timestamp"].split(" ")
        year, month, day = date.split("-")
        row["timestamp"] = form.format(year=year, month=month, day=day, time=time)
    assert histories(prepared(store, write_csv(tmp_path / "log.csv", rows), **settings)) == expected


def test_a_log_with_the_day_first_is_refused_with_the_flag_that_reads_it(tmp_path: Path, store: Store) -> None:
    rows = [{**row, "timestamp": f"{place % 28 + 1}/02/2024 10:00"} for place, row in enumerate(make_log())]
    with pytest.raises(DataRejected, match="day/month/year: use --timestamp-format '%d/%m/%Y %H:%M'"):
        prepared(store, write_csv(tmp_path / "log.csv", rows))


@pytest.mark.parametrize("price", ['"1.234,56"', "1 234.56", "£3.50", '"1,234.56"'])
def test_a_price_that_is_not_a_plain_number_is_refused_with_how_to_write_it(
    tmp_path: Path, store: Store, price: str
) -> None:
    rows = [{**row, "price": price} for row in make_log()]
    with pytest.raises(DataRejected, match=r"bad_price, e.g. .*(write 1234.56: a point|without a currency)"):
        prepared(store, write_csv(tmp_path / "log.csv", rows))


def test_objects_as_ids_are_refused_as_are_those_of_mixed_json_lines(tmp_path: Path, store: Store) -> None:
    rows = [{**row, "user_id": {"id": row["user_id"]}} for row in make_log()]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataRejected, match="column 'user_id', which is user_id, holds objects with the fields id"):
        prepared(store, tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("\n".join([json.dumps(make_log()[0]), *lines, ""]))
    with pytest.raises(DataRejected, match="600 nested_user_id"):
        prepared(store, tmp_path / "log.jsonl")


def test_a_log_in_which_every_user_has_one_event_is_refused(tmp_path: Path, store: Store) -> None:
    rows = [{**row, "user_id": f"order-{place}"} for place, row in enumerate(make_log())]
    with pytest.raises(DataRejected, match="every user has a single event"):
        prepared(store, write_csv(tmp_path / "log.csv", rows))


def test_ids_join_whatever_their_type_and_the_card_says_how_many(tmp_path: Path, store: Store) -> None:
    rows = [{**row, "item_id": f" {int(row['item_id'][1:]) + 100}.0"} for row in make_log()]
    raw = write_csv(tmp_path / "log.csv", rows)
    table = pa.table(
        {
            "item_id": pa.array([100, 101, 102, 999]),
            "dims": [{"w": 1}] * 4,
            "offers": [[{"p": 1}]] * 4,
            "title": list("abcd"),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    card = details_of(store, raw, items=str(tmp_path / "items.parquet"), exclude_items=("102.0",))
    assert card["joins"]["item table"] | {"hint": ""} == {
        **{"ids": 11, "matched": 2, "table_ids": 3, "table_matched": 2, "hint": ""}
    }
    assert card["item_columns_left_out"] == ["offers"]
    summary = summary_of(card, tmp_path, status="ok", seconds=1.0)
    assert "item table: 2 of 11 ids have a row, 2 of its 3 ids are in the data" in summary
    assert "columns left out, since they hold objects: offers" in summary


def test_an_item_table_of_other_ids_is_refused_with_an_example_of_each_side(tmp_path: Path, store: Store) -> None:
    rows = [{**row, "item_id": f"00{row['item_id'][1:]}"} for row in make_log()]
    raw = write_csv(tmp_path / "log.csv", rows)
    items = write_csv(tmp_path / "items.csv", [{"item_id": place, "title": "t"} for place in range(12)])
    with pytest.raises(DataRejected, match=r"e\.g\. '00\d+'.*e\.g\. '\d+'.*12 more ids would match without leading"):
        prepared(store, raw, items=str(items))


def test_an_item_table_with_bad_columns_or_no_good_row_is_refused(tmp_path: Path, store: Store) -> None:
    raw, items = write_csv(tmp_path / "log.csv", make_log()), tmp_path / "items.csv"
    items.write_text("item_id,title,title\ni1,a,b\n")
    with pytest.raises(DataRejected, match=r"has 2 columns 'title'.*Rename one"):
        prepared(store, raw, items=str(items))
    items.write_text("item_id,title\nNA,a\n,b\n")
    with pytest.raises(DataRejected, match=r"no row of the item table .* has an item id"):
        prepared(store, raw, items=str(items))
    pq.write_table(pa.table({"item_id": ["i1"], "dims": [{"w": 1}]}), tmp_path / "items.parquet")
    with pytest.raises(DataRejected, match=r"column 'dims', which is size, holds objects.*--item-columns size=dims.w"):
        prepared(store, raw, items=str(tmp_path / "items.parquet"), item_columns="size=dims")


def test_a_list_of_the_item_table_keeps_its_values_next_to_missing_ones(tmp_path: Path, store: Store) -> None:
    tags = [["a", None, "b"], [], None, [None], ["c"]]
    names = [f"i{place}" for place in range(5)]
    pq.write_table(pa.table({"item_id": names, "tags": tags}), tmp_path / "items.parquet")
    data = prepared(store, write_csv(tmp_path / "log.csv", make_log()), items=str(tmp_path / "items.parquet"))
    found = pq.read_table(data.path / "items.parquet").to_pylist()
    assert {row["item_id"]: row["tags"] for row in found if row["tags"] is not None} == {"i0": "a|b", "i4": "c"}
