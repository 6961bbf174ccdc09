"""The gradients of a training step: forward, backward and clipping; on a GPU one CUDA graph where a network allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from jobs.training.optimizer import clip_gradients
from jobs.training.task import TrainingTask
from models.nn.precision import autocast_dtype

WARM_UP_STEPS = 3
"""Before a graph is captured, as libraries choose their algorithms in the first calls."""
MAX_GRAPHS = 4
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]


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


@dataclass(frozen=True)
class _Captured:
    """The step of batches of one shape, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Any
    answer: tuple[Tensor, Tensor]
    gradients: Sequence[Tensor | None]


class GraphedGradients(Gradients):
    """Replays the kernels of a step as one CUDA graph: a small network's step takes longer to launch than to run.

    A graph is captured at the first batch of a shape: those of an epoch differ by one example. After MAX_GRAPHS, other
    shapes run kernel by kernel.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], task: TrainingTask) -> None:
        super().__init__(module, parameters, task)
        self._captured: dict[Shapes, _Captured] = {}

    def __call__(self, batch: Any, *, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """See Gradients; the returned tensors are overwritten by a later call."""
        shapes = _shapes(batch)
        if shapes not in self._captured and len(self._captured) == MAX_GRAPHS:
            return super().__call__(batch, weight=weight)
        if shapes not in self._captured:
            self._captured[shapes] = self._capture(batch, weight)
        captured = self._captured[shapes]
        for name, tensor in _tensors(batch).items():
            getattr(captured.batch, name).copy_(tensor, non_blocking=True)
        captured.graph.replay()
        for parameter, gradient in zip(self._parameters, captured.gradients, strict=True):
            parameter.grad = gradient
        return captured.answer

    def _capture(self, batch: Any, weight: float) -> _Captured:
        # As if nothing had been drawn: the epoch of a resumed run then equals that of an uninterrupted one.
        state = torch.cuda.get_rng_state(self._device)
        copied = replace(batch, **{name: tensor.clone() for name, tensor in _tensors(batch).items()})
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._clear()
                self._compute(copied, weight)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        self._clear()  # so that the graph writes gradients instead of adding to them
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = self._compute(copied, weight)
        torch.cuda.set_rng_state(state, self._device)
        return _Captured(graph, copied, answer, [parameter.grad for parameter in self._parameters])


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


def _shapes(batch: Any) -> Shapes:
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in _tensors(batch).items())
