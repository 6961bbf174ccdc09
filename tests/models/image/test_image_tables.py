"""Tables of images: how cells name images, labels that are missing or unreadable, splits, and joins."""

from __future__ import annotations

import base64
import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import DataRejected
from tests.kit.pictures import SHAPES, all_ids, drawn, encoded, prepared, write_folder

NUM = 40
SHAPE_OF_ROW = [SHAPES[row % 2] for row in range(NUM)]


def write_table(tmp_path: Path, images: Sequence[str] | None = None, **columns: Sequence[Any]) -> Path:
    """shop/products.csv with the paths of images in shop/photos, or other cells, and columns; returns the table."""
    write_folder(tmp_path / "shop" / "photos", num_images=NUM)
    cells = images or [f"photos/{SHAPES[row % 2]}/{row:03d}.png" for row in range(NUM)]
    path = tmp_path / "shop" / "products.csv"
    pd.DataFrame({"image": cells, "shape": SHAPE_OF_ROW, **columns}).to_csv(path, index=False)
    return path


# Cells


@pytest.mark.parametrize("cell", ["photos\\{shape}\\{row:03d}.png", ".\\photos\\{shape}\\{row:03d}.png"])
def test_paths_of_windows_are_read(tmp_path: Path, cell: str) -> None:
    raw = write_table(tmp_path, [cell.format(shape=SHAPES[row % 2], row=row) for row in range(NUM)])

    data, _ = prepared(tmp_path, raw, labels=("shape",))

    assert data.card()["kept"] == NUM


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (
            "https://cdn.example.com/p/{row}.jpg",
            r"40 url, e\.g\. https://cdn\.example\.com/p/0\.jpg \(row 1 of products",
        ),
        ("s3://shop/{row}.jpg", r"40 url, e\.g\. s3://shop/0\.jpg"),
        ("pics\\{row}.jpg", r"40 missing_file, e\.g\. pics\\0\.jpg \(row 1 .*no such file"),
        ("C:\\pics\\{row}.jpg", r"40 missing_file, e\.g\. C:\\pics\\0\.jpg"),
        ("bad\x00name-{row}.png", r"40 missing_file, e\.g\. bad\\x00name-0\.png"),
        ("photos", r"40 missing_file, e\.g\. photos "),
        ("undefined", r"40 missing_picture, e\.g\. row 1 of products\.csv \(column 'image' is empty"),
        (
            base64.b64encode(encoded(drawn("bar", "red"))).decode(),
            r"40 base64, e\.g\. iVBORw0KGgo\S+ \(row 1 .*not read",
        ),
        ("data:image/jpeg;base64," + "/9j/4AAQ" * 10, r"40 base64, e\.g\. data:image/jpeg"),
    ],
)
def test_a_cell_that_names_no_image_is_shown(tmp_path: Path, cell: str, reason: str) -> None:
    raw = write_table(tmp_path, [cell.format(row=row) for row in range(NUM)])

    with pytest.raises(DataRejected, match=reason):
        prepared(tmp_path, raw, labels=("shape",))


def test_a_damaged_table_is_refused_with_its_name(tmp_path: Path) -> None:
    raw = write_table(tmp_path, number=[str(row * 7919) for row in range(NUM)])
    packed = raw.with_name("products.csv.gz")
    packed.write_bytes(gzip.compress(raw.read_bytes())[:-40])

    with pytest.raises(DataRejected, match=r"cannot read .*products\.csv\.gz: .*damaged or truncated"):
        prepared(tmp_path, packed, labels=("shape",))


def test_an_archive_that_is_named_like_an_image_is_one_bad_row(tmp_path: Path) -> None:
    raw = write_table(tmp_path)
    with zipfile.ZipFile(tmp_path / "shop" / "photos" / SHAPES[0] / "000.png", "w") as archive:
        archive.writestr("one.png", b"")
        archive.writestr("two.png", b"")

    data, _ = prepared(tmp_path, raw, labels=("shape",), max_bad_fraction=0.1)

    assert data.card()["bad"] == {"not_a_picture": 1}


