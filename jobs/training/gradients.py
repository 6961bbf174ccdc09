"""The gradients of a training step: forward, backward and clipping; on a GPU one CUDA graph where a network allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from jobs.training.optimizer import clip_gradients
from jobs.training.task import TrainingTask
from models.nn.precision import autocast_dtype

WARM_UP_STEPS = 3
"""Before a graph is captured, as libraries choose their algorithms in the first calls."""


class Gradients:
    """Computes clipped gradients kernel by kernel."""

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], task: TrainingTask) -> None:
        self.module, self._parameters = module, parameters
        self._device = torch.device(task.worker.device)
        self._dtype = autocast_dtype(task.config.precision, self._device)
        self._max_norm = task.config.max_grad_norm

    def __call__(self, batch: Any, *, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Set the gradients of `weight` times the loss of a batch; returns the loss and the norm before clipping."""
        self._clear()
        return self._compute(batch, weight)

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _compute(self, batch: Any, weight: float) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            loss = self.module(batch)
        (loss * weight if weight != 1 else loss).backward()
        return loss.detach(), clip_gradients(self._parameters, self._max_norm)


class GraphedGradients(Gradients):
    """Replays the kernels of a step as one CUDA graph: a small network's step takes longer to launch than to run.

    The graph is captured at the first batch. Batches of another shape, such as the last one, run kernel by kernel.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], task: TrainingTask) -> None:
        super().__init__(module, parameters, task)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Any = None
        self._answer: tuple[Tensor, Tensor] | None = None

    def __call__(self, batch: Any, *, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """See Gradients; the returned tensors are overwritten by the next call."""
        if self._graph is None:
            self._graph = self._captured(batch, weight)
        if _shapes(batch) != _shapes(self._batch):
            # Into the tensors that the graph writes too.
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.zero_()
            return self._compute(batch, weight)
        for name, tensor in _tensors(batch).items():
            getattr(self._batch, name).copy_(tensor, non_blocking=True)
        self._graph.replay()
        assert self._answer is not None
        return self._answer

    def _captured(self, batch: Any, weight: float) -> torch.cuda.CUDAGraph:
        # As if nothing had been drawn: the epoch of a resumed run then equals that of an uninterrupted one.
        state = torch.cuda.get_rng_state(self._device)
        self._batch = replace(batch, **{name: tensor.clone() for name, tensor in _tensors(batch).items()})
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._clear()
                self._compute(self._batch, weight)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        self._clear()  # so that the graph writes gradients instead of adding to them
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._answer = self._compute(self._batch, weight)
        torch.cuda.set_rng_state(state, self._device)
        return graph


def gradients_of(module: nn.Module, parameters: Sequence[Tensor], task: TrainingTask) -> Gradients:
    """As one graph on a GPU without other workers, if the network's `has_static_steps` says that this is right.

    True for networks whose step launches the same kernels for every batch of one shape, draws random numbers on the
    device only, and decides nothing in Python that may change from step to step.
    """
    is_static = getattr(module.network, "has_static_steps", False) if task.worker.world_size == 1 else False
    kind = GraphedGradients if is_static and torch.device(task.worker.device).type == "cuda" else Gradients
    return kind(module, parameters, task)


def _tensors(batch: Any) -> dict[str, Tensor]:
    return {each.name: value for each in fields(batch) if isinstance(value := getattr(batch, each.name), Tensor)}


def _shapes(batch: Any) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in _tensors(batch).items()}
