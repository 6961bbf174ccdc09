"""Finds the terms of a text by a network that gives each token a BIO tag (Ramshaw and Marcus, 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import Dropout
from models.reviews.aspects.lexicon import Lexicon
from models.reviews.aspects.terms import GRAMS_A_TOKEN, NUM_GRAMS, NUM_WORDS
from models.reviews.aspects.tokens import Token, character_grams, hashed, tokens_of
from models.reviews.sentences import Span

OUTSIDE, BEGIN, INSIDE = 0, 1, 2
MOST_TOKENS = 80
NOTHING = -100
BLOCK = 256


@dataclass(frozen=True)
class TagSettings:
    """How the network is trained."""

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    token_dropout: float = 0.1
    seed: int = 0


class TermTagger(nn.Module):
    """Logits of the tags of each token: embeddings of words and characters, three convolutions."""

    def __init__(self, dim: int = 64, hidden: int = 96, dropout: float = 0.4, token_dropout: float = 0.1) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.words = nn.Embedding(NUM_WORDS, dim, padding_idx=0)
        self.grams = nn.Embedding(NUM_GRAMS, dim, padding_idx=0)
        for table in (self.words, self.grams):
            nn.init.normal_(table.weight, std=0.1)
        self.first = nn.Conv1d(dim + 3, hidden, 5, padding=2)
        self.more = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, padding=1) for _ in range(2)])
        self.drop = Dropout(dropout)
        self.last = nn.Linear(hidden + dim, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits [B, L, 3]."""
        count = batch["grams"].ne(0).sum(-1, keepdim=True).clamp(min=1)
        embedded = self.words(batch["words"]) + self.grams(batch["grams"]).sum(2) / count.sqrt()
        if self.training:
            embedded = embedded * (torch.rand(embedded.shape[:2]) > self.token_dropout)[..., None]
        embedded = self.drop(embedded)
        hidden = F.gelu(self.first(torch.cat([embedded, batch["marks"]], -1).transpose(1, 2)))
        for layer in self.more:
            hidden = hidden + F.gelu(layer(self.drop(hidden)))
        logits: Tensor = self.last(torch.cat([self.drop(hidden.transpose(1, 2)), embedded], -1))
        return logits


def fit_tagger(
    texts: Sequence[str], terms: Sequence[Sequence[Span]], lexicon: Lexicon, settings: TagSettings | None = None
) -> TermTagger:
    """A tagger trained on texts with the spans of their terms."""
    chosen = settings or TagSettings()
    torch.manual_seed(chosen.seed)
    draw = np.random.default_rng(chosen.seed)
    network = TermTagger(token_dropout=chosen.token_dropout)
    tokens = [tokens_of(text, lexicon)[:MOST_TOKENS] for text in texts]
    tags = [_tags(one, spans) for one, spans in zip(tokens, terms, strict=True)]
    inputs = _inputs(tokens)
    targets = torch.full(inputs["words"].shape, NOTHING)
    for row, own in enumerate(tags):
        targets[row, : len(own)] = torch.tensor(own)
    num_steps = -(-len(texts) // chosen.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), chosen.learning_rate, weight_decay=chosen.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.learning_rate, total_steps=num_steps * chosen.epochs
    )
    for _ in range(chosen.epochs):
        for rows in np.array_split(draw.permutation(len(texts)), num_steps):
            width = max(max(len(tokens[row]) for row in rows), 1)
            optimizer.zero_grad()
            logits = network({name: values[rows, :width] for name, values in inputs.items()})
            loss = F.cross_entropy(logits.flatten(0, 1), targets[rows, :width].flatten(), ignore_index=NOTHING)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def find_terms(network: TermTagger, texts: Sequence[str], lexicon: Lexicon) -> list[list[Span]]:
    """The spans of the terms of each text; an inside without a begin is a begin."""
    found: list[list[Span]] = []
    for start in range(0, len(texts), BLOCK):
        tokens = [tokens_of(text, lexicon)[:MOST_TOKENS] for text in texts[start : start + BLOCK]]
        with torch.inference_mode():
            device = network.words.weight.device
            tags = network({name: one.to(device) for name, one in _inputs(tokens).items()}).argmax(-1).tolist()
        found += [_spans(own, said) for own, said in zip(tokens, tags, strict=True)]
    return found


def _inputs(tokens: Sequence[Sequence[Token]]) -> dict[str, Tensor]:
    width = max([len(own) for own in tokens] + [1])
    words = np.zeros((len(tokens), width), np.int64)
    grams = np.zeros((len(tokens), width, GRAMS_A_TOKEN), np.int64)
    marks = np.zeros((len(tokens), width, 3), np.float32)
    for row, own in enumerate(tokens):
        for column, token in enumerate(own):
            words[row, column] = hashed(token.word, NUM_WORDS)
            for number, gram in enumerate(character_grams(token.word, GRAMS_A_TOKEN)):
                grams[row, column, number] = hashed(gram, NUM_GRAMS)
            marks[row, column] = (token.polarity > 0, token.polarity < 0, 1.0)
    return {"words": torch.from_numpy(words), "grams": torch.from_numpy(grams), "marks": torch.from_numpy(marks)}


def _tags(tokens: Sequence[Token], spans: Sequence[Span]) -> list[int]:
    tags = [OUTSIDE] * len(tokens)
    for start, end in spans:
        inside = [place for place, one in enumerate(tokens) if one.start < end and one.end > start]
        for number, place in enumerate(inside):
            tags[place] = INSIDE if number else BEGIN
    return tags


def _spans(tokens: Sequence[Token], tags: Sequence[int]) -> list[Span]:
    found: list[Span] = []
    before = OUTSIDE
    for token, tag in zip(tokens, tags, strict=False):
        if tag == BEGIN or (tag == INSIDE and before == OUTSIDE):
            found.append((token.start, token.end))
        elif tag == INSIDE:
            found[-1] = (found[-1][0], token.end)
        before = tag
    return found