def test_fields_of_nested_columns_of_parquet_are_labels(tmp_path: Path) -> None:
    table = pd.read_csv(write_table(tmp_path))
    rows = [{"file": {"image": row.image, "note": "x"}, "what": {"shape": row.shape}} for row in table.itertuples()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shop" / "products.parquet")

    data, schema = prepared(
        tmp_path, tmp_path / "shop" / "products.parquet", labels=("shape=what.shape",), columns="image=file.image"
    )

    assert (data.card()["kept"], schema.heads) == (NUM, {"shape": sorted(SHAPES)[:2]})


def test_large_base64_cells_are_refused_as_base64_and_not_as_a_quote(tmp_path: Path) -> None:
    cell = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300).decode()
    raw = write_table(tmp_path, [cell] * NUM)

    with pytest.raises(DataRejected, match=r"products\.csv holds images as base64 text \(iVBORw0KGgo"):
        prepared(tmp_path, raw, labels=("shape",))


def test_the_quarantine_holds_the_value_and_the_row(tmp_path: Path) -> None:
    cells = [f"photos/{SHAPES[row % 2]}/{row:03d}.png" for row in range(NUM)]
    raw = write_table(tmp_path, [*cells[:-1], "gone\\last.png"])

    data, _ = prepared(tmp_path, raw, labels=("shape",), max_bad_fraction=0.1)

    quarantine = pd.concat([pd.read_parquet(path) for path in (data.path / "quarantine").glob("*.parquet")])
    assert quarantine["reason"].tolist() == ["missing_file"]
    assert '"value":"gone\\\\last.png"' in quarantine["row"].iloc[0] and '"row":39' in quarantine["row"].iloc[0]
    assert any("missing_file, e.g. gone\\last.png" in note for note in data.card()["notes"])


