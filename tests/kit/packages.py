"""Third-party packages, installed into a folder like pip does: modules and their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NETWORKS = '''
import torch
from torch import nn

from models.recommender.networks.next_item import NextItem


class LastTwo(nn.Module):
    """The hidden state of a place is made of its event and the one before it."""

    def __init__(self, dim):
        super().__init__()
        self.mix = nn.Linear(2 * dim, dim)

    def forward(self, x_BLD, segments_BL):
        same = (segments_BL[:, 1:] == segments_BL[:, :-1])[..., None]
        before = torch.cat([torch.zeros_like(x_BLD[:, :1]), x_BLD[:, :-1] * same], 1)
        return x_BLD + self.mix(torch.cat([x_BLD, before], 2))

    def last(self, x_BLD, lengths_B):
        states = self(x_BLD, torch.zeros(x_BLD.shape[:2]))
        return states[torch.arange(len(states)), (lengths_B - 1).clamp_min(0)]


class Spots(nn.Module):
    """Averages of a picture's quarters and a layer over them."""

    def __init__(self, channels):
        super().__init__()
        self.dim = 16
        layer = nn.Linear(16 * channels, self.dim)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), layer, nn.ReLU())

    def forward(self, pictures):
        return self.layers(pictures)


def build_mine(config, schema):
    return NextItem(config, schema, LastTwo(config.dim))


def build_spots(config, schema):
    return Spots(schema.channels)


def build_text(config, schema):
    return "a network"
'''
"""A module with a learner for the recommender and a trunk for the image family."""


def install(folder: Path, name: str, *, groups: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> None:
    """Install version 1.2 of a package: `groups` are its entry points, `modules` file name -> source."""
    metadata = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items()), "")
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for file, source in modules.items():
        (folder / file).write_text(source)
