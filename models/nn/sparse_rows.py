"""Weighted sums of the rows of a sparse matrix.

Shapes: R rows of V columns in CSR form, N summands, B sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SparseRows(NamedTuple):
    """A matrix [R, V] in CSR form."""

    starts: Tensor
    """[R + 1]."""
    columns: Tensor
    weights: Tensor


def sum_rows(
    matrix: SparseRows, *, rows_N: Tensor, factors_N: Tensor, owner_N: Tensor, shape: tuple[int, int]
) -> Tensor:
    """The rows `rows_N` times `factors_N`, added by their owner, 0 .. B - 1: the sums of `shape` [B, V]."""
    starts_N = matrix.starts[rows_N]
    lengths_N = matrix.starts[rows_N + 1] - starts_N
    total = int(lengths_N.sum())
    # One flat entry per summand and column: its index in the CSR arrays, its place in the sums, its factor.
    first_N = starts_N - (lengths_N.cumsum(0) - lengths_N)
    entry = torch.arange(total, device=rows_N.device) + first_N.repeat_interleave(lengths_N, output_size=total)
    owner = (owner_N * shape[1]).repeat_interleave(lengths_N, output_size=total)
    factor = factors_N.repeat_interleave(lengths_N, output_size=total)
    sums = torch.zeros(shape[0] * shape[1], device=rows_N.device)
    sums.index_add_(0, owner + matrix.columns[entry], factor * matrix.weights[entry])
    return sums.view(shape)
