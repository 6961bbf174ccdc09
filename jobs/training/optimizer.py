"""The default optimizer: AdamW with lazy updates of embedding rows, and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from models.family import Family

BETAS = (0.9, 0.98)


class RowwiseAdamW(AdamW):
    """AdamW that updates only the rows present in a sparse gradient, moments included.

    For a table of a million rows of which a step touches ten thousand, the untouched rows would cost most of the time.
    Their moments do not decay meanwhile, as in TensorFlow's LazyAdam and torch's SparseAdam.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; clears sparse gradients, so that they are not applied twice."""
        assert closure is None, "the loop computes the loss"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    assert not group["weight_decay"], "rows that are skipped cannot decay"
                    self._update_rows(parameter, group["lr"], group["betas"], group["eps"])
                    parameter.grad = None
        return super().step()

    def _update_rows(self, table: Tensor, rate: float, betas: tuple[float, float], epsilon: float) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        assert table.grad is not None
        gradient = table.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state["step"] += 1
        num_steps = float(state["step"])
        mean = state["exp_avg"][rows].lerp_(values, 1 - betas[0])
        square = state["exp_avg_sq"][rows].lerp_(values.square(), 1 - betas[1])
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        deviation = (square / (1 - betas[1] ** num_steps)).sqrt_().add_(epsilon)
        table.index_add_(0, rows, mean.div_(deviation), alpha=-rate / (1 - betas[0] ** num_steps))


def make_optimizer(family: Family, network: nn.Module, config: Any) -> Optimizer:
    """The family's own optimizer, or AdamW with weight decay on matrices only, not on vectors, biases or embeddings."""
    chosen = None if family.optimizer is None else family.optimizer(network)
    if chosen is not None:
        return chosen
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1 and id(parameter) not in tables]
    others = [parameter for parameter in trained if parameter.ndim <= 1 or id(parameter) in tables]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return RowwiseAdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=BETAS, fused=True
    )


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Clip the total gradient norm to `max_norm` and return it unclipped; like torch, but for sparse gradients too."""
    sparse: list[Tensor] = []
    dense: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            sparse.append(parameter.grad.values())
        elif parameter.grad is not None:
            dense.append(parameter)
    norm = nn.utils.get_total_norm([*sparse, *(parameter.grad for parameter in dense if parameter.grad is not None)])
    nn.utils.clip_grads_with_norm_(dense, max_norm, norm)
    scale = (max_norm / (norm + 1e-6)).clamp_max(1.0)
    for gradient in sparse:
        gradient.mul_(scale)
    return norm
