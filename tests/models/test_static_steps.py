"""Steps that a GPU may run without the host: nothing in them asks for the value of a tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from jobs.cli.context import Store
from models import FAMILIES
from models.prepared import Prepared
from models.recommender.sample import write_sample
from tests.kit.logs import prepared as prepared_log
from tests.kit.pictures import prepared as prepared_pictures
from tests.kit.pictures import write_folder

PICTURES: dict[str, Any] = {"width": 0.25, "shift": 0, "mixup": 0.0}
"""On a processor, shifts select images by value, and mixup draws its share on the host of a GPU too."""
LOG: dict[str, Any] = {"dim": 16, "max_length": 20, "dropout": 0.0}
"""On a processor, dropout cuts its masks from a pool at a place that it draws."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    shop = write_sample(tmp_path_factory.mktemp("shop"), num_users=100, num_items=60, num_events=3_000, seed=3)
    store = Store(tmp_path_factory.mktemp("store"))
    log = prepared_log(store, shop.events, items=str(shop.items), split="leave-one-out")
    root = tmp_path_factory.mktemp("pictures")
    pictures, _ = prepared_pictures(root, write_folder(root / "raw", num_images=60), size=20)
    return {"recommender": log, "image": pictures}


def step(family_name: str, data: Prepared, fields: dict[str, Any]) -> None:
    """A loss and its gradients, of tensors without values."""
    family = FAMILIES[family_name]
    schema = data.schema(family.Schema, family.files)
    config = family.resolve(family.Config(**{"precision": "fp32", **fields}), schema)
    network = family.build(config, schema).train()
    examples = family.dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
    batch = family.collate([examples[row] for row in range(4)])
    family.loss(network, batch)  # the first step of an epoch may ask how many there were
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {
            name: mode.from_tensor(value) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
        }
        torch.autograd.backward(family.loss(network, type(batch)(**{**vars(batch), **fakes})))


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("recommender", {"network": "transformer", **LOG}),
        ("recommender", {"network": "two_tower", **LOG}),
        ("image", {"network": "resnet", **PICTURES}),
        ("image", {"network": "cnn", **PICTURES}),
        ("image", {"network": "autoencoder"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["network"],
)
def test_a_step_asks_for_no_value(family: str, fields: dict[str, Any], data: dict[str, Prepared]) -> None:
    step(family, data[family], fields)


@pytest.mark.parametrize("network", ["gru", "autoencoder", "gan"])
def test_these_networks_still_do(network: str, data: dict[str, Prepared]) -> None:
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        step("recommender", data["recommender"], {"network": network, **LOG})


@pytest.mark.parametrize(
    ("fields", "is_static"),
    [
        ({"network": "transformer"}, True),
        ({"network": "two_tower"}, True),
        ({"network": "transformer", "loss": "sampled"}, False),
        ({"network": "gru"}, False),
        ({"network": "autoencoder"}, False),
        ({"network": "gan"}, False),
        ({"network": "popularity"}, False),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_only_such_networks_become_graphs(fields: dict[str, Any], is_static: bool, data: dict[str, Prepared]) -> None:
    family = FAMILIES["recommender"]
    schema = data["recommender"].schema(family.Schema, family.files)
    config = family.resolve(family.Config(**{**LOG, **fields}), schema)

    assert family.build(config, schema).has_static_steps is is_static
