"""The n-grams of the training texts as one sparse matrix, and logistic regression on it by L-BFGS.

Shapes: N texts, F n-grams that at least two texts have, V buckets.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.prepared import Prepared
from models.reviews.config import Config
from models.reviews.data import collate, dataset
from models.reviews.schema import Schema
from models.sampling import evenly

MAX_TEXTS = 200_000
"""Training texts that are fitted to, sampled evenly."""
BLOCK = 512
MIN_TEXTS = 2
MAX_ITERATIONS = 40
MAX_EVALUATIONS = 60
HISTORY = 6


@dataclass(frozen=True)
class Matrix:
    """Which of N texts has which of F n-grams."""

    rows: Tensor
    """[N, F] in CSR form, ones where a text has an n-gram."""
    columns: Tensor
    """[F, N], its transpose."""
    bucket: Tensor
    """[F] bucket of each n-gram."""
    labels: Tensor
    weights: Tensor
    folds: Tensor


def training_matrix(data: Prepared, schema: Schema, config: Config) -> Matrix:
    """The matrix of the training texts, of at most MAX_TEXTS of them."""
    texts = dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=0)
    chosen = evenly(texts, MAX_TEXTS)
    grams, owners, parts = [], [], []
    for start in range(0, len(chosen), BLOCK):
        batch = collate(chosen[start : start + BLOCK])
        grams.append((batch.grams % config.num_buckets).int())
        owners.append((batch.owners + start).int())
        parts.append((batch.labels, batch.weights, batch.folds))
    bucket, owner = torch.cat(grams), torch.cat(owners)
    count = torch.bincount(bucket, minlength=config.num_buckets)
    used = (count >= MIN_TEXTS).nonzero().squeeze(1)
    place = torch.full((config.num_buckets,), -1, dtype=torch.int32)
    place[used] = torch.arange(len(used), dtype=torch.int32)
    column = place[bucket]
    kept = column >= 0
    labels, weights, folds = (torch.cat([part[number] for part in parts]) for number in range(3))
    matrix, transposed = _sparse(owner[kept], column[kept], shape=(len(labels), len(used)))
    return Matrix(matrix, transposed, used, labels, weights, folds)


def logistic(
    matrix: Matrix, is_class: Tensor, weights: Tensor, *, scales: tuple[Tensor, Tensor], inverse_penalty: float
) -> tuple[Tensor, Tensor]:
    """Weights [F] and bias of the logistic regression of `is_class` [N] on the matrix times `scales` ([N], [F]).

    Minimises |w|^2 / (2 inverse_penalty) plus the sum over texts of `weights` [N] times the log loss.
    """
    sign = is_class.float() * 2 - 1
    of_text, of_gram = scales
    with torch.inference_mode(False):  # in which the fit of a baseline is called, and L-BFGS works in place
        parameters = torch.zeros(len(of_gram) + 1, requires_grad=True)
        solver = torch.optim.LBFGS(
            [parameters],
            max_iter=MAX_ITERATIONS,
            max_eval=MAX_EVALUATIONS,
            history_size=HISTORY,
            tolerance_grad=1e-3,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            with torch.no_grad():
                found, bias = parameters[:-1], parameters[-1]
                margin = sign * (of_text * (matrix.rows @ (of_gram * found)) + bias)
                slope = -sign * weights * torch.sigmoid(-margin)
                gradient = of_gram * (matrix.columns @ (of_text * slope)) + found / inverse_penalty
                parameters.grad = torch.cat([gradient, slope.sum()[None]])
                return (weights * F.softplus(-margin)).sum() + found.square().sum() / (2 * inverse_penalty)

        solver.step(loss)  # type: ignore[no-untyped-call]
        found = parameters.detach()
    return found[:-1], found[-1]


def _sparse(owner: Tensor, column: Tensor, *, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A matrix of ones in CSR form, given its entries in the order of its rows, and its transpose."""
    ones = torch.ones(len(owner))
    order = column.argsort(stable=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        rows = torch.sparse_csr_tensor(_starts(owner, shape[0]), column, ones, size=shape, check_invariants=False)
        columns = torch.sparse_csr_tensor(
            _starts(column[order], shape[1]), owner[order], ones, size=(shape[1], shape[0]), check_invariants=False
        )
    return rows, columns


def _starts(sorted_rows: Tensor, size: int) -> Tensor:
    counts = torch.bincount(sorted_rows, minlength=size)
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
