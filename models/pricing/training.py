"""Trains one demand network on a design in this process: what tests, ensembles and benchmarks need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.pricing.design import Design
from models.pricing.networks.monotone import DemandBatch, MonotoneDemand
from models.pricing.panel import Floats, Ints

BLOCK = 16_384


@dataclass(frozen=True)
class TrainingSettings:
    """How a demand network is trained."""

    epochs: int = 5
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    hidden: int = 96
    dropout: float = 0.2
    counts: bool = False
    wrong_sign: float = 0.0
    seed: int = 0


def batch_of(design: Design, rows: Ints, *, dtype: torch.dtype = torch.float32) -> DemandBatch:
    """The rows of a design as tensors."""

    def tensor(values: Floats) -> torch.Tensor:
        return torch.from_numpy(values[rows]).to(dtype)

    return DemandBatch(
        product=torch.from_numpy(design.product[rows]),
        store=torch.from_numpy(design.store[rows]),
        level=tensor(design.level),
        own=tensor(design.own),
        rivals=tensor(design.rivals),
        has_rival=torch.from_numpy(design.has_rival[rows]),
        context=tensor(design.context),
        units=tensor(design.units),
        log_units=tensor(design.log_units),
        censored=torch.from_numpy(design.censored[rows]),
    )


def network_for(design: Design, settings: TrainingSettings) -> MonotoneDemand:
    """An untrained network of the design's shape, scaled by all of its rows."""
    network = MonotoneDemand(
        num_products=design.num_products,
        num_stores=design.num_stores,
        num_rivals=design.rivals.shape[1],
        num_context=design.context.shape[1],
        hidden=settings.hidden,
        dropout=settings.dropout,
        counts=settings.counts,
    )
    std = design.context.std(0)
    network.set_scale(
        torch.from_numpy(design.context.mean(0)).float(),
        torch.from_numpy(np.where(std > 1e-9, std, 1.0)).float(),
    )
    return network


@dataclass(frozen=True)
class NetworkDemand:
    """A trained network as a model of demand."""

    network: MonotoneDemand

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        return log_demand(self.network, design)


def fit_network(design: Design, settings: TrainingSettings, *, weights: Floats | None = None) -> NetworkDemand:
    """A network trained on all rows; with `weights` [N], whole numbers, on each row so often."""
    if weights is not None:
        design = design.rows(np.repeat(np.arange(len(weights)), weights.astype(np.int64)))
    return NetworkDemand(train_network(design, settings))


def train_network(design: Design, settings: TrainingSettings) -> MonotoneDemand:
    """A network trained on all rows of the design, with AdamW and one cycle of the learning rate."""
    torch.manual_seed(settings.seed)
    draw = np.random.default_rng(settings.seed)
    network = network_for(design, settings)
    decayed = [one for name, one in network.named_parameters() if "slopes" not in name and "bias" not in name]
    kept = [one for name, one in network.named_parameters() if "slopes" in name or "bias" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )
    num_rows = len(design.product)
    steps_an_epoch = -(-num_rows // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps_an_epoch
    )
    network.train()
    for _ in range(settings.epochs):
        for rows in np.array_split(draw.permutation(num_rows), steps_an_epoch):
            optimizer.zero_grad()
            network.loss(batch_of(design, rows), wrong_sign=settings.wrong_sign).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def log_demand(network: MonotoneDemand, design: Design) -> Floats:
    """Log of expected units of every row [N]."""
    weight = network.store.weight
    with torch.inference_mode():
        blocks = np.array_split(np.arange(len(design.product)), -(-len(design.product) // BLOCK))
        batches = (batch_of(design, rows, dtype=weight.dtype).to(weight.device) for rows in blocks)
        return np.concatenate([network(batch).double().cpu().numpy() for batch in batches])
