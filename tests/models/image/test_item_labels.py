"""Labels of images from an item table: ids match in any form, and a join says how much it matched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from models.errors import DataRejected
from models.image.schema import Schema
from models.prepared import Prepared
from tests.kit.pictures import SHAPES, all_ids, prepared
from tests.models.image.test_image_tables import NUM, SHAPE_OF_ROW, write_catalogue, write_table


def joined(
    tmp_path: Path, raw: Path, items: pd.DataFrame, *, written_as: str = "utf-8", **fields: Any
) -> tuple[Prepared, Schema]:
    """Prepare the column type of an item table, or other labels, for images with their ids in the column sku."""
    table = tmp_path / "i.csv"
    items.to_csv(table, index=False, encoding=written_as)
    given: dict[str, Any] = {"labels": ("type",), "columns": "item_id=sku", "items": str(table)}
    return prepared(tmp_path, raw, **{**given, **fields})


def test_ids_of_images_and_product_table_match_in_any_form(tmp_path: Path) -> None:
    raw = write_table(tmp_path, sku=[10000 + row for row in range(NUM)])
    forms = ("{}", "{}.0", " {}")
    ids = [forms[row % 3].format(10000 + row) for row in range(NUM)]
    items = pd.DataFrame({"id": ids, "type": SHAPE_OF_ROW})

    data, _ = joined(tmp_path, raw, items, item_columns="item_id=id")

    card = data.card()
    assert card["joins"]["item table"] == {
        **{"ids": NUM, "matched": NUM, "table_ids": NUM, "table_matched": NUM, "hint": ""}
    }
    assert card["items_table"] == {
        **{"rows": NUM, "matched_images": NUM, "unmatched_images": 0, "missing_label_words": {}}
    }


def test_a_join_says_how_many_images_matched_and_what_leading_zeros_hide(tmp_path: Path) -> None:
    raw = write_table(tmp_path, sku=[f"{row:05d}" for row in range(NUM)])
    ids = [f"{row:05d}" if row < 30 else str(row) for row in range(NUM)]

    data, _ = joined(tmp_path, raw, pd.DataFrame({"item_id": ids, "type": SHAPE_OF_ROW}))

    card = data.card()
    assert (card["items_table"]["matched_images"], card["items_table"]["unmatched_images"]) == (30, 10)
    note = next(note for note in card["notes"] if "30 of 40 images" in note)
    assert "'00030'" in note
    assert "10 more ids would match without leading zeros" in card["joins"]["item table"]["hint"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            "item_id=sku",
            r"no id of the images \(e\.g\. 'a-0'\) is among the 40 of the item table .*i\.csv \(e\.g\. 'b-0'\): "
            "40 more ids would match without the prefix 'a-'",
        ),
        ("", "the images have no item ids to look up"),
    ],
)
def test_a_join_that_matches_nothing_is_refused(tmp_path: Path, columns: str, message: str) -> None:
    raw = write_table(tmp_path, sku=[f"a-{row}" for row in range(NUM)])
    items = pd.DataFrame({"item_id": [f"b-{row}" for row in range(NUM)], "type": SHAPE_OF_ROW})

    with pytest.raises(DataRejected, match=message):
        joined(tmp_path, raw, items, columns=columns)


def test_a_product_table_that_is_not_utf8_is_refused_with_file_and_value(tmp_path: Path) -> None:
    raw = write_table(tmp_path, sku=range(NUM))
    items = pd.DataFrame({"item_id": range(NUM), "colour": ["grün" if row % 4 == 0 else "rot" for row in range(NUM)]})
    fields: dict[str, Any] = {"labels": ("colour",), "written_as": "latin-1"}

    with pytest.raises(DataRejected, match=r"10 item_table_not_utf8, e\.g\. gr\\xfcn in column 'colour' of .*i\.csv"):
        joined(tmp_path, raw, items, **fields)
    _, schema = joined(tmp_path, raw, items, item_encoding="cp1252", **fields)
    assert schema.heads["colour"] == ["grün", "rot"]


def test_rows_of_a_product_table_that_cannot_be_read_are_quarantined_and_counted(tmp_path: Path) -> None:
    raw = write_table(tmp_path, sku=range(NUM))
    table = tmp_path / "i.csv"
    rows = [f"{row},{SHAPE_OF_ROW[row]}" for row in range(NUM)] + [f"gr\xfcn,{SHAPES[0]}", f",{SHAPES[0]}", "a,b,c"]
    table.write_text("\n".join(["item_id,type", *rows]), encoding="latin-1")
    fields: dict[str, Any] = {"labels": ("type",), "columns": "item_id=sku", "items": str(table)}

    data, _ = prepared(tmp_path, raw, max_bad_fraction=0.05, **fields)

    bad = {f"item_table_{reason}": 1 for reason in ("missing_item_id", "not_utf8", "wrong_number_of_fields")}
    quarantine = pd.read_parquet(data.path / "quarantine" / "items.parquet")
    card = data.card()
    assert card["bad"] == bad == quarantine["reason"].value_counts().to_dict()
    assert card["items_table"]["rows"] == NUM + 3 and card["items_table"]["matched_images"] == NUM
    for note in (r"item_table_not_utf8, e.g. gr\xfcn in column 'item_id'", "wrong_number_of_fields, e.g. a,b,c in "):
        assert any(note in said for said in card["notes"])
    with pytest.raises(DataRejected, match=r"2 of 43 rows .*--item-encoding.*--max-bad-fraction 0\.05"):
        prepared(tmp_path, raw, max_bad_fraction=0.01, **fields)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([float(2**60)] * NUM, r"40 item_table_inexact_number, e\.g\. 1\.15.* in column 'item_id' .*write it as text"),
        ([None] * NUM, "column 'item_id' of .*i.parquet is empty"),
    ],
)
def test_a_product_table_without_a_readable_id_is_refused(
    tmp_path: Path, ids: list[float | None], message: str
) -> None:
    raw = write_table(tmp_path, sku=range(NUM))
    items = tmp_path / "i.parquet"
    pd.DataFrame({"item_id": ids, "type": SHAPE_OF_ROW}).to_parquet(items)

    with pytest.raises(DataRejected, match=message):
        prepared(tmp_path, raw, labels=("type",), columns="item_id=sku", items=str(items))


def test_image_files_take_all_labels_from_the_product_table_by_their_names(tmp_path: Path) -> None:
    raw = write_catalogue(tmp_path)
    table = (raw / "styles.csv").rename(tmp_path / "styles.csv")

    data, schema = prepared(tmp_path, raw, labels=("type",), items=str(table), item_columns="item_id=id")

    assert schema.heads == {"type": list(SHAPES)}
    assert set(all_ids(data)["item_id"]) == {str(1000 + row) for row in range(NUM)}
    assert data.card()["items_table"]["matched_images"] == NUM
