"""The tutorials' training under measurement: the same network in plain torch, fp32, a DataLoader of single pictures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import protocol


class Pictures(Dataset[tuple[Tensor, int]]):
    """Single pictures, scaled to -1 .. 1 one by one, as the tutorials' transforms do."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._pixels, self._labels = pixels, labels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = torch.from_numpy(self._pixels[index]).float().div(255)
        return (picture - 0.5) / 0.5, int(self._labels[index])


def main() -> None:
    """Train an epoch for each request, after one to warm up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.kit.measure.export_pictures wrote")
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with np.load(arguments.data) as stored:
        dataset = Pictures(stored["train_pixels"], stored["train_labels"])
    torch.manual_seed(0)
    network = tutorial_network(*dataset[0][0].shape[:2], num_classes=int(dataset._labels.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters())
    loader = DataLoader(dataset, batch_size=arguments.batch_size, shuffle=True)
    train(network, loader, optimizer)
    protocol.say({"versions": protocol.versions("torch", "numpy")})
    for _ in protocol.asked():
        started = protocol.start()
        loss = train(network, loader, optimizer)
        protocol.say({**started.so_far(), "targets": len(dataset), "steps": len(loader), "loss": loss})


def tutorial_network(channels: int, size: int, *, num_classes: int) -> nn.Sequential:
    """Conv32, pool, Conv64, pool, Conv64, Dense64, scores."""
    side = ((size - 2) // 2 - 2) // 2 - 2
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * side**2, 64), nn.ReLU(), nn.Linear(64, num_classes)),
    )


def train(network: nn.Module, loader: DataLoader[tuple[Tensor, int]], optimizer: torch.optim.Optimizer) -> float:
    """One epoch; its mean loss."""
    total = 0.0
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(pictures), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


if __name__ == "__main__":
    main()
