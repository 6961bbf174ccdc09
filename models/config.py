"""Training configuration common to all families, and the ranges that a sweep searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from models.settings import Share, check_settings

GradNorm = Annotated[PositiveFloat, Field(allow_inf_nan=True)]
"""A largest norm of the gradients; infinity does not clip."""


@dataclass(frozen=True)
class LogUniform:
    """A range of a sweep, sampled uniformly on a logarithmic scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """A range of a sweep, sampled uniformly on a linear scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """The options of a sweep's dimension."""

    options: tuple[Any, ...]


Range = LogUniform | Uniform | Choice


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop; each family's `Config` adds its own fields.

    Raises ValueError, which names the flag, for a value that its type does not allow.
    """

    seed: NonNegativeInt = 0
    """Random seed; the same seed, data and versions give the same run."""
    epochs: PositiveInt = 10
    """Maximum number of epochs."""
    batch_size: PositiveInt = 64
    """Training examples per optimizer step, over all workers."""
    learning_rate: PositiveFloat = 3e-3
    """Peak learning rate, reached after the warm-up and followed by cosine decay to a hundredth of it."""
    warmup_fraction: Share = 0.1
    """Share of all steps over which the learning rate warms up from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's weight decay, for matrices only, not for vectors, biases and embeddings."""
    max_grad_norm: GradNorm = 1.0
    """Gradient clipping: the largest norm of the gradients."""
    patience: NonNegativeInt = 3
    """Early stopping: stop after this many epochs in a row without a better validation score; 0 never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forward and backward pass; auto is bf16 where the hardware supports it natively."""

    def __post_init__(self) -> None:
        check_settings(self)
