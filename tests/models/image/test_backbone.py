"""Backbones: valid weights files, frozen parameters, and a bundle that does not need the file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models import bundle
from models.image import FAMILY
from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks.backbone import LAYERS, MEAN, Backbone
from models.image.networks.build import build, initialise
from models.image.networks.classifier import Classifier
from models.image.schema import Schema
from models.prepared import Prepared
from tests.kit.bundles import write_bundle
from tests.kit.pictures import TABLE_FLAGS, prepared, table

SIZE = 32


def outline(architecture: str = "resnet18") -> Backbone:
    """A network without weights, quick to make."""
    with torch.device("meta"):
        return Backbone(architecture, size=SIZE)


def named_alike(architecture: str) -> dict[str, Tensor]:
    """The right names, and next to nothing in them."""
    return {name: torch.zeros(1) for name in outline(architecture).state_dict() if name != "sha256"}


def write(directory: Path, weights: Mapping[str, Tensor]) -> Path:
    path = directory / "weights.safetensors"
    save_file(dict(weights), path)
    return path


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights as torchvision would store them, with the classes of ImageNet."""
    torch.manual_seed(0)
    own = {name: value for name, value in Backbone("resnet18", size=SIZE).state_dict().items() if name != "sha256"}
    return own | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Tensor]) -> Path:
    return write(tmp_path_factory.mktemp("weights"), weights)


@pytest.fixture(scope="module")
def prepared_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Schema]:
    directory = tmp_path_factory.mktemp("backbone")
    pq.write_table(table(), directory / "t.parquet")
    return prepared(directory, directory / "t.parquet", size=SIZE, **TABLE_FLAGS)


def images_of(data: Prepared, schema: Schema) -> Batch:
    examples = dataset(data, "train", range(schema.num_shards), schema=schema, config=None, epoch=0)
    return collate([examples[row] for row in range(16)])


def state(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("architecture", "num_parameters"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_each_architecture_has_the_published_number_of_parameters(architecture: str, num_parameters: int) -> None:
    network = outline(architecture)

    classes = 1000 * network.dim + 1000
    assert sum(each.numel() for each in network.parameters()) + classes == num_parameters


def test_the_weights_are_those_of_the_file(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    older = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    network = Backbone("resnet18", size=SIZE)
    path = write(tmp_path, older)

    network.read(path)

    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in older.items() if not name.startswith("fc."))
    assert network.origin == hashlib.sha256(path.read_bytes()).hexdigest()
    assert network(torch.rand(2, 3, SIZE, SIZE)).shape == (2, 512)


def test_only_the_heads_learn(file: Path, prepared_data: tuple[Prepared, Schema]) -> None:
    data, schema = prepared_data
    network = build(Config(network="backbone", backbone=str(file), flip=False, shift=0), schema)
    initialise(network, data, schema)
    before, batch = state(network.train()), images_of(data, schema)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)

    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = network(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias", "steps"}
    assert losses[-1] < losses[0] - 0.03


def test_the_bundle_holds_the_weights_and_says_where_they_are_from(
    tmp_path: Path, weights: dict[str, Tensor], prepared_data: tuple[Prepared, Schema]
) -> None:
    data, schema = prepared_data
    path = write(tmp_path, weights)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config = Config(network="backbone", backbone=str(path))
    network = build(config, schema)
    initialise(network, data, schema)
    parts = {"network": network.eval(), "schema": schema, "config": config}
    directory = write_bundle(FAMILY, tmp_path / "bundle", **parts)
    path.unlink()

    loaded = bundle.load(directory, FAMILY).network

    batch = images_of(data, schema)
    assert isinstance(loaded, Classifier) and isinstance(loaded.trunk, Backbone)
    assert loaded.trunk.origin == digest
    assert loaded.predict(batch) == network.predict(batch)
    assert torch.equal(loaded.mean.flatten(), torch.tensor(MEAN))


def test_a_backbone_accepts_grey_images(prepared_data: tuple[Prepared, Schema]) -> None:
    _, schema = prepared_data
    grey = schema.model_copy(update={"channels": 1, "mean": [0.5], "std": [0.5]})
    network = build(Config(network="backbone", backbone="x.safetensors"), grey).eval()

    batch = Batch(torch.randint(0, 256, (2, 1, SIZE, SIZE), dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64))

    assert len(network.predict(batch)) == 2


def test_a_missing_file_or_one_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    network = outline()
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")

    with pytest.raises(ValueError, match="does not exist; give the path"):
        network.read(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        network.read(tmp_path / "weights.pth")


def test_the_first_names_that_differ_are_named(tmp_path: Path) -> None:
    named = {name.replace("bn1", "norm1") if name.startswith("bn1") else name for name in named_alike("resnet18")}

    with pytest.raises(ValueError) as caught:
        outline().read(write(tmp_path, {name: torch.zeros(1) for name in named}))

    assert "missing bn1.weight, bn1.bias, bn1.running_mean and 1 more" in str(caught.value)
    assert "unexpected norm1.bias, norm1.running_mean, norm1.running_var and 1 more" in str(caught.value)


@pytest.mark.parametrize("other", sorted(set(LAYERS) - {"resnet18"}))
def test_another_architecture_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(ValueError, match=r"is no resnet18.*--architecture"):
        outline().read(write(tmp_path, named_alike(other)))


@pytest.mark.parametrize("wrong", [torch.zeros(64, 3, 3, 3), torch.zeros(64, 3, 7, 7, dtype=torch.int32)])
def test_a_tensor_of_another_shape_or_kind_is_named(tmp_path: Path, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"conv1.weight is .* but a resnet18 expects .* of shape \[64, 3, 7, 7\]"):
        outline().read(write(tmp_path, {**named_alike("resnet18"), "conv1.weight": wrong}))


@pytest.mark.parametrize(
    ("network", "path"), [("backbone", ""), ("resnet", "w.safetensors"), ("autoencoder", "w.safetensors")]
)
def test_the_network_and_the_file_are_given_together(
    prepared_data: tuple[Prepared, Schema], network: str, path: str
) -> None:
    with pytest.raises(ValueError, match="takes both --network backbone and --backbone PATH"):
        build(Config(network=network, backbone=path), prepared_data[1])


def test_images_too_small_for_a_backbone_are_refused() -> None:
    with pytest.raises(ValueError, match="side 28 are too small for a backbone"):
        Backbone("resnet18", size=28)
