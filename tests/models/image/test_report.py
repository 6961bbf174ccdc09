"""The report on a classifier: correct numbers, the right examples, and a bounded size."""

from __future__ import annotations

import dataclasses
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs import evaluate
from jobs.cli.context import Context
from models.image import FAMILY
from models.image.config import Config
from models.image.data import collate, dataset
from models.image.networks.autoencoder import Autoencoder
from models.image.networks.build import build, initialise
from models.image.networks.classifier import Classifier, Prediction
from models.image.report import predictions as asking
from models.image.report.contents import calibration, confusions, metrics_by_class, most_confident_errors, report
from models.image.report.embedding_map import OTHER_CLASSES, embedding_map
from models.image.report.predictions import SplitPredictions, predict_split
from models.image.report.robustness import CORRUPTIONS, Corruption, robustness
from models.image.report.saliency import OUTLINE, attribution, saliency, smallest_half, with_outline
from models.image.report.thumbnails import MAX_SIDE, as_image, as_pixels, thumbnail
from models.image.schema import MISSING, UNKNOWN, Schema
from models.prepared import Prepared
from models.report import Gallery, Matrix, Plot, Section, Table
from tests.kit.bundles import write_bundle
from tests.kit.pictures import TABLE_FLAGS, prepared, table

HEADINGS = (
    *("Confusion matrix", "Metrics by class", "Most confident errors", "Calibration", "Robustness", "Saliency"),
    "Embedding map",
)


@dataclasses.dataclass(frozen=True)
class Shop:
    """Prepared images of bars and discs in three colours, and a model that needs no training."""

    data: Prepared
    schema: Schema
    network: Classifier


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("shop")
    pq.write_table(table(200), directory / "t.parquet")
    data, schema = prepared(directory, directory / "t.parquet", **TABLE_FLAGS)
    network = build(Config(network="linear"), schema)
    initialise(network, data, schema)
    assert isinstance(network, Classifier)
    return Shop(data, schema, network.eval())


@pytest.fixture(scope="module")
def found(shop: Shop) -> SplitPredictions:
    return predict_split(shop.network, shop.data, "train", schema=shop.schema)


def with_predictions(
    found: SplitPredictions, *, labels: list[int], probabilities: list[list[float]]
) -> SplitPredictions:
    """Predictions of the first images, with other labels and probabilities for the first head."""
    num = len(labels)
    others = {head: each[:num] for head, each in found.probabilities.items()}
    return dataclasses.replace(
        found,
        rows=found.rows[:num],
        names=found.names[:num],
        labels=torch.stack([torch.tensor(labels), torch.full((num,), MISSING)], 1),
        probabilities={**others, "shape": torch.tensor(probabilities)},
        embeddings=found.embeddings[:num],
    )


def part(section: Section, kind: type[Any]) -> Any:
    return next(content for content in section.content if isinstance(content, kind))


def test_predictions_are_those_of_the_network_in_the_order_of_the_split(shop: Shop, found: SplitPredictions) -> None:
    images = dataset(shop.data, "train", range(32), schema=shop.schema, config=None, epoch=0)
    batch = collate([images[row] for row in range(len(images))])
    expected = shop.network.predict(batch)
    assert len(found.rows) == len(images) > 100 and found.labels.equal(batch.labels)
    for head in ("shape", "colour"):
        torch.testing.assert_close(
            found.probabilities[head], torch.tensor([each.probabilities[head] for each in expected])
        )


def test_an_image_is_named_after_its_product(shop: Shop, found: SplitPredictions) -> None:
    shapes = {f"sku-{product:03d}": ("bar", "disc")[product % 2] for product in range(100)}
    for name, label in zip(found.names, found.labels_of("shape").tolist(), strict=True):
        assert shop.schema.heads["shape"][label] == shapes[name]


