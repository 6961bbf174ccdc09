"""The likelihood of counts against scipy's, exact and censored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import nbinom

from models.nn.counts import MAX_SUMMED, log_likelihood

MEAN, SIZE = 2.7, 2.0
CHANCE = SIZE / (SIZE + MEAN)


def likelihood(counts: list[float], *, censored: bool, mean: float = MEAN, size: float = SIZE) -> np.ndarray:
    values = torch.tensor([counts], dtype=torch.float64)
    found = log_likelihood(
        torch.full_like(values, np.log(mean)),
        torch.full_like(values, size),
        values,
        torch.full((1, len(counts)), censored),
    )
    return np.asarray(found[0].numpy())


def test_a_count_has_the_probability_of_the_negative_binomial() -> None:
    counts = [0.0, 3.0, 12.0]

    assert likelihood(counts, censored=False) == pytest.approx(nbinom.logpmf(counts, SIZE, CHANCE))


def test_a_censored_count_has_the_probability_of_at_least_so_many() -> None:
    counts = [0.0, 5.0, 12.0]
    expected = [0.0, nbinom.logsf(4, SIZE, CHANCE), nbinom.logsf(11, SIZE, CHANCE)]

    assert likelihood(counts, censored=True) == pytest.approx(expected, abs=1e-9)


def test_the_tail_of_a_large_count_is_nearly_right_and_rises_with_the_mean() -> None:
    count = 950.0
    assert count > MAX_SUMMED

    low, high = (float(likelihood([count], censored=True, mean=mean, size=9.0)[0]) for mean in (800.0, 900.0))

    assert low < high
    assert high == pytest.approx(nbinom.logsf(count - 1, 9, 9 / 909), rel=0.15)
