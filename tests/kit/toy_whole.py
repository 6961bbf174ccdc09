"""The toy family followed by metrics of the whole, which are no ratio: macro F1 and a root mean squared error."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.metrics import f1_score
from torch import Tensor

from models.metrics import BatchMetrics, Kept, Metric
from tests.kit import toy


def macro_f1(kept: Kept) -> float:
    """Mean of F1 over the colours; one that nobody picked and that is never guessed counts 0."""
    return float(f1_score(kept["picked"], kept["guessed"], labels=range(3), average="macro", zero_division=0))


def rmse(kept: Kept) -> float:
    """Root of the mean squared error; NaN without examples."""
    error = kept["error"]
    return float(np.sqrt(np.square(error).mean())) if len(error) else float("nan")


def evaluate(network: toy.Network, batch: Tensor) -> BatchMetrics:
    """What the toy scores, and what is kept of each visitor."""
    logits, picked = network.logits(batch), batch[:, 2].long()
    chance = logits.softmax(1).gather(1, picked[:, None]).squeeze(1)
    kept = {"picked": picked, "guessed": logits.argmax(1), "error": 1 - chance}
    return dataclasses.replace(network.evaluate(batch), kept=kept)


MACRO_F1 = Metric("macro_f1", "max", "Macro F1", "Mean of F1 over the colours.", compute=macro_f1)
RMSE = Metric("rmse", "min", "RMSE", "How far the probability of the colour picked is from 1.", compute=rmse)
BY_MACRO_F1 = dataclasses.replace(toy.FAMILY, metric=MACRO_F1, metrics=[RMSE, toy.FAMILY.metric], evaluate=evaluate)
BY_RMSE = dataclasses.replace(toy.FAMILY, metric=RMSE, metrics=[MACRO_F1, toy.FAMILY.metric], evaluate=evaluate)
