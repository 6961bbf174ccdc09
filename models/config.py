"""How a network is trained, and the ranges that a sweep searches; each family's Config adds its own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from models.settings import Share, check_settings


@dataclass(frozen=True)
class LogUniform:
    """A range of a sweep, even on a logarithmic scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """A range of a sweep, even on a linear scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """The options of a sweep's dimension."""

    options: tuple[Any, ...]


Range = LogUniform | Uniform | Choice


@dataclass(frozen=True)
class TrainConfig:
    """What the one training loop needs of every family; a family's `Config` adds its own fields.

    Raises ValueError, which names the flag, for a value that its type does not allow.
    """

    seed: NonNegativeInt = 0
    """Seed of every random number; the same seed, data and versions give the same run."""
    epochs: PositiveInt = 10
    """Passes over the training split at the most."""
    batch_size: PositiveInt = 64
    """Training examples in one optimiser step, over all workers together."""
    learning_rate: PositiveFloat = 3e-3
    """Highest learning rate, reached after the warm-up, then lowered along a cosine to a hundredth of it."""
    warmup_fraction: Share = 0.1
    """Share of all steps in which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decay of matrices; vectors, biases and embeddings are not decayed."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    patience: NonNegativeInt = 3
    """Stop after this many epochs in a row without a better validation score; 0 never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; auto is bf16 where the processor multiplies it natively."""

    def __post_init__(self) -> None:
        check_settings(self)
