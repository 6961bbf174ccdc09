"""The title generator: it follows the shop's wording and order, and names confident attributes only."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from models import bundle as bundles
from models.image import FAMILY
from models.image.config import Config
from models.image.data import collate, dataset
from models.image.networks.build import build, initialise
from models.image.networks.classifier import Classifier
from models.image.report.predictions import predict_split
from models.image.report.titles import Case, brand_stems, compare_titles, score_titles, titles_section
from models.image.schema import Schema
from models.image.text.describe import Attribute
from models.image.text.titles import END, PADDING, Form, Lexicon, learn_forms
from models.image.text.writer import TitleGenerator
from models.prepared import Prepared
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit.bundles import write_bundle
from tests.kit.pictures import TABLE_FLAGS, drawn, encoded, prepared, table
from tests.serve.test_service import assert_problem

DESCRIBE = "/describe"
FLAGS = {**TABLE_FLAGS, "columns": "image=photo,item_id=sku,title=name", "labels": ("type=shape", "colour=paint")}
BRANDS = ("Acme", "Red Tape", "Zenith & Sons")
HEADS = {
    "type": ["Casual Shoes", "Formal Shoes", "Tshirts"],
    "category": ["Shoes", "Topwear"],
    "colour": ["Blue", "Navy Blue", "Red"],
    "usage": ["Casual", "Formal"],
    "brand": ["Acme", "Red Tape", "Casual Formal"],
}
"""Names within other names, names that other names combine to, and brands that look like class names."""


def titled(num_images: int = 240) -> pa.Table:
    """Images of `table`, called "Acme Printed Discs Red 7" by the shop: brand, pattern, type, colour, number."""
    plain = table(num_images)
    kinds, paints = plain["shape"].to_pylist(), plain["paint"].to_pylist()
    names = [
        f"{BRANDS[row % 3]} Printed {kind.title()}s {paint.title() if paint else 'Plain'} {row // 2}"
        for row, (kind, paint) in enumerate(zip(kinds, paints, strict=True))
    ]
    return plain.append_column("name", pa.array(names))


def write_titled(directory: Path, rows: pa.Table | None = None) -> Path:
    path = directory / "titled.parquet"
    pq.write_table(titled() if rows is None else rows, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    directory = tmp_path_factory.mktemp("titles")
    return prepared(directory, write_titled(directory), size=20, **FLAGS)[0]


@pytest.fixture(scope="module")
def directory(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a network that is trained on images with titles."""
    config = Config(network="cnn", shift=1, precision="fp32")
    schema = data.schema(Schema)
    torch.manual_seed(0)
    network = build(config, schema)
    images = dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        network(collate([images[row] for row in torch.randint(len(images), (32,)).tolist()])).backward()
        optimizer.step()
    parts = {"network": network.eval(), "schema": schema, "config": config}
    return write_bundle(FAMILY, tmp_path_factory.mktemp("learnt") / "bundle", **parts)


@pytest.fixture(scope="module")
def bundle(directory: Path) -> bundles.Bundle:
    return bundles.load(directory, FAMILY)


@pytest.fixture(scope="module")
def client(directory: Path) -> Iterator[TestClient]:
    with serving(directory) as client:
        yield client


def serving(directory: Path) -> TestClient:
    service = Service("image")
    asyncio.run(service.load(Settings(version="3", bundle=directory)))
    return TestClient(make_app(service), raise_server_exceptions=False)


def described(client: TestClient, shape: str, colour: str, **query: Any) -> Any:
    content = encoded(drawn(shape, colour, seed=900))
    return client.post(DESCRIBE, content=content, params=query, headers={"content-type": "image/png"})


