"""Muon: steps of equal size in every direction of a filter or matrix, with AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTUM = 0.6
BETAS = (0.9, 0.98)
EPSILON = 1e-8
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 4


class Muon(Optimizer):
    """Trains `filters` by orthogonalised momentum and keeps their norm fixed; `others` by Adam without decay.

    After "Muon: an optimizer for hidden layers" (Jordan et al., 2024), as airbench uses it: a normalisation follows
    every filter, so its norm is set to the root of its number of rows before each step, and the rate is the relative
    size of a step. `filter_rate_scale` is the filters' rate relative to the learning rate of the training loop.
    """

    def __init__(
        self,
        filters: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        filter_rate_scale: float,
    ) -> None:
        groups = [
            {"params": list(filters), "orthogonal": True, "rate_scale": filter_rate_scale},
            {"params": list(others), "orthogonal": False},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            update = _step_filter if group["orthogonal"] else _step_other
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, self.state[parameter], group["lr"])


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix [N, M] with singular values of about one, by Newton-Schulz iterations in bf16."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrix.bfloat16()
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = x.T if transposed else x
    return x.to(matrix.dtype)


def _step_filter(parameter: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
    momentum = state.setdefault("momentum", torch.zeros_like(parameter))
    momentum.mul_(MOMENTUM).add_(gradient)
    direction = orthogonalised(gradient.add(momentum, alpha=MOMENTUM).flatten(1))
    parameter.mul_(len(parameter) ** 0.5 / (parameter.norm() + 1e-7))
    parameter.sub_(direction.view_as(parameter), alpha=rate)


def _step_other(parameter: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
    mean = state.setdefault("mean", torch.zeros_like(parameter))
    square = state.setdefault("square", torch.zeros_like(parameter))
    # On the CPU: load_state_dict moves it to the parameter's device, and reading it there would wait for all kernels.
    steps = state["steps"] = state.setdefault("steps", torch.zeros(())).cpu() + 1
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient.square(), 1 - BETAS[1])
    count = steps.item()
    size = (square / (1 - BETAS[1] ** count)).sqrt_().add_(EPSILON)
    parameter.addcdiv_(mean, size, value=-rate / (1 - BETAS[0] ** count))