def test_a_large_split_is_sampled_at_regular_intervals(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_IMAGES", 30)
    few = predict_split(shop.network, shop.data, "train", schema=shop.schema)
    assert 20 < len(few.rows) <= 30 and few.rows[-1] > 100
    assert len(few.names) == len(few.labels) == len(few.embeddings) == len(few.rows)


def test_confusions_are_counted_by_pair_with_the_most_confident_examples(found: SplitPredictions) -> None:
    sure, unsure, right = [0.1, 0.9], [0.4, 0.6], [0.8, 0.2]
    predictions = with_predictions(
        found, labels=[0, 0, 0, 1, MISSING, UNKNOWN], probabilities=[unsure, sure, right, right, sure, sure]
    )
    section = confusions(predictions)
    assert part(section, Matrix).counts == [[1, 2], [1, 0]] and part(section, Matrix).names == ["bar", "disc"]
    first, second = part(section, Table).rows
    assert first[:4] == ["bar", "disc", 2, pytest.approx(2 / 3)] and second[:4] == ["disc", "bar", 1, 1.0]
    shown = [as_pixels(Image.open(BytesIO(image.content))) for image in first[4]]
    assert [np.array_equal(one, predictions.pixels(place)) for one, place in zip(shown, (1, 0), strict=True)] == [
        True,
        True,
    ]
    assert "90.0%" in first[4][0].text and predictions.names[1] in first[4][0].text


def test_precision_recall_and_f1_of_a_class_follow_their_definitions(found: SplitPredictions) -> None:
    bar, disc = [0.9, 0.1], [0.1, 0.9]
    predictions = with_predictions(
        found, labels=[0, 0, 0, 1, MISSING, UNKNOWN], probabilities=[bar, bar, disc, bar, disc, bar]
    )
    section = metrics_by_class(predictions)
    rows = {row[0]: row[1:] for row in part(section, Table).rows}
    assert rows["bar"] == [pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3]
    assert rows["disc"] == [0.0, 0.0, 0.0, 1]
    assert section.numbers["macro_recall_shape"] == pytest.approx(1 / 3)
    assert not any("colour" in name for name in section.numbers)  # no image has such a label here


def test_the_most_confident_errors_come_first(found: SplitPredictions) -> None:
    wrong = [[1 - sure, sure] for sure in (0.6, 0.97, 0.8, 0.91)]
    section = most_confident_errors(
        with_predictions(found, labels=[0] * 6, probabilities=[*wrong, [0.99, 0.01], [0.7, 0.3]])
    )
    shown = part(section, Gallery).pictures
    assert [re.findall(r"[\d.]+%", each.caption)[0] for each in shown] == ["97.0%", "91.0%", "80.0%", "60.0%"]
    assert section.numbers == {"sure_but_wrong_shape": pytest.approx(2 / 6)}


def test_calibration_is_reported_with_and_without_temperature_scaling(found: SplitPredictions) -> None:
    # Nine in ten sure, half of them right; without the temperature of 2 it would have been surer still.
    predictions = dataclasses.replace(
        with_predictions(found, labels=[0, 1] * 10, probabilities=[[0.9, 0.1]] * 20),
        temperatures={"shape": 2.0, "colour": 1.0},
    )
    section = calibration(predictions)
    before = 0.81 / (0.81 + 0.01)
    assert part(section, Table).rows == [["shape", pytest.approx(before - 0.5), pytest.approx(0.4), 2.0]]
    assert section.numbers == {"calibration_error_before_shape": pytest.approx(before - 0.5)}
    served, plain = part(section, Plot).series.values()
    assert served == [(pytest.approx(0.9), 0.5)] and plain == [(pytest.approx(before), 0.5)]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: f"{corruption.kind}-{corruption.level}")
