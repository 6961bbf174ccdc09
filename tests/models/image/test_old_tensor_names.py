"""Checkpoints of 0.1.0, whose networks had other tensor names, resume exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from jobs.training import checkpoints
from models.image.config import Config
from models.image.data import Batch
from models.image.networks.build import Network, build, optimizer
from models.image.text.titles import Form
from tests.models.image.test_networks import HEADS, patterned, schema_of

OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "autoencoder": {"linear_probe.": "reader."},
    "gan": {"ema_generator.": "average.", "feature_extractor.": "reader.", "student.": "pupil."},
    "cnn": {
        "title_generator.initial_state.": "writer.picture.",
        "title_generator.embedding.": "writer.phrases.",
        "title_generator.gru.": "writer.states.",
        "title_generator.output.": "writer.scores.",
    },
}
"""Network -> prefix of its tensors now -> prefix in 0.1.0."""


def started(name: str) -> tuple[Network, Optimizer]:
    """A network with titles where it can use them, and its optimizer."""
    torch.manual_seed(0)
    forms = [Form(text=value, names=(("colour", value),)) for value in HEADS["colour"]]
    config = Config(network=name, latent=8, width=0.25, precision="fp32")
    network = build(config, schema_of(patterned(64, seed=1), forms=forms)).train()
    return network, optimizer(network) or torch.optim.AdamW(network.parameters(), lr=1e-3)


def batch_of(seed: int) -> Batch:
    images = patterned(16, seed=seed)
    return Batch(images.pixels, images.labels, titles=torch.tensor([[1, 2, 0]] * 16))


def step(network: nn.Module, optimizer: Optimizer, *, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    network(batch_of(seed)).backward()
    optimizer.step()


def in_old_names(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, value in state.items():
        new = next((new for new in names if name.startswith(new)), None)
        found[name if new is None else names[new] + name.removeprefix(new)] = value.contiguous()
    return found


@pytest.mark.parametrize("name", OLD_NAMES)
def test_a_checkpoint_with_the_tensor_names_of_0_1_0_resumes_exactly(name: str, tmp_path: Path) -> None:
    network, optimizer = started(name)
    step(network, optimizer, seed=2)
    old = in_old_names(network.state_dict(), OLD_NAMES[name])
    assert all(any(key.startswith(prefix) for key in old) for prefix in OLD_NAMES[name].values())
    directory = checkpoints.path_of(tmp_path, 1)
    directory.mkdir(parents=True)
    save_file(old, directory / checkpoints.MODEL)
    save_file(checkpoints._flatten(optimizer), directory / checkpoints.OPTIMIZER)

    resumed, its_optimizer = started(name)
    checkpoints.load(tmp_path, 1, resumed, its_optimizer)
    for one, other in ((network, optimizer), (resumed, its_optimizer)):
        step(one, other, seed=3)

    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())
