"""The sentiment of a text: a wide and a deep part, stacked and calibrated on validation, with a band of unsure answers.

Shapes: B texts, K classes, S shares of the deep part, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adagrad, AdamW, Optimizer

from models.metrics import BatchMetrics, Ratio, accuracy
from models.nn.precision import autocast_dtype
from models.prepared import Prepared
from models.reviews.aspects.labelled import read_sentences
from models.reviews.aspects.trained import Term, TermNetworks
from models.reviews.config import Config
from models.reviews.data import Reviews
from models.reviews.networks.deep import Deep, zero_loss
from models.reviews.networks.evidence import Spans, spans_of
from models.reviews.networks.pretrained import Pretrained
from models.reviews.networks.wide import Linear, NaiveBayes
from models.reviews.schema import Schema

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Weights of the deep part's logits beside the wide part's."""
TEMPERATURES = tuple(0.3 * 1.08**step for step in range(40))
"""Temperatures that calibration chooses from, 0.3 .. 6."""
NUM_BINS, MAX_MARGIN = 400, 20.0
"""Bins of the difference of the two largest logits."""
ADAGRAD_SCALE = 20.0
"""The rate of a wide network, whose gradients are sparse, in multiples of the learning rate."""

ENCODER_SCALE = 0.03
"""The rate of a pretrained encoder in multiples of the learning rate: 3e-5 of the default, usual for a BERT."""
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Prediction:
    """The network's output for one text."""

    probabilities: list[float]
    """[K], calibrated."""
    unsure: bool
    spans: Spans
    """(first, last character, score) of what speaks most for the answer, in the normalised text; empty unless asked."""
    terms: Sequence[Term] = ()
    """Aspect terms; empty for a network without labelled aspects."""


