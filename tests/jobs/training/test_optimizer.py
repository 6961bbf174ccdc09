"""The default optimizer: equal to torch's AdamW on dense parameters, lazy on rows of embedding tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jobs.training.distributed import WorkerContext, wrap_ddp
from jobs.training.optimizer import BETAS, clip_gradients, make_optimizer
from models.config import TrainConfig
from tests.kit.gloo import run_workers
from tests.kit.register import TOY

CONFIG = TrainConfig(learning_rate=0.1, weight_decay=0.5)


class Table(nn.Module):
    """An embedding table, looked up twice, and a dense layer."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(50, 4, padding_idx=0, sparse=sparse)
        self.table.weight.data = torch.randn(50, 4, generator=generator)
        self.dense = nn.Linear(4, 4)
        self.dense.weight.data = torch.randn(4, 4, generator=generator)
        self.dense.bias.data = torch.zeros(4)

    def forward(self, items: Tensor) -> Tensor:
        loss: Tensor = (self.dense(self.table(items)) * self.table(items.flip(0))).square().mean()
        return loss


def trained(network: Table, batches: list[Tensor]) -> tuple[Table, list[float]]:
    optimizer, norms = make_optimizer(TOY, network, CONFIG), []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        network(batch).backward()
        norms.append(float(clip_gradients(list(network.parameters()), 0.5)))
        optimizer.step()
    return network, norms


def test_a_table_whose_rows_are_all_used_is_updated_like_torch_does() -> None:
    batches = [torch.randperm(49, generator=torch.Generator().manual_seed(step)) + 1 for step in range(5)]
    theirs = Table(sparse=False)
    groups = [{"params": [theirs.dense.weight], "weight_decay": 0.5}]
    groups += [{"params": [theirs.table.weight, theirs.dense.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=BETAS)
    for batch in batches:
        optimizer.zero_grad()
        theirs(batch).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()

    for sparse in (False, True):
        ours, _ = trained(Table(sparse=sparse), batches)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_rows_that_a_step_does_not_use_are_unchanged() -> None:
    before = Table(sparse=True).table.weight.detach().clone()

    network, norms = trained(Table(sparse=True), [torch.tensor([1, 2, 2]), torch.tensor([3, 4, 0])])

    changed = (network.table.weight != before).any(1).nonzero().flatten().tolist()
    assert changed == [1, 2, 3, 4]
    assert norms == pytest.approx(trained(Table(sparse=False), [torch.tensor([1, 2, 2]), torch.tensor([3, 4, 0])])[1])


def test_a_resumed_optimizer_equals_an_uninterrupted_one() -> None:
    batches = [torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]), torch.tensor([1, 4, 5])]
    whole, _ = trained(Table(sparse=True), batches)
    network = Table(sparse=True)
    optimizer = make_optimizer(TOY, network, CONFIG)
    for step, batch in enumerate(batches):
        if step == 2:
            state, optimizer = optimizer.state_dict(), make_optimizer(TOY, network, CONFIG)
            optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
        network(batch).backward()
        clip_gradients(list(network.parameters()), 0.5)
        optimizer.step()

    assert torch.equal(network.table.weight, whole.table.weight)


def test_two_workers_update_the_rows_that_either_of_them_used(tmp_path: Path) -> None:
    run_workers(work, 2, tmp_path)

    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    before = Table(sparse=True).table.weight.detach()
    assert torch.equal(found[0], found[1])
    assert (found[0] != before).any(1).nonzero().flatten().tolist() == [1, 2, 3, 7, 8]


def work(rank: int, world_size: int, directory: Path) -> None:
    """Two steps of one of two workers with different batches."""
    network = Table(sparse=True)
    module = wrap_ddp(network, WorkerContext(rank=rank, world_size=world_size))
    optimizer = make_optimizer(TOY, network, CONFIG)
    for batch in (torch.tensor([[1, 2], [7, 7]])[rank], torch.tensor([[2, 3], [8, 7]])[rank]):
        optimizer.zero_grad(set_to_none=True)
        module(batch).backward()
        clip_gradients(list(network.parameters()), 0.5)
        optimizer.step()
    torch.save(network.table.weight.detach(), directory / f"{rank}.pt")
