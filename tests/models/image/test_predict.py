"""Batch prediction of images: a table or folder of images becomes a table of predictions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import predict
from jobs.cli.context import Context, UsageFailure
from jobs.prediction import parts
from models.image import FAMILY
from models.image.config import Config
from models.image.networks.build import build, initialise
from models.prepared import Prepared
from tests.kit.bundles import write_bundle
from tests.kit.pictures import SHAPES, TABLE_FLAGS, drawn, encoded, prepared, table, write_folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path]:
    """Prepared data, and a model that needs no training."""
    directory = tmp_path_factory.mktemp("shop")
    pq.write_table(table(), directory / "t.parquet")
    data, schema = prepared(directory, directory / "t.parquet", **TABLE_FLAGS)
    config = Config(network="linear")
    network = build(config, schema)
    initialise(network, data, schema)
    return data, write_bundle(FAMILY, directory / "model", network=network.eval(), schema=schema, config=config)


@pytest.fixture
def ready(context: Context, shop: tuple[Prepared, Path]) -> Context:
    """A store with these data as the current ones."""
    context.store.data("image").mkdir(parents=True)
    (context.store.data("image") / "here").symlink_to(shop[0].path)
    (context.store.data("image") / "CURRENT").write_text("here")
    return context


def answers(context: Context, model: Path, source: Path, **options: object) -> pa.Table:
    out = source.with_name("answers.parquet")
    predict.run(context, FAMILY, predict.Options(str(source), str(out), model=str(model), **options), None)  # type: ignore[arg-type]
    return pq.read_table(out)


def shape_of(row: dict[str, list[dict[str, str]]]) -> str:
    return row["attributes"][0]["value"]


def test_a_table_of_images_is_predicted_with_embeddings(
    ready: Context, shop: tuple[Prepared, Path], tmp_path: Path
) -> None:
    images = [encoded(drawn(SHAPES[place % 2], "blue", seed=700 + place)) for place in range(6)]
    rows = {"sku": [f"n-{place}" for place in range(7)], "image": [*images, b"%PDF"]}
    pq.write_table(pa.table(rows), tmp_path / "new.parquet")

    found = answers(ready, shop[1], tmp_path / "new.parquet", set=("embedding=true",))

    assert "image" not in found.column_names
    *good, bad = found.to_pylist()
    assert [shape_of(row) for row in good] == [*SHAPES] * 3
    assert all(sum(value**2 for value in row["embedding"]) == pytest.approx(1.0, abs=1e-3) for row in good)
    assert bad["sku"] == "n-6" and bad["attributes"] is None
    assert bad["error"] == "the file is a PDF file, not a JPEG, PNG or WebP image"


def test_a_folder_of_images_is_predicted_file_by_file(
    ready: Context, shop: tuple[Prepared, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "FILES_PER_PART", 4)
    folder = write_folder(tmp_path / "new", num_images=10)
    (folder / "broken.jpg").write_bytes(b"")

    rows = answers(ready, shop[1], folder).to_pylist()

    assert len(rows) == 11
    for row in rows:
        name = Path(row["file"])
        assert (
            row["error"] == "the image has no bytes" if name.name == "broken.jpg" else shape_of(row) == name.parent.name
        )


def test_a_table_with_paths_of_images_keeps_them_and_names_a_missing_one(
    ready: Context, shop: tuple[Prepared, Path], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for place, shape in enumerate(SHAPES):
        (tmp_path / "photos" / f"{place}.png").write_bytes(encoded(drawn(shape, "blue", seed=700 + place)))
    (tmp_path / "new.csv").write_text("sku,path\na,photos/0.png\nb,photos/1.png\nc,photos/2.png\n")

    found = answers(ready, shop[1], tmp_path / "new.csv", columns="image=path")

    *good, bad = found.to_pylist()
    assert [(row["sku"], row["path"], shape_of(row)) for row in good] == [
        ("a", "photos/0.png", SHAPES[0]),
        ("b", "photos/1.png", SHAPES[1]),
    ]
    assert bad["error"].startswith(
        "image: 'photos/2.png' cannot be read (No such file or directory); paths are relative"
    )


def test_the_long_layout_of_images_has_a_row_for_each_candidate_class(
    ready: Context, shop: tuple[Prepared, Path], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "new", num_images=2)
    (folder / "notes.csv").write_text("a,b\n1,2\n")
    (folder / "broken.jpg").write_bytes(b"")

    nested = {row["file"]: row for row in answers(ready, shop[1], folder).to_pylist()}
    long = answers(ready, shop[1], folder, layout="long").to_pylist()

    assert len(nested) == 3
    assert [(row["file"], row["name"], row["rank"], row["best_value"], row["best_confidence"]) for row in long] == [
        (file, attribute["name"], rank, guess["value"], guess["confidence"])
        if attribute
        else (file, None, None, None, None)
        for file, row in nested.items()
        for attribute in row["attributes"] or [None]
        for rank, guess in enumerate(attribute["best"] if attribute else [None], 1)
    ]


def test_an_empty_folder_is_a_usage_error(ready: Context, shop: tuple[Prepared, Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()

    with pytest.raises(UsageFailure, match="--input"):
        answers(ready, shop[1], tmp_path / "new")
