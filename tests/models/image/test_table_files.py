"""Files of tables of images: encodings, and labels that only the name of a folder has."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.kit.pictures import SHAPES, drawn, encoded, prepared, write_folder

NUM = 40
COLOURS = ["grün" if row % 4 == 0 else "rot" for row in range(NUM)]


def write_table(folder: Path, **columns: list[str] | range) -> Path:
    """A table in Latin-1 with the paths of image files; returns it."""
    write_folder(folder / "photos", num_images=NUM)
    images = [f"photos/{SHAPES[row % 2]}/{row:03d}.png" for row in range(NUM)]
    pd.DataFrame({"image": images, **columns}).to_csv(folder / "table.csv", index=False, encoding="latin-1")
    return folder / "table.csv"


def test_labels_in_another_encoding_are_read_if_it_is_given(tmp_path: Path) -> None:
    raw = write_table(tmp_path, colour=COLOURS)

    _, schema = prepared(tmp_path, raw, labels=("colour",), encoding="cp1252")

    assert schema.heads["colour"] == ["grün", "rot"]


def test_a_product_table_in_another_encoding_is_read_if_it_is_given(tmp_path: Path) -> None:
    raw = write_table(tmp_path, sku=range(NUM))
    items = pd.DataFrame({"item_id": range(NUM), "colour": COLOURS})
    items.to_csv(tmp_path / "items.csv", index=False, encoding="latin-1")

    _, schema = prepared(
        tmp_path,
        raw,
        labels=("colour",),
        columns="item_id=sku",
        items=str(tmp_path / "items.csv"),
        item_encoding="cp1252",
    )

    assert schema.heads["colour"] == ["grün", "rot"]


def test_a_label_may_come_from_the_name_of_a_parquet_files_folder(tmp_path: Path) -> None:
    for shape in SHAPES:
        folder = tmp_path / "set" / f"shape={shape}"
        folder.mkdir(parents=True)
        images = [encoded(drawn(shape, "red", seed=row)) for row in range(NUM)]
        pq.write_table(pa.table({"image": images}), folder / "part.parquet")

    _, schema = prepared(tmp_path, tmp_path / "set", labels=("shape",))

    assert schema.heads["shape"] == sorted(SHAPES)
