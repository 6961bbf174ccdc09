"""Titles as a shop writes them: a recurrent decoder over the embedding of an image, held to what the classifier holds.

Shapes: B images, D width of the embedding, T tokens of a title, V phrases and the end, W width of the states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.schema import Schema
from models.image.text.describe import Attribute, Phrase, entitled, held_attributes, is_noun, role_of
from models.image.text.titles import END, MAX_PHRASES, PADDING, Form, Lexicon, key_of

STATES = 128
PHRASE_WIDTH = 64
DROPPED = 0.25
"""Share of the phrases of the titles that are left out, anew each time they are learnt from."""

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
        """Cross-entropy of the next phrase, a mean over all of them; nothing of it reaches the embeddings.

        In training some phrases are left out, for titles will lack what is not held.
        """
        titles_BT = _shortened(titles_BT) if self.training else titles_BT
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
        """A title for each image, the likeliest next phrase after the other; empty where no product is held.

        `probabilities` are the classifier's for each head; what is less likely than an image's threshold is not held.
        """
        held = [held_attributes(self.heads, *each) for each in zip(probabilities, thresholds, strict=True)]
        said: list[list[Phrase]] = [[] for _ in held]
        open_rows = [any(is_noun(head) for head in each) for each in held]
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
        return [tuple(phrases) for phrases in said]

    def _first(self, embeddings_BD: Tensor) -> Tensor:
        """The state [1, B, W] before the first phrase; the entries of an embedding get size one."""
        return torch.tanh(self.picture(embeddings_BD.float() * self.dim**0.5))[None]

    def _next(self, scores_V: Tensor, said: Sequence[Phrase], held: Held) -> int:
        """The likeliest phrase that may follow, or END once the product is named: by the last phrase at the latest."""
        known = {number for head, each in held.items() for number in self._numbers.get((head, each.value), ())}
        sayable = {number: phrase for number in sorted(known) if (phrase := self._phrase(number, said, held))}
        if _names_product(said):
            return max([END, *sayable], key=scores_V.tolist().__getitem__)
        nouns = [number for number, phrase in sayable.items() if is_noun(phrase.attribute.head)]
        # After another phrase the product must still be sayable: not "casual" where "casual shoes" is not held.
        others = [
            number
            for number, phrase in sayable.items()
            if number not in nouns and any(self._phrase(noun, [*said, phrase], held) for noun in nouns)
        ]
        options = nouns if len(said) == MAX_PHRASES - 1 else nouns + others
        return max(options, key=scores_V.tolist().__getitem__, default=END)

    def _phrase(self, number: int, said: Sequence[Phrase], held: Held) -> Phrase | None:
        """A phrase, if it says something new and names no class that is not held together with the words before."""
        form = self.lexicon.forms[number - 1]
        phrase = Phrase(form.text, _evidence(form, held))
        words = {word for before in said for word in key_of(before.text)}
        if words & set(key_of(phrase.text)) or phrase.attribute in [before.attribute for before in said]:
            return None
        mentions = self.lexicon.mentions(entitled([*said, phrase]).title)
        return phrase if all(_is_held(mention.names, held) for mention in mentions) else None


def _shortened(titles_BT: Tensor) -> Tensor:
    """The titles without some of their phrases, drawn anew each time."""
    kept = (torch.rand(titles_BT.shape, device=titles_BT.device) >= DROPPED) | (titles_BT == END)
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    return titles_BT.masked_fill(~kept, PADDING).gather(1, order)


def _is_held(names: Sequence[tuple[str, str]], held: Held) -> bool:
    return any(role_of(head) is not None and head in held and held[head].value == value for head, value in names)


def _evidence(form: Form, held: Held) -> Attribute:
    return next(held[head] for head, value in form.names if head in held and held[head].value == value)


def _names_product(phrases: Sequence[Phrase]) -> bool:
    return any(is_noun(phrase.attribute.head) for phrase in phrases)
