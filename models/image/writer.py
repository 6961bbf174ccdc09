"""Titles as a shop writes them: a recurrent decoder over the embedding of a picture, held to what the recogniser holds.

Shapes: B pictures, D width of the embedding, T tokens of a title, V phrases and the end, W width of the states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.describe import Attribute, Phrase, entitled, held_attributes, role_of
from models.image.schema import Schema
from models.image.titles import END, MAX_PHRASES, PADDING, Form, Lexicon, key_of

STATES = 128
PHRASE_WIDTH = 64
NOUNS = ("type", "category")

Held = Mapping[str, Attribute]
"""Head -> what it holds."""


class Writer(nn.Module):
    """Writes titles phrase by phrase. What may be said next is decided by what is held; which of it, by the decoder."""

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
        self.picture = nn.Linear(dim, STATES)
        # The last row is the start.
        self.phrases = nn.Embedding(num_tokens + 1, PHRASE_WIDTH)
        self.states = nn.GRU(PHRASE_WIDTH, STATES, batch_first=True)
        self.scores = nn.Linear(STATES, num_tokens)

    def loss(self, embeddings_BD: Tensor, titles_BT: Tensor) -> Tensor:
        """Cross-entropy of the next phrase, a mean over all of them; nothing of it reaches the embeddings."""
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            start = torch.full_like(titles_BT[:, :1], self.phrases.num_embeddings - 1)
            before = torch.cat([start, titles_BT[:, :-1].clamp_min(END)], 1)
            states, _ = self.states(self.phrases(before), self._first(embeddings_BD.detach()))
            scores = self.scores(states).flatten(0, 1)
            summed = F.cross_entropy(scores, titles_BT.flatten(), ignore_index=PADDING, reduction="sum")
            return summed / (titles_BT != PADDING).sum().clamp_min(1)

    def write(
        self, embeddings_BD: Tensor, probabilities: Sequence[Mapping[str, Sequence[float]]], thresholds: Sequence[float]
    ) -> list[tuple[Phrase, ...]]:
        """A title for each picture, the likeliest next phrase after the other; empty where no product is held.

        `probabilities` are the recogniser's for each head; what is less likely than a picture's threshold is not held.
        """
        held = [held_attributes(self.heads, *each) for each in zip(probabilities, thresholds, strict=True)]
        said: list[list[Phrase]] = [[] for _ in held]
        open_rows = [any(_is_noun(head) for head in each) for each in held]
        state = self._first(embeddings_BD)
        token = torch.full((len(held), 1), self.phrases.num_embeddings - 1, device=embeddings_BD.device)
        for _ in range(MAX_PHRASES):
            states, state = self.states(self.phrases(token), state)
            scores = self.scores(states[:, 0])
            for row, phrases in enumerate(said):
                number = self._next(scores[row], phrases, held[row]) if open_rows[row] else END
                token[row] = number
                open_rows[row] = number != END
                if number != END:
                    form = self.lexicon.forms[number - 1]
                    phrases.append(Phrase(form.text, _evidence(form, held[row])))
            if not any(open_rows):
                break
        return [tuple(phrases) if _names_product(phrases) else () for phrases in said]

    def _first(self, embeddings_BD: Tensor) -> Tensor:
        """The state [1, B, W] before the first phrase; the entries of an embedding get size one."""
        return torch.tanh(self.picture(embeddings_BD.float() * self.dim**0.5))[None]

    def _next(self, scores_V: Tensor, said: Sequence[Phrase], held: Held) -> int:
        """The likeliest phrase that may follow, or END once the product is named."""
        forms = self.lexicon.forms
        known = sorted({number for head, each in held.items() for number in self._numbers.get((head, each.value), ())})
        sayable = [number for number in known if self._may_follow(forms[number - 1], said, held)]
        nouns = [number for number in sayable if _is_noun(_evidence(forms[number - 1], held).head)]
        options = sayable if nouns and not _names_product(said) else [END, *sayable]
        return max(options, key=scores_V.tolist().__getitem__)

    def _may_follow(self, form: Form, said: Sequence[Phrase], held: Held) -> bool:
        """Whether a phrase says something new, and names no class that is not held together with the words before."""
        words = {word for phrase in said for word in key_of(phrase.text)}
        if words & set(key_of(form.text)) or _evidence(form, held) in [phrase.attribute for phrase in said]:
            return False
        text = entitled(said).title + " " + form.text
        return all(_is_held(mention.names, held) for mention in self.lexicon.mentions(text))


def _is_held(names: Sequence[tuple[str, str]], held: Held) -> bool:
    return any(role_of(head) is not None and head in held and held[head].value == value for head, value in names)


def _evidence(form: Form, held: Held) -> Attribute:
    return next(held[head] for head, value in form.names if head in held and held[head].value == value)


def _names_product(phrases: Sequence[Phrase]) -> bool:
    return any(_is_noun(phrase.attribute.head) for phrase in phrases)


def _is_noun(head: str) -> bool:
    return role_of(head) in NOUNS