def test_every_corruption_changes_the_pixels_and_keeps_size_and_mode(corruption: Corruption, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    drawn = Image.fromarray(noise).convert(mode)
    corrupted = corruption.apply(drawn)
    assert (corrupted.size, corrupted.mode) == (drawn.size, drawn.mode)
    assert not np.array_equal(np.asarray(corrupted), np.asarray(drawn))


def test_corruptions_do_what_they_say() -> None:
    half = np.zeros((1, 40, 40), np.uint8)
    half[:, :, 20:] = 200
    blurred = as_pixels(Corruption("blur", 1, 0.05).apply(as_image(half)))
    cropped = as_pixels(Corruption("crop", 1, 0.5).apply(as_image(half)))
    turned = as_pixels(Corruption("rotation", 1, 90).apply(as_image(half)))
    assert 60 < blurred[0, 20, 20] < 160 and blurred[0, 20, 0] == 0 and blurred[0, 20, -1] == 200
    assert np.abs(cropped.astype(int) - half)[:, :, [0, 10, 30, 39]].max() <= 2
    assert turned[0, 5].min() == 200 and turned[0, 35].max() == 0
    plain = np.full((3, 40, 40), 90, np.uint8)
    assert np.array_equal(as_pixels(Corruption("rotation", 1, 15).apply(as_image(plain))), plain)


def test_accuracy_under_corruptions_starts_with_the_uncorrupted_accuracy(shop: Shop, found: SplitPredictions) -> None:
    section = robustness(shop.network, found)
    share = shop.network.evaluate(found.batch(list(range(len(found.rows))))).ratios["accuracy"]
    rows = part(section, Table).rows
    assert rows[0][1] == pytest.approx(float(share.numerator.sum() / share.denominator.sum()))
    assert len(rows) == 1 + len(CORRUPTIONS) == 1 + len(section.numbers)
    assert section.numbers["accuracy_under_crop_3"] == rows[6][1] and "65%" in rows[6][0]
    assert rows[6][2] == pytest.approx(rows[6][1] - rows[0][1])


class Cornered:
    """Uses the upper left quarter only: the brighter, the more likely is class 0."""

    mean = torch.zeros(3, 1, 1)

    def predict(self, batch: Any) -> list[Prediction]:
        side = batch.pixels.shape[-1] // 2
        shares = batch.pixels[:, :, :side, :side].float().mean((1, 2, 3)) / 255
        return [Prediction({"shape": [float(share), 1 - float(share)]}, [1.0]) for share in shares]


def test_the_region_with_the_attribution_is_outlined() -> None:
    pixels = np.full((3, 28, 28), 200, np.uint8)
    weight = attribution(cast(Classifier, Cornered()), pixels, head="shape", predicted=0)
    assert weight[:14, :14].min() > 0 and float(weight[21:, 21:].abs().max()) == 0
    marked = with_outline(pixels, weight)
    orange = (np.abs(marked.astype(int) - np.array(OUTLINE)[:, None, None]).max(0) < 2).nonzero()
    assert marked.shape == (3, MAX_SIDE, MAX_SIDE) and len(orange[0]) > 40
    assert max(orange[0].max(), orange[1].max()) < 0.6 * MAX_SIDE
    assert np.abs(marked[:, 8, 8].astype(int) - 200).max() <= 4  # what counts keeps its colour


def test_the_outline_is_the_smallest_set_with_half_of_the_weight() -> None:
    weight = torch.tensor([[5.0, 1.0, 1.0], [3.0, 0.0, 0.0]])
    assert smallest_half(weight).tolist() == [[True, False, False], [False, False, False]]
    assert smallest_half(torch.ones(2, 2)).sum() == 2


def test_there_is_no_saliency_section_without_attribution(shop: Shop, found: SplitPredictions) -> None:
    blind = build(Config(network="prior"), shop.schema)
    assert isinstance(blind, Classifier)
    assert saliency(blind.eval(), found) is None
    assert report(blind, shop.data, "test", schema=shop.schema, config=blind.config) == []


def test_the_map_is_deterministic_and_separates_clusters(found: SplitPredictions) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(len(found.rows)) % 2
    heaps = torch.eye(2)[labels].repeat_interleave(4, 1) + 0.05 * torch.rand(len(labels), 8, generator=draw)
    both = torch.stack([labels, torch.full_like(labels, MISSING)], 1)
    predictions = dataclasses.replace(found, labels=both, embeddings=torch.nn.functional.normalize(heaps, dim=1))
    section, again = embedding_map(predictions), embedding_map(predictions)
    assert section is not None and section == again and section.numbers == {"neighbour_accuracy": 1.0}
    series = part(section, Plot).series
    assert len(series["bar"]) + len(series["disc"]) == len(labels) and series[OTHER_CLASSES] == []
    bars, discs = (torch.tensor(series[name]) for name in ("bar", "disc"))
    spread = max(float(heap.std(0).max()) for heap in (bars, discs))
    assert float((bars.mean(0) - discs.mean(0)).norm()) > 2 * spread
    assert embedding_map(dataclasses.replace(predictions, embeddings=torch.ones_like(heaps))) is None


def test_the_most_anomalous_images_of_an_autoencoder_come_first(shop: Shop) -> None:
    network = build(Config(network="autoencoder", width=0.25, latent=4), shop.schema)
    assert isinstance(network, Autoencoder)
    initialise(network, shop.data, shop.schema)
    sections = report(network.eval(), shop.data, "test", schema=shop.schema, config=network.config)
    assert tuple(section.title for section in sections) == (*HEADINGS, "Most anomalous images")
    found = predict_split(network.linear_probe, shop.data, "test", schema=shop.schema)
    with torch.inference_mode():
        scores = network.anomaly_scores(found.batch(list(range(len(found.rows))))).score
    captions = [image.caption for image in part(sections[-1], Gallery).pictures]
    first = found.names[int(scores.argmax())]
    assert scores.isfinite().all() and float(scores.std()) > 0
    assert len(captions) == 14 and captions[0].endswith(f"({first})")


@pytest.mark.parametrize(("side", "kind", "shown"), [(28, "PNG", 28), (64, "PNG", 64), (224, "JPEG", 112)])
def test_thumbnails_are_small_files(side: int, kind: str, shown: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    with Image.open(BytesIO(thumbnail(pixels, "noise").content)) as opened:
        assert (opened.format, opened.size) == (kind, (shown, shown))


def test_a_class_that_the_model_does_not_know_is_left_out(shop: Shop) -> None:
    heads = {"shape": ["bar", "ring"], "colour": shop.schema.heads["colour"]}
    older = shop.schema.model_copy(update={"fingerprint": "older", "heads": heads})
    sections = report(shop.network, shop.data, "test", schema=older, config=shop.network.config)
    assert tuple(section.title for section in sections)[:5] == HEADINGS[:5]
    assert sum(part(sections[0], Matrix).counts[0]) > 0 and part(sections[0], Matrix).counts[1] == [0, 0]


def test_evaluate_writes_all_sections_to_one_self_contained_page(context: Context, tmp_path: Path) -> None:
    raw = table(120)
    names = {"bar": "<b>bar</b>", "disc": "圆盘 & co"}
    shapes = [names[shape] for shape in raw["shape"].to_pylist()]
    raw = raw.set_column(raw.column_names.index("shape"), "shape", [shapes])
    pq.write_table(raw, tmp_path / "t.parquet")
    data, schema = prepared(tmp_path, tmp_path / "t.parquet", **TABLE_FLAGS)
    config = Config(network="linear")
    network = build(config, schema)
    initialise(network, data, schema)
    model = write_bundle(FAMILY, tmp_path / "model", network=network.eval(), schema=schema, config=config)
    context.store.data("image").mkdir(parents=True)
    (context.store.data("image") / "here").symlink_to(data.path)
    (context.store.data("image") / "CURRENT").write_text("here")

    outcome = evaluate.run(context, FAMILY, evaluate.Options(model=str(model), bootstrap=100), None)

    page = Path(outcome.details["report"]).read_text(encoding="utf-8")
    found = json.loads(Path(outcome.details["numbers"]).read_text(encoding="utf-8"))["sections"]
    assert tuple(section["title"] for section in found) == HEADINGS
    assert all(f"<h2>{heading}</h2><p>" in page for heading in HEADINGS)
    assert "&lt;b&gt;bar&lt;/b&gt;" in page and "<b>bar" not in page and "圆盘 &amp; co" in page
    assert not re.search(r'<script|<link|href=|url\(|@import|src=(?!"data:image/)', page)
    assert page.count("<img") == len(re.findall(r'<img(?: class="tiny")? alt="[^"]+"', page)) > 20
    assert len(page) < 1_000_000
    tables = {name: rows for section in found for name, rows in section["tables"].items()}
    assert sum(row["Images"] for row in tables["classes_of_shape"]) == schema.num_examples["test"]
    assert {"test_accuracy_under_blur_1", "test_sure_but_wrong_colour"} <= outcome.metrics.keys()
