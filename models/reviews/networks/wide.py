"""Linear models of hashed n-grams: logistic regression that is cross-fitted, naive Bayes, and a trained NB-SVM.

Shapes: B texts, M n-grams of them, V buckets, K classes, O outputs: 1 for two classes, otherwise K.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.prepared import Prepared
from models.reviews.config import Config
from models.reviews.data import Reviews
from models.reviews.networks.matrix import Matrix, logistic, training_matrix
from models.reviews.schema import NUM_FOLDS, Schema

INVERSE_PENALTIES = (16.0, 16.0)
"""Of the regression on n-grams weighted by idf and naive Bayes, and of that on idf alone; chosen on validation texts
of online_shopping_10_cats."""
SCALES = tuple(0.3 * 1.1**step for step in range(26))
"""Factors of the cross-fitted logits that are tried, 0.3 .. 3.3."""
START = 0.5
"""First weight of every n-gram of an NB-SVM, as a share of its naive Bayes ratio."""


class Linear(nn.Module):
    """Two logistic regressions on n-grams, fitted NUM_FOLDS times: once without each fold of the training texts.

    One is on n-grams weighted by idf and by their naive Bayes ratio (Wang and Manning, 2012), one on idf alone; rows
    have length 1, and the logits are the mean of both. A training text gets the logits of the fit without it, any other
    the mean of all.
    """

    table: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.num_outputs = outputs_of(schema)
        self.num_buckets, self.width = config.num_buckets, 2 * self.num_outputs + 2
        self.register_buffer("table", torch.zeros(config.num_buckets, NUM_FOLDS * self.width))
        self.register_buffer("bias", torch.zeros(NUM_FOLDS, self.num_outputs))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, batch: Reviews) -> Tensor:
        """Logits [B, K]."""
        rows = self.table[batch.grams % self.num_buckets]
        sums = rows.new_zeros(len(batch.labels), rows.shape[1]).index_add_(0, batch.owners, rows)
        found = self._margins(sums.view(-1, NUM_FOLDS, self.width)) + self.bias
        own = found[torch.arange(len(found), device=found.device), batch.folds.clamp_min(0)]
        mixed = torch.where((batch.folds >= 0)[:, None], own, found.mean(1))
        return as_logits(self.scale * mixed)

    def contributions(self, batch: Reviews) -> Tensor:
        """What each n-gram adds to the logits [M, K], by the mean of all fits."""
        rows = self.table[batch.grams % self.num_buckets]
        sums = rows.new_zeros(len(batch.labels), rows.shape[1]).index_add_(0, batch.owners, rows)
        norms = sums.view(-1, NUM_FOLDS, self.width)[batch.owners]
        return as_logits(self.scale * self._margins(rows.view(-1, NUM_FOLDS, self.width), norms).mean(1))

    def fit(self, data: Prepared, schema: Schema, config: Config) -> None:
        """Fit to the training texts."""
        matrix = training_matrix(data, schema, config)
        margins = torch.zeros(len(matrix.labels), self.num_outputs)
        for fold in range(NUM_FOLDS):
            is_used = matrix.folds != fold
            weights = matrix.weights * is_used
            of_fold = self.table.view(-1, NUM_FOLDS, self.width)[:, fold]
            ratios = [log_ratios(matrix, of, weights) for of in _targets(matrix, self.num_outputs)]
            idf = _idf(matrix, is_used)
            for number, by_gram in enumerate((idf * torch.stack(ratios).abs().amax(0), idf)):
                square = by_gram.square()
                by_text = (matrix.rows @ square).clamp_min(1e-12).rsqrt()
                of_fold[matrix.bucket, 2 * self.num_outputs + number] = square
                for output, target in enumerate(_targets(matrix, self.num_outputs)):
                    found, bias = logistic(
                        matrix, target, weights, scales=(by_text, by_gram), inverse_penalty=INVERSE_PENALTIES[number]
                    )
                    of_fold[matrix.bucket, number * self.num_outputs + output] = by_gram * found
                    self.bias[fold, output] += bias / 2
                    left_out = ~is_used
                    margin = by_text * (matrix.rows @ (by_gram * found)) + bias
                    margins[left_out, output] += margin[left_out] / 2
        self.scale.copy_(_best_scale(as_logits(margins), matrix.labels, matrix.weights))

    def _margins(self, sums: Tensor, norms: Tensor | None = None) -> Tensor:
        """Margins [..., O] from sums of rows of the table [..., width]; `norms` are those of whole texts."""
        lengths = (sums if norms is None else norms)[..., -2:].clamp_min(1e-12).rsqrt()
        first, second = sums[..., : self.num_outputs], sums[..., self.num_outputs : 2 * self.num_outputs]
        return (first * lengths[..., :1] + second * lengths[..., 1:]) / 2


class NaiveBayes(nn.Module):
    """Naive Bayes over the n-grams that a text has, per character; with `is_trained` an NB-SVM that starts from it.

    The logits of an NB-SVM are sums over n-grams of the naive Bayes ratio times a learned weight, by the root of the
    number of n-grams (Wang and Manning, 2012).
    """

    ratio: Tensor
    prior: Tensor

    def __init__(self, config: Config, schema: Schema, *, is_trained: bool) -> None:
        super().__init__()
        self.num_outputs, self.num_buckets, self.penalty = outputs_of(schema), config.num_buckets, config.penalty
        self.register_buffer("ratio", torch.zeros(config.num_buckets, self.num_outputs))
        self.register_buffer("prior", torch.zeros(self.num_outputs))
        self.weight = nn.Embedding(config.num_buckets, self.num_outputs, sparse=True) if is_trained else None
        self.bias = nn.Parameter(torch.zeros(self.num_outputs), requires_grad=is_trained)
        if self.weight is not None:
            nn.init.constant_(self.weight.weight, START)

    def forward(self, batch: Reviews) -> Tensor:
        """Logits [B, K]."""
        rows, counts = self._rows(batch), self._counts(batch)
        sums = rows.new_zeros(len(batch.labels), self.num_outputs).index_add_(0, batch.owners, rows)
        return as_logits(sums * counts.rsqrt()[:, None] + self.prior + self.bias)

    def contributions(self, batch: Reviews) -> Tensor:
        """What each n-gram adds to the logits [M, K]."""
        return as_logits(self._rows(batch) * self._counts(batch).rsqrt()[batch.owners][:, None])

    def regularisation(self, batch: Reviews) -> Tensor:
        """The L2 penalty of the n-grams of a batch, whose weights decay towards zero."""
        assert self.weight is not None
        rows: Tensor = self.weight(batch.grams % self.num_buckets)
        return self.penalty * rows.square().sum() / len(batch.labels)

    def fit(self, data: Prepared, schema: Schema, config: Config) -> None:
        """Count the n-grams of the training texts."""
        matrix = training_matrix(data, schema, config)
        for output, target in enumerate(_targets(matrix, self.num_outputs)):
            self.ratio[matrix.bucket, output] = log_ratios(matrix, target, matrix.weights)
            share = (matrix.weights * target).sum() / matrix.weights.sum()
            self.prior[output] = torch.logit(share.clamp(1e-3, 1 - 1e-3))

    def _rows(self, batch: Reviews) -> Tensor:
        buckets = batch.grams % self.num_buckets
        ratio = self.ratio[buckets]
        if self.weight is None:
            return ratio
        weighted: Tensor = ratio * self.weight(buckets)
        return weighted

    def _counts(self, batch: Reviews) -> Tensor:
        counts = torch.bincount(batch.owners, minlength=len(batch.labels))
        return counts.clamp_min(1).float()


def outputs_of(schema: Schema) -> int:
    """Linear functions of a model: one for two classes, otherwise one for each class."""
    return 1 if len(schema.classes) == 2 else len(schema.classes)


def as_logits(margins: Tensor) -> Tensor:
    """Logits [..., K] from the margins [..., O] of one class against the others."""
    if margins.shape[-1] > 1:
        return margins
    return torch.cat([-margins / 2, margins / 2], -1)


def log_ratios(matrix: Matrix, is_class: Tensor, weights: Tensor) -> Tensor:
    """Naive Bayes' log-count ratio [F] of each n-gram, with one added to every count."""
    inside = matrix.columns @ (weights * is_class.float()) + 1
    outside = matrix.columns @ (weights * (~is_class).float()) + 1
    return torch.log(inside / inside.sum()) - torch.log(outside / outside.sum())


def _idf(matrix: Matrix, is_used: Tensor) -> Tensor:
    count = matrix.columns @ is_used.float()
    return torch.log((1 + is_used.sum()) / (1 + count)) + 1


def _targets(matrix: Matrix, num_outputs: int) -> list[Tensor]:
    return [matrix.labels == (1 if num_outputs == 1 else number) for number in range(num_outputs)]


def _best_scale(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The factor of cross-fitted logits with the lowest log loss."""
    losses = [
        float((weights * nn.functional.cross_entropy(scale * logits, labels, reduction="none")).sum())
        for scale in SCALES
    ]
    return torch.tensor(SCALES[losses.index(min(losses))])