def test_a_hugging_face_image_may_be_a_path(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", num_images=NUM)
    images = [{"bytes": None, "path": f"photos/{SHAPES[row % 2]}/{row:03d}.png"} for row in range(NUM)]
    shapes = SHAPE_OF_ROW
    pq.write_table(pa.table({"image": images, "shape": shapes}), tmp_path / "t.parquet")

    data, _ = prepared(tmp_path, tmp_path / "t.parquet", labels=("shape",))

    assert data.card()["kept"] == NUM


# Labels


@pytest.mark.parametrize("word", ["None", "NA", "n/a", "<NA>"])
def test_words_for_a_missing_label_are_counted_and_said(tmp_path: Path, word: str) -> None:
    pattern = [word if row % 4 == 0 else ("dots", "stripes")[row % 2] for row in range(NUM)]
    raw = write_table(tmp_path, pattern=pattern)

    data, schema = prepared(tmp_path, raw, labels=("shape", "pattern"))

    card = data.card()
    assert schema.heads["pattern"] == ["dots", "stripes"]
    assert card["missing_labels"]["pattern"] == NUM // 4
    assert card["missing_label_words"] == {"pattern": {word: NUM // 4}}
    assert any(f"{NUM // 4} images have the label {word!r} of 'pattern'" in note for note in card["notes"])


def test_an_empty_label_is_missing_without_a_word(tmp_path: Path) -> None:
    raw = write_table(tmp_path, pattern=["" if row % 4 == 0 else ("dots", "stripes")[row % 2] for row in range(NUM)])

    data, _ = prepared(tmp_path, raw, labels=("shape", "pattern"))

    assert data.card()["missing_labels"]["pattern"] == NUM // 4
    assert data.card()["missing_label_words"] == {}


def test_a_title_that_is_not_utf8_far_from_its_beginning_is_named_so(tmp_path: Path) -> None:
    raw = write_table(tmp_path, title=["soft " * 20 + ("grün" if row % 4 == 0 else "rot") for row in range(NUM)])
    raw.write_bytes(raw.read_text(encoding="utf-8").encode("latin-1"))

    with pytest.raises(
        DataRejected, match=r"10 not_utf8, e\.g\. soft soft .*\.\.\. \(row 1 .*'title'.*--encoding.*cp1252"
    ):
        prepared(tmp_path, raw, labels=("shape",))


def test_a_label_that_is_not_utf8_is_bad_and_shown(tmp_path: Path) -> None:
    raw = write_table(tmp_path, colour=["grün" if row % 4 == 0 else "rot" for row in range(NUM)])
    raw.write_bytes(raw.read_text(encoding="utf-8").encode("latin-1"))

    with pytest.raises(
        DataRejected,
        match=r"10 not_utf8, e\.g\. gr\\xfcn \(row 1 of products\.csv: in column 'colour'.*--encoding.*cp1252",
    ):
        prepared(tmp_path, raw, labels=("colour",))
    data, schema = prepared(tmp_path, raw, labels=("shape", "colour=shape"), max_bad_fraction=0.3)
    assert data.card()["kept"] == NUM and schema.heads["colour"] == list(SHAPES)  # the column is not read


def test_labels_in_another_encoding_are_read_if_it_is_given(tmp_path: Path) -> None:
    raw = write_table(tmp_path, colour=["grün" if row % 4 == 0 else "rot" for row in range(NUM)])
    raw.write_bytes(raw.read_text(encoding="utf-8").encode("latin-1"))

    _, schema = prepared(tmp_path, raw, labels=("colour",), encoding="cp1252")

    assert schema.heads["colour"] == ["grün", "rot"]


def test_a_label_may_come_from_the_name_of_a_parquet_files_folder(tmp_path: Path) -> None:
    for shape in SHAPES:
        folder = tmp_path / "set" / f"shape={shape}"
        folder.mkdir(parents=True)
        images = [encoded(drawn(shape, "red", seed=row)) for row in range(NUM)]
        pq.write_table(pa.table({"image": images}), folder / "part.parquet")

    _, schema = prepared(tmp_path, tmp_path / "set", labels=("shape",))

    assert schema.heads["shape"] == sorted(SHAPES)


def test_a_label_may_be_a_field_of_a_nested_parquet_column(tmp_path: Path) -> None:
    images = [{"bytes": encoded(drawn(shape, "red", seed=row))} for row, shape in enumerate(SHAPE_OF_ROW)]
    about = [{"kind": shape, "sku": row} for row, shape in enumerate(SHAPE_OF_ROW)]
    pq.write_table(pa.table({"photo": images, "about": about, "shape": SHAPE_OF_ROW}), tmp_path / "t.parquet")

    data, schema = prepared(
        tmp_path, tmp_path / "t.parquet", labels=("kind=about.kind",), columns="image=photo.bytes,item_id=about.sku"
    )

    assert schema.heads["kind"] == sorted(SHAPES)
    assert set(all_ids(data)["item_id"]) == {str(row) for row in range(NUM)}
    with pytest.raises(DataRejected, match=r"e\.g\. --labels about\.kind; it has photo, about, shape, photo\.bytes"):
        prepared(tmp_path, tmp_path / "t.parquet", columns="image=photo,item_id=about.sku")


@pytest.mark.parametrize("values", [[["a", "b"], ["c"]], [{"name": "a"}, {"name": "b"}]])
def test_a_column_of_lists_is_refused_as_a_label(tmp_path: Path, values: list[Any]) -> None:
    images = [encoded(drawn("bar", "red", seed=row)) for row in range(NUM)]
    pq.write_table(pa.table({"image": images, "tags": values * (NUM // 2)}), tmp_path / "t.parquet")

    message = r"t\.parquet: column 'tags' holds (lists|objects with the fields name), .*one value per image"
    with pytest.raises(DataRejected, match=message):
        prepared(tmp_path, tmp_path / "t.parquet", labels=("tags",))


def test_lists_that_pandas_wrote_as_text_are_refused_as_labels(tmp_path: Path) -> None:
    raw = write_table(tmp_path, tags=[["a", "b"] if row % 2 else ["c"] for row in range(NUM)])

    with pytest.raises(DataRejected, match=r"'tags' holds lists, e\.g\. \"\['"):
        prepared(tmp_path, raw, labels=("tags",))


def test_one_label_is_one_class_in_csv_and_parquet_whatever_its_type(tmp_path: Path) -> None:
    sizes = [float(row % 2 + 38) if row % 5 else None for row in range(NUM)]
    raw = write_table(tmp_path, size=sizes)
    images = [(raw.parent / "photos" / SHAPES[row % 2] / f"{row:03d}.png").read_bytes() for row in range(NUM)]
    pq.write_table(pa.table({"image": images, "size": sizes}), tmp_path / "t.parquet")

    _, of_csv = prepared(tmp_path, raw, labels=("size",))
    _, of_parquet = prepared(tmp_path, tmp_path / "t.parquet", labels=("size",))

    assert of_csv.heads == of_parquet.heads == {"size": ["38", "39"]}
    assert of_csv.fingerprint == of_parquet.fingerprint


def test_blanks_and_line_breaks_in_a_label_do_not_make_another_class(tmp_path: Path) -> None:
    raw = write_table(
        tmp_path, colour=[("navy blue", " navy  blue", "navy\nblue", "red")[row % 4] for row in range(NUM)]
    )

    _, schema = prepared(tmp_path, raw, labels=("colour",))

    assert schema.heads == {"colour": ["navy blue", "red"]}


# Splits


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 1, 2, 3, 4], r"40 unknown_split, e\.g\. 0 \(row 1 of products\.csv: write train, val"),
        (["TRAIN", "HOLDOUT"], r"20 unknown_split, e\.g\. HOLDOUT \(row 2 "),
        ([True, False], r"40 unknown_split, e\.g\. True"),
    ],
)
def test_a_split_that_is_not_known_is_refused_with_its_value(tmp_path: Path, values: list[Any], shown: str) -> None:
    raw = write_table(tmp_path, fold=[values[row % len(values)] for row in range(NUM)])

    with pytest.raises(DataRejected, match=shown):
        prepared(tmp_path, raw, labels=("shape",), columns="split=fold")


def test_a_split_column_is_read_whatever_its_case_and_wording(tmp_path: Path) -> None:
    words = ["TRAIN", "train", " Training", "train_set", "Test", "testing", "VALID", "dev", "train", "train"]
    raw = write_table(tmp_path, fold=[words[row // 4] for row in range(NUM)])

    _, schema = prepared(tmp_path, raw, labels=("shape",), columns="split=fold")

    assert schema.num_examples == {"train": 24, "val": 8, "test": 8}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.csv", "test.csv"),
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("train/a.csv", "Testing/a.csv"),
    ],
)
def test_tables_are_splits_by_their_names(tmp_path: Path, train: str, test: str) -> None:
    for name, first, last in ((train, 0, 30), (test, 30, NUM)):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = pd.DataFrame({"shape": SHAPE_OF_ROW[first:last], "image": [f"{row}.png" for row in range(first, last)]})
        for row in range(first, last):
            image = encoded(drawn(SHAPES[row % 2], "red", seed=row))
            (path.parent / f"{row}.png").write_bytes(image)
        if path.suffix == ".csv":
            rows.to_csv(path, index=False)
        else:
            rows.to_parquet(path)

    data, schema = prepared(tmp_path, tmp_path / "raw", labels=("shape",))

    assert schema.num_examples["test"] == 10 and schema.num_examples["val"] > 0
    assert any("are splits by their names" in note for note in data.card()["notes"])


def test_the_split_column_of_a_table_counts_more_than_its_name(tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [encoded(drawn(SHAPES[row % 2], "red", seed=row)) for row in range(NUM)]})
    rows = rows.assign(shape=SHAPE_OF_ROW, split=["test"] * 8 + [""] * (NUM - 8))
    (tmp_path / "raw").mkdir()
    rows[:20].to_parquet(tmp_path / "raw" / "train.parquet")
    rows[20:].to_parquet(tmp_path / "raw" / "test.parquet")

    _, schema = prepared(tmp_path, tmp_path / "raw", labels=("shape",))

    assert schema.num_examples["test"] == 28


# A table next to its images


def write_catalogue(tmp_path: Path, *, suffix: str = "", name: str = "id") -> Path:
    """set/images/1000.png, ... and set/styles.csv whose column has the names of the files, with or without suffix."""
    raw = tmp_path / "set"
    (raw / "images").mkdir(parents=True)
    for row in range(NUM):
        image = encoded(drawn(SHAPES[row % 2], "red", seed=row))
        (raw / "images" / f"{1000 + row}.png").write_bytes(image)
    rows = {name: [f"{1000 + row}{suffix}" for row in range(NUM)], "type": SHAPE_OF_ROW}
    pd.DataFrame(rows).to_csv(raw / "styles.csv", index=False)
    return raw


@pytest.mark.parametrize(("suffix", "name"), [("", "id"), (".png", "filename"), (".png", "image")])
def test_a_table_next_to_its_images_gives_their_labels(tmp_path: Path, suffix: str, name: str) -> None:
    raw = write_catalogue(tmp_path, suffix=suffix, name=name)
    (raw / "images" / "extra.png").write_bytes(encoded(drawn("bar", "blue")))
    (raw / "readme.txt").write_text("x")

    data, schema = prepared(tmp_path, raw, labels=("type",))

    card = data.card()
    assert schema.heads == {"type": list(SHAPES)} and card["kept"] == NUM
    assert card["left_out"] == {".txt files": 1, "images that no row names": 1}
    assert any(f"styles.csv; its column {name!r} names the image files" in note for note in card["notes"])


def test_a_path_next_to_a_table_is_never_another_file_of_the_same_name(tmp_path: Path) -> None:
    raw = write_catalogue(tmp_path)
    (raw / "1000.png").write_bytes(encoded(drawn("bar", "blue")))
    paths = [f"images/{1000 + row}.png" for row in range(NUM - 2)] + ["gone/1000.png", "gone/1001.png"]
    pd.DataFrame({"path": paths, "type": SHAPE_OF_ROW}).to_csv(raw / "styles.csv", index=False)

    data, _ = prepared(tmp_path, raw, labels=("type",), max_bad_fraction=0.1)

    assert data.card()["bad"] == {"missing_file": 2}
    assert data.card()["left_out"] == {"images that no row names": 3}


def test_a_table_next_to_unlabelled_images_is_named_with_its_columns(tmp_path: Path) -> None:
    raw = write_catalogue(tmp_path)

    with pytest.raises(DataRejected, match=r"styles\.csv .* has the columns id, type: .*--labels type"):
        prepared(tmp_path, raw)


def test_a_damaged_table_next_to_unlabelled_images_is_named(tmp_path: Path) -> None:
    raw = write_catalogue(tmp_path)
    (raw / "styles.csv").rename(raw / "styles.parquet")

    with pytest.raises(DataRejected, match=r"no class folders.*The table next to the images: cannot read .*\.parquet"):
        prepared(tmp_path, raw, labels=("type",))


def test_a_table_next_to_images_that_names_none_of_them_says_so(tmp_path: Path) -> None:
    raw = write_catalogue(tmp_path)
    pd.DataFrame({"sku": range(NUM), "type": SHAPE_OF_ROW}).to_csv(raw / "styles.csv")

    with pytest.raises(
        DataRejected, match=r"no single column of .*styles\.csv names the image files.*--columns image="
    ):
        prepared(tmp_path, raw, labels=("type",))


def test_a_table_in_a_class_folder_does_not_change_the_classes(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw")
    (raw / "labels.csv").write_text("file,kind\nbar/000.png,x\n")

    data, schema = prepared(tmp_path, raw, labels=("shape",))

    assert schema.heads == {"shape": list(SHAPES)}
    assert data.card()["left_out"] == {".csv files": 1}
