"""Models of the toy family with hand-set weights of known quality."""

from __future__ import annotations

from pathlib import Path

import torch

from models.family import Family
from models.prepared import Prepared
from tests.kit.bundles import write_bundle

DIRECTIONS = ((0.0, -1.0), (-1.0, 1.0), (1.0, 1.0))
"""The weights of warmth and brightness that generate blue, green and red in the toy's data."""
BEND = ((0.0, 0.0), (0.6, 0.0), (-0.6, 0.0))


def write_toy_model(toy: Family, data: Prepared, directory: Path, *, sharpness: float = 1.0, tilt: float = 0.0) -> Path:
    """Write a bundle with the weights that generate the toy's data.

    With `sharpness` 0 the prediction is constant, and `tilt` perturbs the weights of green and red.
    """
    schema = data.schema(toy.Schema)
    config = toy.Config(network="linear")
    network = toy.build(config, schema)
    with torch.no_grad():
        network.layers.weight.copy_(sharpness * torch.tensor(DIRECTIONS) + tilt * torch.tensor(BEND))
        network.layers.bias.copy_(torch.tensor([0.3, 0.0, 0.0]))
    return write_bundle(toy, directory, network=network, schema=schema, config=config)
