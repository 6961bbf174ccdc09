"""The training configuration of the pricing family, its baselines, and the search space of its sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, GradNorm, LogUniform, Range, TrainConfig
from models.settings import Share

Members = Annotated[int, Field(ge=1, le=32)]
Refits = Annotated[int, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Config(TrainConfig):
    """How to train demand at any price."""

    network: Literal["monotone", "loglog", "tree", "usual"] = "monotone"
    """Network: monotone is an ensemble of networks whose demand never rises with the own price; the others are
    baselines: shrunk log-log demand, monotone boosted trees (tree), and the usual units at any price (usual)."""
    members: Members = 4
    """Networks, or refits of a baseline, that are trained on bootstrap samples of blocks of periods: members of even
    number on the even blocks, the others on the odd ones."""
    evaluators: Refits = 10
    """Refits of another class of model on each half of the periods, which estimate claimed gains again; 10 or more, or
    0 for none: then no price is recommended."""
    epochs: PositiveInt = 5
    """Maximum number of epochs."""
    batch_size: PositiveInt = 512
    """Rows of sales per optimizer step, over all workers."""
    learning_rate: PositiveFloat = 3e-3
    """Peak learning rate, reached after the warm-up and followed by cosine decay to a hundredth of it."""
    weight_decay: NonNegativeFloat = 0.05
    """AdamW's weight decay, for matrices only, not for vectors, biases and embeddings."""
    max_grad_norm: GradNorm = 2.5
    """Gradient clipping: the largest norm of the gradients."""
    patience: NonNegativeInt = 0
    """Early stopping: stop after this many epochs in a row without a better validation score; 0 never stops early."""
    head: Literal["auto", "log", "count"] = "auto"
    """What is learnt of units: log is their logarithm, count a negative binomial distribution, for slow movers; auto is
    count where units are whole numbers and the median is below 5."""
    hidden: PositiveInt = 96
    """Width of the hidden layers."""
    dropout: Share = 0.2
    """Dropout."""
    trees: PositiveInt = 200
    """Boosted trees of a model, also of those that the network is blended with."""
    blend: bool = True
    """Whether the network is blended with monotone trees of the same periods, with the weight that validation
    chooses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.evaluators < MIN_EVALUATORS:
            raise ValueError(
                f"--evaluators is {self.evaluators}; an interval needs {MIN_EVALUATORS} or more, and 0 is none"
            )


MIN_EVALUATORS = 10
SLOW = 5.0
"""Median units of a row below which auto takes the count head."""
SPACE: dict[str, Range] = {
    "learning_rate": LogUniform(3e-4, 4e-3),
    "hidden": Choice((48, 96, 192)),
    "dropout": Choice((0.0, 0.1, 0.2)),
}
BASELINES = {
    "usual": Config(network="usual", members=1, evaluators=0),
    "log-log": Config(network="loglog", members=1, evaluators=0),
    "tree": Config(network="tree", members=1, evaluators=0),
}
"""Usual is the trivial one: the usual units, whatever the price."""
_LEARNT = (
    "epochs",
    "batch_size",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
    "max_grad_norm",
    "patience",
    "head",
    "hidden",
    "dropout",
    "blend",
)
UNUSED_SETTINGS: dict[str, tuple[str, ...]] = {
    "loglog": _LEARNT,
    "tree": _LEARNT,
    "usual": (*_LEARNT, "trees"),
}
"""Network -> settings that have no effect on it."""
