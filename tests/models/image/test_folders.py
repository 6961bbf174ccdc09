"""Trees of image folders: splits, classes, products and what is none of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from models.errors import DataRejected
from models.image.prepare.split_names import split_folders, split_of
from models.image.schema import Schema
from models.prepared import Prepared
from tests.kit.pictures import COLOURS, all_ids, drawn, encoded, prepared

CLASSES = ("bags", "hats")


def write_tree(root: Path, counts: Mapping[str, int]) -> Path:
    """Different images in the given folders: folder -> number of images."""
    seed = 0
    for folder, count in counts.items():
        for _ in range(count):
            shape, colour = ("bar", "disc")[seed % 2], list(COLOURS)[seed % 3]
            path = root / folder / f"{seed:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(drawn(shape, colour, seed=seed)))
            seed += 1
    return root


def split_tree(*names: str, count: int = 8) -> dict[str, int]:
    """A folder per class in each of the splits."""
    return {f"{name}/{of}": count for name in names for of in CLASSES}


def read(tmp_path: Path, counts: Mapping[str, int], **fields: Any) -> tuple[Prepared, Schema, dict[str, Any]]:
    data, schema = prepared(tmp_path, write_tree(tmp_path / "raw", counts), **fields)
    return data, schema, data.card()


# Splits


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("training", "validation", "testing"),
        ("TRAIN", "Val", "TEST"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("train_images", "val_images", "test_images"),
        ("train/images", "valid/images", "test/images"),
        ("shop-main/train", "shop-main/dev", "shop-main/test"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_split_folders_under_many_names_are_the_official_splits(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    counts = split_tree(train, count=8) | split_tree(val, count=3) | split_tree(test, count=5)

    _, schema, card = read(tmp_path, counts)

    assert schema.heads == {"category": list(CLASSES)}
    assert schema.num_examples == {"train": 16, "val": 6, "test": 10}
    assert card["left_out"] == {}


@pytest.mark.parametrize("name", ["pred", "extra", "seg_pred/seg_pred", "my logos"])
def test_a_folder_next_to_the_splits_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    _, schema, card = read(tmp_path, split_tree("train", "test") | {name: 7})

    top = name.split("/")[0] + "/"
    assert schema.heads == {"category": list(CLASSES)}
    assert card["rows"] == 32
    assert card["left_out"] == {top: 7}
    assert any(top in note and "left out" in note for note in card["notes"])


def test_a_stray_image_next_to_the_splits_is_bad_and_named(tmp_path: Path) -> None:
    _, schema, card = read(tmp_path, split_tree("train", "val", "test") | {".": 1}, max_bad_fraction=0.05)

    assert schema.num_examples == {"train": 16, "val": 16, "test": 16}
    assert card["bad"] == {"missing_class": 1}
    assert any("0048.png" in note for note in card["notes"])


def test_a_test_folder_without_class_folders_is_left_out_and_replaced(tmp_path: Path) -> None:
    _, schema, card = read(tmp_path, split_tree("train", count=20) | {"test": 9})

    assert schema.heads == {"category": list(CLASSES)}
    assert card["left_out"] == {"test/": 9}
    assert card["rows"] == 40 and min(schema.num_examples.values()) > 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 9, "test": 9}, "train/ of .* has 9 images but no class folders"),
        ({"images": 9}, "9 images but no class folders"),
        (split_tree("train", "holdout"), "holdout/ of .* looks like|train/ of .* looks like a split, but holdout"),
        (split_tree("train", "test", "holdout"), "holdout/ of .* has the class folder 'bags'.*rename it"),
        (split_tree("train") | {"extra": 5}, "train/ of .* looks like a split, but extra next to it does not"),
        (split_tree("fold0", "fold1"), "fold0/, fold1/ of .* are folds and no classes"),
        (split_tree("shop"), r"has one class folder, 'shop'; if the folders in it \(bags, hats\) are the classes"),
    ],
)
def test_a_tree_that_could_mean_something_else_is_refused(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataRejected, match=message):
        read(tmp_path, counts)


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    _, schema, _ = read(tmp_path, {"train": 20, "bus": 20, "bullet_train": 20, "test_tube": 20})

    assert schema.heads == {"category": ["bullet_train", "bus", "test_tube", "train"]}


def test_splits_below_the_classes_are_splits_too(tmp_path: Path) -> None:
    counts = {f"{of}/{split}": 6 for of in CLASSES for split in ("train", "test")}

    _, schema, _ = read(tmp_path, counts | {"bags/val": 2})

    assert schema.heads == {"category": list(CLASSES)}
    assert schema.num_examples == {"train": 12, "val": 2, "test": 12}
    assert not schema.item_ids


def test_a_class_that_only_the_test_split_has_is_refused_with_its_name(tmp_path: Path) -> None:
    counts = split_tree("train", "test") | {"test/Hats": 3}

    with pytest.raises(
        DataRejected, match=r"1 of 3 classes .* no training image.*'Hats' \(3 in test; train has 'hats'\)"
    ):
        read(tmp_path, counts)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        *(("TRAIN", "train"), ("Training set", "train"), ("validation", "val"), ("test_1", "test"), ("Dev", "val")),
        *(("holdout", None), ("0", None), ("1.0", None), ("fold3", None), ("train/test", None), ("trained", None)),
    ],
)
def test_only_words_that_name_one_split_are_splits(text: str, split: str | None) -> None:
    assert split_of(text) == split


def test_sibling_folders_are_splits_only_together() -> None:
    assert split_folders(["seg_train", "seg_test", "seg_pred"]) == {"seg_train": "train", "seg_test": "test"}
    assert split_folders(["train", "pred"]) == {"train": "train"}
    assert split_folders(["train", "bus"]) == {}
    assert split_folders(["bullet_train", "test_tube"]) == {}


# Products


def test_product_folders_of_two_classes_with_one_name_are_two_products(tmp_path: Path) -> None:
    counts = {f"{of}/{number:03d}": 3 for of in CLASSES for number in range(12)} | {"hats/sku-99": 3}

    data, _, card = read(tmp_path, counts)

    ids = all_ids(data)
    assert card["items"] == 25
    assert {"bags/003", "hats/003", "sku-99"} <= set(ids["item_id"])
    assert ids.groupby("item_id")["split"].nunique().max() == 1


def test_views_that_every_class_has_are_not_products(tmp_path: Path) -> None:
    counts = {f"{of}/{view}": 20 for of in CLASSES for view in ("front", "back")}

    _, schema, card = read(tmp_path, counts)

    assert card["kept"] == 80 and not schema.item_ids
    assert min(schema.num_examples.values()) > 0
    assert any("they are not products" in note for note in card["notes"])


def test_folders_below_a_class_become_what_the_flag_says(tmp_path: Path) -> None:
    counts = {"Shoes/Boots": 25, "Shoes/Sandals": 25, "Tops/Shirts": 25, "Tops/Blouses": 25}
    counts |= {"Shoes/Clogs": 25, "Tops/Vests": 25}

    _, products, card = read(tmp_path, counts)
    _, classes, _ = read(tmp_path, counts, subfolders="classes")
    _, ignored, _ = read(tmp_path, counts, subfolders="ignored")

    assert products.heads == ignored.heads == {"category": ["Shoes", "Tops"]}
    assert products.item_ids and not ignored.item_ids
    assert any("hold 25 images each" in note and "--subfolders classes" in note for note in card["notes"])
    assert classes.heads == {"category": sorted(counts)}


# Classes


def test_class_names_equal_up_to_blanks_and_unicode_forms_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))

    _, schema, card = read(
        tmp_path, {composed: 15, decomposed: 15, "T-Shirt ": 15, "T-Shirt": 15, "Red": 15, "red": 15}
    )

    assert schema.heads == {"category": ["Red", "T-Shirt", "red", composed]}
    assert sum("one class" in note for note in card["notes"]) == 2
    assert any("'Red' (15), 'red' (15)" in note for note in card["notes"])


def test_a_class_with_a_single_image_is_learned_and_said(tmp_path: Path) -> None:
    _, schema, card = read(tmp_path, {"bags": 30, "hats": 30, "gloves": 1})

    assert dict(zip(schema.heads["category"], schema.label_counts["category"], strict=True))["gloves"] == 1
    assert any("without a test image" in note and "gloves" in note for note in card["notes"])


def test_a_class_folder_without_images_and_other_files_are_said(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", {"bags": 20, "hats": 20})
    (raw / "gloves").mkdir()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "labels.csv", "notes"):
        (raw / "bags" / name).write_text("x")
    for name in ("__MACOSX/hats/1.png", "@eaDir/1.png"):
        (raw / name).parent.mkdir(parents=True)
        (raw / name).write_text("x")

    data, schema = prepared(tmp_path, raw)

    assert schema.heads == {"category": list(CLASSES)}
    assert data.card()["left_out"] == {
        **{".csv files": 1, ".db files": 1, ".ini files": 1, "notes files": 1, "gloves/": 0},
        "thumbnails and trash of the operating system": 2,
    }
    assert data.card()["rows"] == 40


def test_a_class_name_of_a_whole_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="a class name of 230 characters"):
        read(tmp_path, {"x" * 230: 20, "hats": 20})


def test_camera_names_with_an_underscore_are_images(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", {"bags": 20, "hats": 20})
    for path in list(raw.rglob("*.png"))[::2]:
        path.rename(path.with_name(f"_DSC{path.stem}.PNG"))

    data, _ = prepared(tmp_path, raw)

    assert data.card()["kept"] == 40


def test_a_linked_folder_is_read_and_a_link_to_a_folder_above_is_not(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", {"bags": 20})
    write_tree(tmp_path / "elsewhere", {"x": 20, "hats": 20})
    (raw / "hats").symlink_to(tmp_path / "elsewhere" / "hats")
    (raw / "bags" / "all").symlink_to(raw)

    data, schema = prepared(tmp_path, raw)

    assert schema.heads == {"category": list(CLASSES)}
    assert (data.card()["rows"], data.card()["duplicates"]) == (40, 0)
    assert any("symbolic links" in note for note in data.card()["notes"])


# Splits of small sets


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_small_set_has_images_in_every_split_and_each_class_in_train(tmp_path: Path, count: int) -> None:
    _, schema, _ = read(tmp_path, {"bags": count + 1, "hats": count, "gloves": count})

    assert min(schema.num_examples.values()) > 0
    assert min(schema.label_counts["category"]) > 0


def test_a_set_without_a_spare_image_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"the val and test splits have no images.*each class needs one in train"):
        read(tmp_path, {"bags": 1, "hats": 1})


def test_the_split_of_a_small_set_does_not_depend_on_names_or_order(tmp_path: Path) -> None:
    one = write_tree(tmp_path / "one", {"bags": 3, "hats": 3})
    other = tmp_path / "other"
    for number, path in enumerate(sorted(one.rglob("*.png"), reverse=True)):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        (other / path.parent.name / f"{number}.png").write_bytes(path.read_bytes())

    prints = {prepared(tmp_path, raw)[1].fingerprint for raw in (one, other)}

    assert len(prints) == 1
