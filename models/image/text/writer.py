"""A GRU decoder that generates titles from image embeddings, constrained to attributes the classifier is confident of.

Shapes: B images, D embedding size, T tokens of a title, V vocabulary of phrases with the end token, W hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.schema import Schema
from models.image.text.describe import Attribute, Phrase, confident_attributes, describe_title, is_noun, role_of
from models.image.text.titles import END, MAX_PHRASES, PADDING, Form, Lexicon, key_of
from models.nn.state_dict import rename_on_load

HIDDEN_SIZE = 128
EMBEDDING_SIZE = 64
PHRASE_DROPOUT = 0.25
"""Fraction of the phrases dropped from training titles, sampled for each batch."""

Attributes = Mapping[str, Attribute]
"""Head -> attribute predicted with enough confidence."""


class TitleGenerator(nn.Module):
    """Generates titles phrase by phrase: confident attributes decide what is allowed, the decoder chooses among it."""

    def __init__(self, dim: int, schema: Schema) -> None:
        super().__init__()
        self.heads = schema.heads
        self.lexicon = Lexicon(schema.heads, schema.forms)
        self._numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, form in enumerate(schema.forms, 1):
            for name in form.names:
                self._numbers[name].append(number)
        self.dim = dim
        num_tokens = len(schema.forms) + 1
        self.initial_state = nn.Linear(dim, HIDDEN_SIZE)
        # The last row is the start token.
        self.embedding = nn.Embedding(num_tokens + 1, EMBEDDING_SIZE)
        self.gru = nn.GRU(EMBEDDING_SIZE, HIDDEN_SIZE, batch_first=True)
        self.output = nn.Linear(HIDDEN_SIZE, num_tokens)
        old_names = {"picture.": "initial_state.", "phrases.": "embedding.", "states.": "gru.", "scores.": "output."}
        rename_on_load(self, old_names)

    def loss(self, embeddings_BD: Tensor, titles_BT: Tensor) -> Tensor:
        """Mean cross-entropy of the next phrase, with teacher forcing; the embeddings are detached.

        In training some phrases are dropped, since at inference attributes below the threshold are missing.
        """
        titles_BT = _drop_phrases(titles_BT) if self.training else titles_BT
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            start = torch.full_like(titles_BT[:, :1], self.embedding.num_embeddings - 1)
            before = torch.cat([start, titles_BT[:, :-1].clamp_min(END)], 1)
            hidden, _ = self.gru(self.embedding(before), self._first_state(embeddings_BD.detach()))
            logits = self.output(hidden).flatten(0, 1)
            summed = F.cross_entropy(logits, titles_BT.flatten(), ignore_index=PADDING, reduction="sum")
            return summed / (titles_BT != PADDING).sum().clamp_min(1)

    def generate(
        self, embeddings_BD: Tensor, probabilities: Sequence[Mapping[str, Sequence[float]]], thresholds: Sequence[float]
    ) -> list[tuple[Phrase, ...]]:
        """A title for each image by greedy decoding; empty if the classifier is not confident of any product type.

        `probabilities` are the classifier's, by head; only attributes that reach the image's threshold may be named.
        """
        attributes = [confident_attributes(self.heads, *each) for each in zip(probabilities, thresholds, strict=True)]
        previous: list[list[Phrase]] = [[] for _ in attributes]
        open_rows = [any(is_noun(head) for head in each) for each in attributes]
        state = self._first_state(embeddings_BD)
        token = torch.full((len(attributes), 1), self.embedding.num_embeddings - 1, device=embeddings_BD.device)
        for _ in range(MAX_PHRASES):
            hidden, state = self.gru(self.embedding(token), state)
            logits = self.output(hidden[:, 0])
            for row, phrases in enumerate(previous):
                number = self._next_token(logits[row], phrases, attributes[row]) if open_rows[row] else END
                token[row] = number
                open_rows[row] = number != END
                if number != END:
                    form = self.lexicon.forms[number - 1]
                    phrases.append(Phrase(form.text, _evidence(form, attributes[row])))
            if not any(open_rows):
                break
        return [tuple(phrases) for phrases in previous]

    def _first_state(self, embeddings_BD: Tensor) -> Tensor:
        """The initial hidden state [1, B, W]; embeddings are rescaled to unit variance per entry."""
        return torch.tanh(self.initial_state(embeddings_BD.float() * self.dim**0.5))[None]

    def _next_token(self, logits_V: Tensor, previous: Sequence[Phrase], attributes: Attributes) -> int:
        """The most likely allowed phrase, or END once the product is named; the last phrase must name it."""
        numbers = {number for head, each in attributes.items() for number in self._numbers.get((head, each.value), ())}
        allowed = {
            number: phrase for number in sorted(numbers) if (phrase := self._phrase(number, previous, attributes))
        }
        if _names_product(previous):
            return max([END, *allowed], key=logits_V.tolist().__getitem__)
        nouns = [number for number, phrase in allowed.items() if is_noun(phrase.attribute.head)]
        # A phrase must leave a product to name: no "casual" unless "casual shoes" is a confident attribute, too.
        others = [
            number
            for number, phrase in allowed.items()
            if number not in nouns and any(self._phrase(noun, [*previous, phrase], attributes) for noun in nouns)
        ]
        options = nouns if len(previous) == MAX_PHRASES - 1 else nouns + others
        return max(options, key=logits_V.tolist().__getitem__, default=END)

    def _phrase(self, number: int, previous: Sequence[Phrase], attributes: Attributes) -> Phrase | None:
        """A phrase, unless it repeats a word or forms the name of a class that is not a confident attribute."""
        form = self.lexicon.forms[number - 1]
        phrase = Phrase(form.text, _evidence(form, attributes))
        words = {word for before in previous for word in key_of(before.text)}
        if words & set(key_of(phrase.text)) or phrase.attribute in [before.attribute for before in previous]:
            return None
        mentions = self.lexicon.mentions(describe_title([*previous, phrase]).title)
        return phrase if all(_is_confident(mention.names, attributes) for mention in mentions) else None


def _drop_phrases(titles_BT: Tensor) -> Tensor:
    """The titles without a random subset of their phrases."""
    kept = (torch.rand(titles_BT.shape, device=titles_BT.device) >= PHRASE_DROPOUT) | (titles_BT == END)
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    return titles_BT.masked_fill(~kept, PADDING).gather(1, order)


def _is_confident(names: Sequence[tuple[str, str]], attributes: Attributes) -> bool:
    return any(
        role_of(head) is not None and head in attributes and attributes[head].value == value for head, value in names
    )


def _evidence(form: Form, attributes: Attributes) -> Attribute:
    return next(
        attributes[head] for head, value in form.names if head in attributes and attributes[head].value == value
    )


def _names_product(phrases: Sequence[Phrase]) -> bool:
    return any(is_noun(phrase.attribute.head) for phrase in phrases)
