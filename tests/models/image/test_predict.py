"""Batch prediction of images: a table or folder of images becomes a table of predictions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import predict
from jobs.cli.context import Context, UsageFailure
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
    monkeypatch.setattr(predict, "FILES_PER_PART", 4)
    folder = write_folder(tmp_path / "new", num_images=10)
    (folder / "broken.jpg").write_bytes(b"")

    rows = answers(ready, shop[1], folder).to_pylist()

    assert len(rows) == 11
    for row in rows:
        name = Path(row["file"])
        assert (
            row["error"] == "the image has no bytes" if name.name == "broken.jpg" else shape_of(row) == name.parent.name
        )


def test_an_empty_folder_is_a_usage_error(ready: Context, shop: tuple[Prepared, Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()

    with pytest.raises(UsageFailure, match="--input"):
        answers(ready, shop[1], tmp_path / "new")