def schema_of(forms: Sequence[Form]) -> Schema:
    return Schema(
        family="image",
        fingerprint="0" * 64,
        num_shards=1,
        num_examples={},
        heads=HEADS,
        label_counts={},
        forms=list(forms),
        channels=3,
        size=20,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        item_ids=False,
    )


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of the parameters that got one other than zero."""
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None and gradient.any()}


def likely(**values: str) -> dict[str, list[float]]:
    """Probabilities that give these classes 0.9, and the classes of other heads at most 0.4."""
    return {
        head: [0.9 if name == values[head] else 0.05 for name in names] if head in values else [0.4] * len(names)
        for head, names in HEADS.items()
    }


# From the raw table into the bundle


def test_titles_become_phrases_in_the_order_of_the_shop(data: Prepared) -> None:
    schema = data.schema(Schema)
    texts = {END: "", PADDING: ""} | {number: form.text for number, form in enumerate(schema.forms, 1)}

    images = dataset(data, "train", range(schema.num_shards), schema=schema, config=None, epoch=0)

    titles = collate([images[row] for row in range(len(images))]).titles
    assert titles is not None
    said = {" ".join(texts[token] for token in title).strip() for title in titles.tolist()}
    assert said == {f"{shape}s{colour}" for shape in ("Bar", "Disc") for colour in ("", " Red", " Green", " Blue")}


def test_titles_may_come_from_the_product_table(tmp_path: Path) -> None:
    rows = titled(60)
    pq.write_table(rows.drop_columns("name"), tmp_path / "pictures.parquet")
    first = list(range(0, rows.num_rows, 2))
    pq.write_table(rows.take(first).select(["sku", "name"]), tmp_path / "products.parquet")
    flags = {**TABLE_FLAGS, "labels": FLAGS["labels"], "size": 20, "items": str(tmp_path / "products.parquet")}

    _, schema = prepared(tmp_path, tmp_path / "pictures.parquet", item_columns="item_id=sku,title=name", **flags)

    assert {"Bars", "Discs"} <= {form.text for form in schema.forms}


def test_data_without_titles_have_no_title_generator(tmp_path: Path) -> None:
    out, schema = prepared(
        tmp_path, write_titled(tmp_path, titled(60)), size=20, **{**FLAGS, "columns": TABLE_FLAGS["columns"]}
    )

    assert schema.forms == [] and not list(out.path.glob("shards/*/titles.npy"))
    assert build(Config(network="cnn"), schema).title_generator is None


def test_an_older_model_ignores_titles_in_a_newer_vocabulary(data: Prepared) -> None:
    schema = data.schema(Schema)
    older = schema.model_copy(update={"forms": schema.forms[1:], "fingerprint": "1" * 64})

    images = dataset(data, "test", range(schema.num_shards), schema=older, config=None, epoch=0)

    assert collate([images[0], images[1]]).titles is None


# The title generator


def test_the_classifier_learns_nothing_from_titles(data: Prepared) -> None:
    schema = data.schema(Schema)
    torch.manual_seed(0)
    network = build(Config(network="cnn", shift=0, flip=False), schema)
    images = dataset(data, "train", range(schema.num_shards), schema=schema, config=network.config, epoch=0)
    batch = collate([images[row] for row in range(32)])

    network(batch).backward()
    with_titles = gradients(network)
    network.zero_grad()
    network(dataclasses.replace(batch, titles=None)).backward()
    without = gradients(network)

    assert all(torch.equal(with_titles[name], gradient) for name, gradient in without.items())
    assert {name for name in with_titles if name not in without} == {
        name for name, _ in network.named_parameters() if name.startswith("title_generator.")
    }


@pytest.mark.parametrize("seed", range(4))
def test_no_title_names_an_unpredicted_class_whatever_the_weights(seed: int) -> None:
    forms = learn_forms(HEADS, [], [])
    torch.manual_seed(seed)
    others = [Form(text=value, names=((head, value),)) for head in ("colour", "usage") for value in HEADS[head]]
    title_generator = TitleGenerator(8, schema_of([*forms, *others]))
    # Large weights: the decoder is sure of what it wants to say.
    torch.nn.init.normal_(title_generator.output.weight, std=5.0)
    draw = torch.Generator().manual_seed(seed)
    chosen = [
        {head: names[int(torch.randint(len(names), (1,), generator=draw))] for head, names in HEADS.items()}
        for _ in range(60)
    ]
    kept = [dict(list(each.items())[int(row % 3 == 0) :]) for row, each in enumerate(chosen)]

    titles = title_generator.generate(torch.randn(60, 8), [likely(**each) for each in kept], [0.7] * 60)

    said = set()
    for phrases, attributes in zip(titles, kept, strict=True):
        text = " ".join(phrase.text for phrase in phrases)
        for mention in Lexicon(HEADS).mentions(text):
            assert any(head != "brand" and attributes.get(head) == value for head, value in mention.names), text
        for phrase in phrases:
            assert attributes[phrase.attribute.head] == phrase.attribute.value
            assert phrase.attribute.confidence == 0.9
        said |= {phrase.text for phrase in phrases}
    assert len(said) > 6


def test_two_predicted_phrases_do_not_form_the_name_of_an_unpredicted_class() -> None:
    forms = [Form(text="Casual", names=(("usage", "Casual"),)), Form(text="Shoes", names=(("category", "Shoes"),))]
    title_generator = TitleGenerator(8, schema_of(forms))
    torch.nn.init.zeros_(title_generator.output.weight)
    title_generator.output.bias.data = torch.tensor([0.0, 9.0, 5.0])  # END, Casual, Shoes

    (unsure,) = title_generator.generate(torch.randn(1, 8), [likely(category="Shoes", usage="Casual")], [0.7])
    (sure,) = title_generator.generate(
        torch.randn(1, 8), [likely(category="Shoes", usage="Casual", type="Casual Shoes")], [0.7]
    )

    assert [phrase.text for phrase in unsure] == ["Shoes", "Casual"]
    assert [phrase.text for phrase in sure] == ["Casual", "Shoes"]


def test_phrase_dropout_is_applied_in_training_only() -> None:
    torch.manual_seed(0)
    title_generator = TitleGenerator(8, schema_of(learn_forms(HEADS, [], [])))
    embeddings, titles = torch.randn(4, 8), torch.tensor([[1, 2, 3, END, PADDING]] * 4)

    with_dropout = {float(title_generator.train().loss(embeddings, titles).detach()) for _ in range(6)}
    whole = {float(title_generator.eval().loss(embeddings, titles).detach()) for _ in range(6)}

    assert len(with_dropout) > 1 and len(whole) == 1


def test_the_title_is_empty_without_a_confident_product_type() -> None:
    title_generator = TitleGenerator(8, schema_of(learn_forms(HEADS, [], [])))

    written = title_generator.generate(
        torch.randn(2, 8), [likely(colour="Red"), likely(colour="Red", type="Tshirts")], [0.7, 0.95]
    )

    assert written == [(), ()]


# The endpoint


@pytest.mark.parametrize("shape", ["bar", "disc"])
@pytest.mark.parametrize("colour", ["red", "blue"])
def test_a_learned_title_has_the_word_order_and_the_wording_of_the_shop(
    client: TestClient, shape: str, colour: str
) -> None:
    content = described(client, shape, colour, writer="learnt", threshold=0.4).json()

    assert content["en"]["title"] == f"{shape.title()}s {colour.title()}"
    assert [phrase["attribute"] for phrase in content["en"]["phrases"]] == ["type", "colour"]
    assert [phrase["value"] for phrase in content["en"]["phrases"]] == [shape, colour]
    assert (content["en"]["writer"], content["zh"]["writer"]) == ("learnt", "template")


def test_templates_are_the_default(client: TestClient) -> None:
    content = described(client, "disc", "blue", threshold=0.4).json()

    assert (content["en"]["title"], content["en"]["writer"]) == ("Blue disc", "template")


def test_a_learned_title_is_empty_above_every_confidence(client: TestClient) -> None:
    content = described(client, "disc", "blue", writer="learnt", threshold=0.9999).json()

    assert content["en"] == {"title": "", "description": "", "phrases": [], "writer": "learnt"}


def test_a_model_without_titles_returns_an_error_and_a_baseline_falls_back_to_templates(
    tmp_path: Path, data: Prepared, bundle: bundles.Bundle
) -> None:
    config = Config(network="linear")
    untitled = bundle.schema.model_copy(update={"forms": []})
    for name, schema in (("untitled", untitled), ("titled", bundle.schema)):
        network = build(config, schema)
        initialise(network, data, schema)
        write_bundle(FAMILY, tmp_path / name, network=network.eval(), schema=schema, config=config)

    with serving(tmp_path / "untitled") as client:
        problem = assert_problem(described(client, "disc", "blue", writer="learnt"), 422)
    with serving(tmp_path / "titled") as client:
        content = described(client, "disc", "blue", writer="learnt", threshold=0.3).json()

    assert "was trained without titles" in problem["detail"]
    assert (content["en"]["title"], content["en"]["writer"]) == ("Blue disc", "template")


# Comparison of templates and the title generator


def test_both_kinds_of_titles_are_compared_on_the_images_with_titles(data: Prepared, bundle: bundles.Bundle) -> None:
    predictions = predict_split(bundle.network, data, "test", schema=bundle.schema)

    found = compare_titles(bundle.network, predictions, data, threshold=0.5)

    assert found.num_images == bundle.schema.num_examples["test"]
    for scores in found.scores.values():
        assert scores["not_held"] == scores["brand"] == 0
        assert scores["titles"] > 0.9
    assert found.scores["learnt"]["token_f1"] > found.scores["template"]["token_f1"]
    assert found.examples[0].keys() == {"shop", "template", "learnt"}
    section = titles_section(bundle.network, predictions, data)
    assert section is not None and section.numbers["titles_learnt_brand"] == 0


def test_a_network_or_data_without_titles_has_nothing_to_compare(data: Prepared, bundle: bundles.Bundle) -> None:
    schema = bundle.schema.model_copy(update={"forms": []})
    network = build(bundle.config, schema).eval()
    assert isinstance(network, Classifier)
    predictions = predict_split(network, data, "test", schema=schema)

    assert titles_section(network, predictions, data) is None
    with pytest.raises(ValueError, match="has no title generator"):
        compare_titles(network, predictions, data)
    untitled = dataclasses.replace(predictions, titles=[None] * len(predictions.rows))
    assert titles_section(bundle.network, untitled, data) is None
    with pytest.raises(ValueError, match=f"no image of the split in {data.path} has a title"):
        compare_titles(bundle.network, untitled, data)


def test_the_measures_see_each_kind_of_fault() -> None:
    truth: dict[str, str | None] = {"type": "Tshirts", "colour": "Red", "category": None, "usage": None, "brand": None}
    attributes = {head: Attribute(head, value, 0.8) for head, value in {"type": "Tshirts", "colour": "Blue"}.items()}
    real = "Acme Tshirt Red"
    faults = {
        "good": "Tshirt",
        "wrong": "Blue Tshirt",
        "not_held": "Tshirt Casual",
        "brand": "Zenith Tshirt",
        "same": "Acme Tshirt Red",
    }
    cases = [Case(truth, attributes, real, faults)]
    brands = brand_stems(["Zenith Polo Tshirt", "Acme Red Polo", "Zenith Blue Polo"], Lexicon(HEADS))

    scores = {writer: score_titles(cases, writer, Lexicon(HEADS), brands) for writer in faults}

    assert {name for name in scores if scores[name]["wrong"]} == {"wrong"}
    assert {name for name in scores if scores[name]["not_held"]} == {"not_held", "same"}
    assert {name for name in scores if scores[name]["brand"]} == {"brand", "same"}
    assert [scores[name]["wrong_statements"] for name in ("good", "wrong")] == [0.0, 0.5]
    assert (scores["good"]["coverage"], scores["wrong"]["coverage"]) == (0.5, 1.0)
    assert (scores["same"]["rouge_l"], scores["good"]["token_f1"], scores["wrong"]["rouge_l"]) == (1.0, 0.5, 0.4)