class Sentiment(nn.Module):
    """The network of the family."""

    share: Tensor
    temperature: Tensor
    threshold: Tensor
    prior: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config, self.num_classes = config, len(schema.classes)
        self.wide = _wide_of(config, schema)
        self.deep = _deep_of(config, schema)
        has_terms = config.term_members > 0 and schema.term_counts.get("train", 0) > 0
        self.terms = TermNetworks(config.term_members, schema) if has_terms else None
        counts = torch.tensor(schema.class_counts, dtype=torch.float32)
        self.register_buffer("prior", torch.log((counts + 1) / (counts + 1).sum()))
        self.register_buffer("share", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("threshold", torch.zeros(()))

    def loss(self, batch: Reviews) -> Tensor:
        """Weighted cross-entropy of training texts, or the loss of pretraining."""
        if batch.pretrain:
            assert isinstance(self.deep, Deep)
            return self.deep.pretraining_loss(batch)
        wide, deep = self.parts(batch)
        losses = F.cross_entropy(wide + deep, batch.labels, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum().clamp_min(1e-6)
        if isinstance(self.wide, NaiveBayes):
            loss = loss + self.wide.regularisation(batch)
        if not isinstance(self.deep, Deep) or not self.config.pretrain_epochs:
            return loss
        return loss + zero_loss(self.deep.is_replaced)

    def parts(self, batch: Reviews) -> tuple[Tensor, Tensor]:
        """The logits [B, K] of the wide part and of the deep part, zero for a part that is not there."""
        wide = self.prior.expand(len(batch.labels), -1) if self.wide is None else self.wide(batch)
        deep = torch.zeros_like(wide) if self.deep is None else self.deep(batch)
        return wide, deep

    def logits(self, batch: Reviews) -> Tensor:
        """Calibrated logits [B, K]."""
        wide, deep = self._inference_parts(batch)
        return (wide + self.share * deep) / self.temperature

    def evaluate(self, batch: Reviews) -> BatchMetrics:
        """Accuracy, log loss, share of unsure answers and accuracy of the others."""
        logits = self.logits(batch)
        known = batch.labels >= 0
        predicted, labels = logits.argmax(1), batch.labels
        losses = F.cross_entropy(logits, labels.clamp_min(0), reduction="none").double() * known
        is_sure = (~self._is_unsure(logits) & known).double()
        is_right = (predicted == labels).double()
        ratios = {
            "accuracy": accuracy(predicted, labels),
            "log_loss": Ratio(losses, known.double()),
            "unsure_share": Ratio((1 - is_sure) * known, known.double()),
            "confident_accuracy": Ratio(is_sure * is_right, is_sure),
        }
        confidence = logits.softmax(1).amax(1)
        kept = {"label": labels, "predicted": predicted, "confidence": confidence}
        return BatchMetrics(ratios, kept=kept)

    def calibration(self, batch: Reviews) -> Tensor:
        """Log loss by temperature, and answers and right ones by margin, for each share [S, T + 2 * NUM_BINS]."""
        wide, deep = self._inference_parts(batch)
        known = batch.labels >= 0
        labels = batch.labels[known]
        found = []
        for share in SHARES:
            logits = (wide + share * deep)[known]
            losses = [F.cross_entropy(logits / each, labels, reduction="sum").double() for each in TEMPERATURES]
            bins = (_margins(logits) / MAX_MARGIN * NUM_BINS).long().clamp(0, NUM_BINS - 1)
            right = (logits.argmax(1) == labels).double()
            counts = torch.bincount(bins, minlength=NUM_BINS).double()
            rights = torch.bincount(bins, weights=right, minlength=NUM_BINS)
            found.append(torch.cat([torch.stack(losses), counts, rights]))
        return torch.stack(found)

    def calibrate(self, sums: Tensor) -> None:
        """Choose the share of the deep part, the temperature and the band of unsure answers."""
        losses, counts, rights = torch.split(sums, [len(TEMPERATURES), NUM_BINS, NUM_BINS], 1)
        if not bool(counts.sum() > 0):
            return
        best = int(losses.argmin())
        share, temperature = divmod(best, len(TEMPERATURES))
        if self.wide is None or self.deep is None:
            share = SHARES.index(1.0)
            temperature = int(losses[share].argmin())
        self.share.fill_(SHARES[share])
        self.temperature.fill_(TEMPERATURES[temperature])
        answers, right = (part[share].flip(0).cumsum(0).flip(0) for part in (counts, rights))
        # One more mistake than there were: the last answers are few.
        enough = (right >= self.config.confident_accuracy * (answers + 1)).nonzero()
        first = float(enough[0]) if len(enough) else torch.inf
        self.threshold.fill_(first * MAX_MARGIN / NUM_BINS)

    def predict(self, batch: Reviews) -> list[Prediction]:
        """Probabilities, whether the answer is unsure, and what speaks for it."""
        logits = self.logits(batch)
        predicted = logits.argmax(1).tolist()
        unsure = self._is_unsure(logits).tolist()
        spans: Sequence[Spans] = [()] * len(predicted)
        if self.wide is not None and any(codes is not None for codes in batch.codes):
            spans = spans_of(batch, self.wide.contributions(batch), predicted)
        probabilities = logits.softmax(1).tolist()
        terms: Sequence[Sequence[Term]] = [()] * len(predicted)
        if self.terms is not None and any(batch.texts):
            terms = self.terms.read(batch.texts)
        return [Prediction(*row) for row in zip(probabilities, unsure, spans, terms, strict=True)]

    def fit(self, data: Prepared, schema: Schema) -> None:
        """Set what is not trained by gradients."""
        with torch.no_grad():
            for part in (self.deep, self.wide):  # a folder that cannot be read is told at once
                if part is not None:
                    part.fit(data, schema, self.config)
            if self.terms is not None:
                self.terms.fit(read_sentences(data.path, "train"), seed=self.config.seed)

    def optimizer(self) -> Optimizer | None:
        """Adagrad for the sparse gradients of a wide network, small steps for an encoder; None is the loop's."""
        if isinstance(self.deep, Pretrained):
            return _fine_tuning(self.deep, self.config)
        if not isinstance(self.wide, NaiveBayes) or self.wide.weight is None:
            return None
        chosen = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return Adagrad([{"params": chosen, "rate_scale": ADAGRAD_SCALE}], lr=self.config.learning_rate)

    def _inference_parts(self, batch: Reviews) -> tuple[Tensor, Tensor]:
        device = batch.labels.device
        dtype = autocast_dtype(self.config.precision, device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            wide, deep = self.parts(batch)
        return wide.float(), deep.float()

    def _is_unsure(self, logits: Tensor) -> Tensor:
        return _margins(logits) * self.temperature < self.threshold


def _margins(logits: Tensor) -> Tensor:
    """The difference [B] of the two largest logits [B, K]."""
    best = logits.topk(2, 1).values
    return best[:, 0] - best[:, 1]


def _deep_of(config: Config, schema: Schema) -> Deep | Pretrained | None:
    match config.network:
        case "wide-deep" | "deep":
            return Deep(config, schema)
        case "encoder":
            return Pretrained(config, schema)
        case _:
            return None


def _fine_tuning(network: Pretrained, config: Config) -> Optimizer:
    """AdamW with smaller steps for what is pretrained, and weight decay on matrices only."""
    assert network.encoder is not None and network.head is not None
    groups = [
        {
            "params": [each for each in part.parameters() if (each.ndim > 1) == is_matrix],
            "weight_decay": config.weight_decay if is_matrix else 0.0,
            "rate_scale": scale,
        }
        for part, scale in ((network.encoder, ENCODER_SCALE), (network.head, 1.0))
        for is_matrix in (True, False)
    ]
    return AdamW(groups, lr=config.learning_rate, betas=BETAS)


def _wide_of(config: Config, schema: Schema) -> Linear | NaiveBayes | None:
    match config.network:
        case "wide-deep" | "encoder" | "linear":
            return Linear(config, schema)
        case "wide" | "naive-bayes":
            return NaiveBayes(config, schema, is_trained=config.network == "wide")
        case _:
            return None
