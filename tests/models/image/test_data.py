"""Preparing images: every layout, every kind of bad input, splits without leaks, and deterministic files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.errors import DataRejected
from models.image.config import Config
from models.image.data import Picture, catalogue, collate, dataset
from models.image.networks.build import build
from models.image.report.slices import slices
from models.image.schema import MISSING, UNKNOWN, Schema
from models.prepared import Prepared
from tests.kit.pictures import (
    SHAPES,
    TABLE_FLAGS,
    all_ids,
    animated,
    bomb,
    drawn,
    encoded,
    prepared,
    table,
    write_folder,
)


def images(data: Prepared, schema: Schema, split: str) -> list[Picture]:
    found = dataset(data, split, range(schema.num_shards), schema=schema, config=None, epoch=0)
    return [found[place] for place in range(len(found))]


def contents(data: Prepared) -> dict[str, bytes]:
    """Every file that a network or an endpoint reads."""
    files = [data.path / "schema.json", *sorted((data.path / "shards").rglob("*.npy"))]
    return {str(path.relative_to(data.path)): path.read_bytes() for path in files}


# Layouts


def test_a_folder_per_class_becomes_labelled_images(tmp_path: Path) -> None:
    data, schema = prepared(tmp_path, write_folder(tmp_path / "raw"))

    assert schema.heads == {"category": ["bar", "disc"]}
    assert (schema.size, schema.channels, schema.item_ids) == (16, 3, False)
    assert sum(schema.num_examples.values()) == 60
    for split, count in schema.num_examples.items():
        found = images(data, schema, split)
        assert len(found) == count > 0
        for image in found:
            edge = image.pixels[:, :, 0].min()  # a bar reaches the edge, a disc does not
            assert schema.heads["category"][image.labels[0]] == ("bar" if edge < 200 else "disc")


def test_split_folders_keep_their_test_split(tmp_path: Path) -> None:
    data, schema = prepared(tmp_path, write_folder(tmp_path / "raw", split=True))

    assert schema.num_examples["test"] == 12
    assert schema.num_examples["val"] > 0
    ids = all_ids(data)
    assert (ids["source"].str.contains("/test/") == (ids["split"] == "test")).all()


def test_folders_below_a_class_are_products(tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / "raw" / SHAPES[number % 2] / f"product-{number // 6}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(drawn(SHAPES[number % 2], "red", seed=number)))
    data, schema = prepared(tmp_path, tmp_path / "raw", val_fraction=0.3, test_fraction=0.3)

    assert schema.item_ids
    assert all_ids(data).groupby("item_id")["split"].nunique().max() == 1


def test_a_table_with_bytes_has_several_heads_and_missing_labels(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet", row_group_size=7)
    data, schema = prepared(tmp_path, tmp_path / "t.parquet", **TABLE_FLAGS)

    assert schema.heads == {"shape": ["bar", "disc"], "colour": ["blue", "green", "red"]}
    assert data.card()["missing_labels"] == {"shape": 0, "colour": 6}
    labels = np.concatenate([np.load(shard / "labels.npy") for shard in data.shards()])
    assert (labels[:, 1] == MISSING).sum() == 6
    assert sum(schema.label_counts["shape"]) == schema.num_examples["train"]


def test_all_images_of_a_product_are_in_one_split(tmp_path: Path) -> None:
    pq.write_table(table(200), tmp_path / "t.parquet")
    data, schema = prepared(tmp_path, tmp_path / "t.parquet", **TABLE_FLAGS)

    ids = all_ids(data)
    assert schema.item_ids and len(ids) == 200
    assert ids.groupby("item_id")["split"].nunique().max() == 1
    assert {item for items, _ in catalogue(data) for item in items} == set(ids["item_id"])


def test_a_csv_of_paths_and_a_product_table_give_the_same_as_bytes(tmp_path: Path) -> None:
    rows = table()
    pq.write_table(rows, tmp_path / "t.parquet")
    (tmp_path / "photos").mkdir()
    frame = rows.to_pandas()
    for place, content in enumerate(frame["photo"]):
        (tmp_path / "photos" / f"{place}.png").write_bytes(content)
    frame.assign(photo=[f"photos/{place}.png" for place in range(len(frame))])[["sku", "photo", "shape"]].to_csv(
        tmp_path / "t.csv", index=False
    )
    paint = frame.groupby("sku")["paint"].first().rename("paint").reset_index().rename(columns={"sku": "id"})
    paint.to_csv(tmp_path / "products.csv", index=False)
    pq.write_table(rows.drop_columns(["paint"]), tmp_path / "plain.parquet")
    items: dict[str, Any] = {"items": str(tmp_path / "products.csv"), "item_columns": "item_id=id"}

    by_path, _ = prepared(tmp_path, tmp_path / "t.csv", **TABLE_FLAGS, **items)
    by_bytes, schema = prepared(tmp_path, tmp_path / "plain.parquet", **TABLE_FLAGS, **items)

    assert contents(by_path) == contents(by_bytes)
    assert schema.heads["colour"] == ["blue", "green", "red"]


def test_products_join_whatever_the_type_of_their_ids_and_must_match(tmp_path: Path) -> None:
    rows = table()
    skus = sorted(set(rows["sku"].to_pylist()))
    number = {sku: 10_000 + place for place, sku in enumerate(skus)}
    sku = pa.array([float(number[sku]) for sku in rows["sku"].to_pylist()])
    images = rows.drop_columns(["paint", "sku"]).append_column("sku", sku)
    pq.write_table(images, tmp_path / "images.parquet")
    colours = ("red", "blue")
    lines = [f"{number[sku]}{'.0' if place % 2 else ''},{colours[place % 3 % 2]}" for place, sku in enumerate(skus)]
    flags: dict[str, Any] = {**TABLE_FLAGS, "items": str(tmp_path / "products.csv"), "item_columns": "item_id=id"}
    (tmp_path / "products.csv").write_text("\n".join(["id,paint", *lines, "7,red"]))
    data, _ = prepared(tmp_path, tmp_path / "images.parquet", **flags)
    found = data.card()["joins"]["item table"]
    assert found == {
        **{"ids": len(skus), "matched": len(skus)},
        **{"table_ids": len(skus) + 1, "table_matched": len(skus), "hint": ""},
    }
    assert data.card()["missing_labels"]["colour"] == 0
    (tmp_path / "products.csv").write_text("\n".join(["id,paint", *(f"0{line}" for line in lines)]))
    with pytest.raises(DataRejected, match=r"no id of the images \(e.g. '10000'\) .*'010000'.*without leading zeros"):
        prepared(tmp_path, tmp_path / "images.parquet", **flags)


# Bad input


def test_every_kind_of_bad_image_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw")
    bad = {
        "empty": b"",
        "not_a_picture": b"%PDF-1.7 invoice",
        "truncated": encoded(drawn("bar", "red", size=200), "JPEG")[:1500],
        "animated": animated("WEBP"),
        "too_many_pixels": bomb(),
        "too_small": encoded(Image.new("RGB", (2, 2))),
    }
    for reason, content in bad.items():
        (raw / "bar" / f"{reason}.jpg").write_bytes(content)
    (raw / "stray.png").write_bytes(encoded(drawn("bar", "red")))
    (raw / "bar" / "notes.txt").write_text("not counted")
    data, schema = prepared(tmp_path, raw, max_bad_fraction=0.2)

    quarantine = pd.concat([pd.read_parquet(path) for path in (data.path / "quarantine").glob("*.parquet")])
    assert data.card()["bad"] == {**dict.fromkeys(bad, 1), "missing_class": 1}
    assert sorted(quarantine["reason"]) == sorted([*bad, "missing_class"])
    for row in quarantine.itertuples():
        assert row.reason == "missing_class" or str(row.source).endswith(f"{row.reason}.jpg")
    assert sum(schema.num_examples.values()) == 60


def test_an_image_whose_suffix_lies_is_read_by_its_content(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw")
    for path in sorted(raw.rglob("*.png"))[::2]:
        image = Image.open(path)
        path.unlink()
        image.save(path.with_suffix(".gif"), format="JPEG")

    data, _ = prepared(tmp_path, raw)

    assert data.card()["kept"] == 60


def test_too_many_bad_images_reject_the_input_with_a_remedy(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw")
    for number in range(3):
        (raw / "bar" / f"bad-{number}.jpg").write_bytes(b"nonsense")

    with pytest.raises(DataRejected, match=r"3 of 63 images.*not_a_picture.*--max-bad-fraction 0\.05"):
        prepared(tmp_path, raw)


def test_a_table_s_missing_files_and_unknown_splits_are_bad_rows(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw")
    lines = [f"raw/{path.parent.name}/{path.name},{path.parent.name},train" for path in sorted(raw.rglob("*.png"))]
    lines += ["raw/gone.png,bar,train", ",bar,train", f"raw/bar/{sorted((raw / 'bar').iterdir())[0].name},bar,holdout"]
    (tmp_path / "t.csv").write_text("\n".join(["image,shape,split", *lines]))
    data, _ = prepared(tmp_path, tmp_path / "t.csv", labels=("shape",), max_bad_fraction=0.1)

    assert data.card()["bad"] == {"missing_file": 1, "missing_picture": 1, "unknown_split": 1}


def test_duplicates_never_cross_splits(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw", split=True)
    tested = sorted((raw / "test" / "bar").iterdir())[0]
    (raw / "train" / "bar" / "copy.png").write_bytes(tested.read_bytes())
    Image.open(tested).save(raw / "train" / "bar" / "copy.webp", lossless=True)
    data, schema = prepared(tmp_path, raw)

    ids = all_ids(data)
    assert ids["picture_id"].is_unique
    assert schema.num_examples["test"] == 12
    assert data.card()["duplicates"] == 2
    duplicates = pd.read_parquet(data.path / "quarantine" / "duplicates.parquet")
    assert {Path(source).name for source in duplicates["source"]} == {"copy.png", "copy.webp"}


def test_a_label_on_which_duplicates_disagree_is_missing(tmp_path: Path) -> None:
    rows = table().to_pandas()
    other = rows.iloc[[1]].assign(shape="disc", sku="sku-999")
    pq.write_table(pa.Table.from_pandas(pd.concat([rows, other])), tmp_path / "t.parquet")
    data, _ = prepared(tmp_path, tmp_path / "t.parquet", **TABLE_FLAGS)

    assert data.card()["missing_labels"]["shape"] == 1
    assert data.card()["missing_labels"]["colour"] == 6


# Determinism


def test_the_result_does_not_depend_on_order_files_or_workers(tmp_path: Path) -> None:
    rows = table()
    pq.write_table(rows, tmp_path / "one.parquet")
    order = list(range(rows.num_rows))
    random.Random(1).shuffle(order)
    shuffled = rows.take(pa.array(order))
    (tmp_path / "many").mkdir()
    for start in range(0, 60, 13):
        pq.write_table(shuffled.slice(start, 13), tmp_path / "many" / f"{start:02d}.parquet", row_group_size=3)

    one, first = prepared(tmp_path, tmp_path / "one.parquet", workers=1, **TABLE_FLAGS)
    many, second = prepared(tmp_path, tmp_path / "many", workers=3, **TABLE_FLAGS)

    assert first.fingerprint == second.fingerprint
    assert contents(one) == contents(many)


def test_another_label_or_size_gives_another_fingerprint(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    prints = {
        prepared(tmp_path, tmp_path / "t.parquet", **{**TABLE_FLAGS, **change})[1].fingerprint
        for change in ({}, {"size": 24}, {"labels": ("shape",)}, {"test_fraction": 0.3})
    }

    assert len(prints) == 4


def test_images_are_converted_to_the_schema_of_an_older_model(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    data, own = prepared(tmp_path, tmp_path / "t.parquet", **TABLE_FLAGS)
    older = own.model_copy(
        update={
            "fingerprint": "0" * 64,
            "heads": {"colour": ["red", "blue"], "brand": ["x", "y"], "shape": ["disc", "bar"]},
            "size": 10,
            "channels": 1,
        }
    )
    new = dataset(data, "train", range(32), schema=own, config=None, epoch=0)
    old = dataset(data, "train", range(32), schema=older, config=None, epoch=0)

    for place in range(len(new)):
        names = {
            head: own.heads[head][label] for head, label in zip(own.heads, new[place].labels, strict=True) if label >= 0
        }
        colour, brand, shape = old[place].labels.tolist()
        assert old[place].pixels.shape == (1, 10, 10)
        assert shape == older.heads["shape"].index(names["shape"])
        assert brand == MISSING
        known = {"red": 0, "blue": 1, "green": UNKNOWN}
        assert colour == (known[names["colour"]] if "colour" in names else MISSING)


def test_the_order_of_the_heads_survives_a_file_that_sorts_its_keys(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    _, schema = prepared(tmp_path, tmp_path / "t.parquet", **TABLE_FLAGS)

    again = Schema.model_validate_json(json.dumps(schema.model_dump(), sort_keys=True))

    assert list(again.heads) == ["shape", "colour"]


def test_a_class_newer_than_the_model_counts_as_an_error(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    data, own = prepared(tmp_path, tmp_path / "t.parquet", labels=("colour=paint",), columns="image=photo,item_id=sku")
    older = own.model_copy(update={"fingerprint": "0" * 64, "heads": {"colour": ["blue", "red"]}})
    network = build(Config(network="prior"), older)
    found = dataset(data, "train", range(32), schema=older, config=None, epoch=0)
    batch = collate([found[place] for place in range(len(found))])

    ratio = network.evaluate(batch).ratios["accuracy"]
    is_green = batch.labels[:, 0] == UNKNOWN

    assert is_green.any()
    assert (ratio.denominator == 1).all() and (ratio.numerator[is_green] == 0).all()
    assert set(slices(batch, older)["colour"]) == {"blue", "red", "unknown to the model"}
    assert int(network.evaluate(batch).accumulators["confusion/colour"].sum()) == int((~is_green).sum())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ()}, "name the label columns"),
        ({"labels": ("weight",)}, "no column 'weight'; its columns are: sku, photo, shape, paint"),
        ({"columns": ""}, "no column 'image'"),
        ({"labels": ("shape",), "test_fraction": 0.0}, "the test split has no images"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")

    with pytest.raises(DataRejected, match=message):
        prepared(tmp_path, tmp_path / "t.parquet", **{**TABLE_FLAGS, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 4},
        {"size": -1},
        {"val_fraction": 0.7, "test_fraction": 0.3},
        {"max_bad_fraction": 2},
        {"labels": "colour"},
        {"labels": ("a", "a=b")},
        {"labels": ("Größe (cm)",)},
    ],
)
def test_invalid_flags_raise_an_error_that_names_them(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--") as raised:
        prepared(tmp_path, write_folder(tmp_path / "raw", num_images=4), **fields)
    assert not isinstance(raised.value, DataRejected)


def test_a_single_class_and_an_empty_folder_are_rejected(tmp_path: Path) -> None:
    raw = write_folder(tmp_path / "raw", num_images=10)
    for path in (raw / "disc").iterdir():
        path.unlink()

    with pytest.raises(DataRejected, match="at least 2"):
        prepared(tmp_path, raw)
    (tmp_path / "raw.zip").write_bytes(b"PK")
    with pytest.raises(DataRejected, match=r"no images in a known layout \(it has raw\.zip\).*unpack the archive"):
        prepared(tmp_path, tmp_path / "raw.zip")
    with pytest.raises(DataRejected, match="no images in a known layout"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "readme.md").write_text("nothing")
        prepared(tmp_path, tmp_path / "other")


@pytest.mark.real
def test_fashion_products_are_prepared_with_their_published_counts(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "fashion_products"
    data, schema = prepared(
        tmp_path,
        folder / "images_112.parquet",
        labels=("type=articleType", "colour=baseColour", "season"),
        columns="item_id=id",
        items=str(folder / "catalogue.parquet"),
        item_columns="item_id=id",
        size=32,
    )

    assert data.card()["duplicates"] == 122
    assert data.card()["kept"] == 9461
    assert len(schema.heads["type"]) == 74  # of the 75, one is only on a copy with two types
