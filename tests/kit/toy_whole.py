"""The toy family with metrics of a whole split that are not ratios: macro F1 and RMSE."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.metrics import f1_score
from torch import Tensor

from models.metrics import BatchMetrics, Kept, Metric
from tests.kit import toy


def macro_f1(kept: Kept) -> float:
    """Mean F1 over the colours; 0 for one that is neither picked nor predicted."""
    return float(f1_score(kept["picked"], kept["predicted"], labels=range(3), average="macro", zero_division=0))


def rmse(kept: Kept) -> float:
    """Root of the mean squared error; NaN without examples."""
    error = kept["error"]
    return float(np.sqrt(np.square(error).mean())) if len(error) else float("nan")


def evaluate(network: toy.Network, batch: Tensor) -> BatchMetrics:
    """The toy's metrics, and the kept outputs of each visitor."""
    logits, picked = network.logits(batch), batch[:, 2].long()
    probability = logits.softmax(1).gather(1, picked[:, None]).squeeze(1)
    kept = {"picked": picked, "predicted": logits.argmax(1), "error": 1 - probability}
    return dataclasses.replace(network.evaluate(batch), kept=kept)


MACRO_F1 = Metric("macro_f1", "max", "Macro F1", "Mean of F1 over the colours.", compute=macro_f1)
RMSE = Metric("rmse", "min", "RMSE", "How far the probability of the colour picked is from 1.", compute=rmse)
BY_MACRO_F1 = dataclasses.replace(toy.FAMILY, metric=MACRO_F1, metrics=[RMSE, toy.FAMILY.metric], evaluate=evaluate)
BY_RMSE = dataclasses.replace(toy.FAMILY, metric=RMSE, metrics=[MACRO_F1, toy.FAMILY.metric], evaluate=evaluate)
