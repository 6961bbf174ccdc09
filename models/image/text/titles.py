"""Tokenises the shop's titles into phrases that name a class of a head; never a brand.

The titles of a shop mix what an image shows with brands, model names, patterns and sizes. Only phrases that name a
class of a head are kept, in the shop's wording and order; heads without a role, such as brands, are left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from models.image.text.describe import is_noun, role_of

END = 0
"""The end-of-title token; phrases are numbered from 1."""
PADDING = -1
MAX_PHRASES = 7
MIN_FORM_TITLES = 5
"""A wording in fewer titles is not in the vocabulary and is replaced by a more frequent one of the same class."""
MAX_FORMS = 30_000

_WORD = re.compile(r"[^\W_](?:[\w&+.'’-]*[^\W_])?")
_IRREGULAR = {"men": "man", "mens": "man", "women": "woman", "womens": "woman", "scarves": "scarf"}

Name = tuple[str, str]
"""Head and class."""
Key = tuple[str, ...]
"""Stems of the words of a phrase."""
Labels = Mapping[str, str | None]
"""Head -> class of one product."""


class Form(BaseModel):
    """A phrase of the vocabulary and the classes that it names; a title may use it if one of them is predicted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    names: tuple[Name, ...]


@dataclass(frozen=True)
class Mention:
    """A span of a text that names one class, or several with the same name."""

    text: str
    key: Key
    names: tuple[Name, ...]
    """Includes heads that are never mentioned."""
    word: int
    """Index of its first word."""


class Lexicon:
    """Finds class names in texts and encodes titles as phrases."""

    def __init__(self, heads: Mapping[str, Sequence[str]], forms: Sequence[Form] = ()) -> None:
        self.forms = tuple(forms)
        found: dict[Key, dict[Name, None]] = defaultdict(dict)
        for head, classes in heads.items():
            for value in classes:
                found[key_of(value)][head, value] = None
        self._names = {key: tuple(names) for key, names in found.items() if key}
        self._longest = max(map(len, self._names), default=0)
        self._by_text = {form.text.lower(): number for number, form in enumerate(forms, 1)}
        self._by_key: dict[Key, int] = {}
        for number, form in enumerate(forms, 1):
            self._by_key.setdefault(key_of(form.text), number)

    def mentions(self, text: str) -> Iterator[Mention]:
        """The classes a text names, left to right, by longest match: "navy blue" is not "blue"."""
        words = words_of(text)
        stems = [stem(word) for word in words]
        index = 0
        while index < len(words):
            for length in range(min(self._longest, len(words) - index), 0, -1):
                key = tuple(stems[index : index + length])
                if key in self._names:
                    yield Mention(" ".join(words[index : index + length]), key, self._names[key], index)
                    break
            else:
                length = 1
            index += length

    def encode(self, title: str | None, labels: Labels) -> list[int]:
        """The phrases [MAX_PHRASES + 1] of a title that agree with the product's labels, then END and PADDING.

        Of a repeated phrase the last occurrence counts: titles begin with the brand, whose name may contain a colour.
        """
        found: dict[int, int] = {}
        for mention in self.mentions(title or ""):
            number = self._by_text.get(mention.text.lower(), self._by_key.get(mention.key))
            if number is not None and _agrees(self.forms[number - 1].names, labels):
                found[number] = mention.word
        phrases = sorted(found, key=found.__getitem__)[:MAX_PHRASES]
        ended = [*phrases, END] if phrases else []
        return ended + [PADDING] * (MAX_PHRASES + 1 - len(ended))


def learn_forms(
    heads: Mapping[str, Sequence[str]], titles: Sequence[str | None], labels: Sequence[Labels]
) -> list[Form]:
    """The vocabulary: phrases of training titles that name a class, most frequent first, then unnamed product types."""
    mentionable = {head: classes for head, classes in heads.items() if role_of(head) is not None}
    lexicon = Lexicon(heads)
    wordings: dict[str, Counter[str]] = defaultdict(Counter)
    names: dict[str, tuple[Name, ...]] = {}
    for title, of in zip(titles, labels, strict=True):
        for mention in lexicon.mentions(title or ""):
            allowed = tuple(name for name in mention.names if name[0] in mentionable)
            if _agrees(allowed, of):
                wordings[mention.text.lower()][mention.text] += 1
                names[mention.text.lower()] = allowed
    common = [text for text, count in wordings.items() if count.total() >= MIN_FORM_TITLES]
    common.sort(key=lambda text: (-wordings[text].total(), text))
    # Ties between spellings are broken alphabetically, so that the order of the rows does not matter.
    forms = [
        Form(text=max(sorted(wordings[text]), key=wordings[text].__getitem__), names=names[text]) for text in common
    ]
    known = {name for form in forms for name in form.names}
    plain = [
        Form(text=value, names=((head, value),))
        for head, classes in mentionable.items()
        for value in classes
        if is_noun(head) and (head, value) not in known and key_of(value)
    ]
    return (forms + plain)[:MAX_FORMS]


def words_of(text: str) -> list[str]:
    """The words of a text without surrounding punctuation."""
    return _WORD.findall(text)


def stem(word: str) -> str:
    """A word normalised for comparison: lower case, singular, without hyphens and dots."""
    plain = re.sub(r"[-.'’]", "", word.lower())
    if plain in _IRREGULAR:
        return _IRREGULAR[plain]
    if plain.endswith(("ches", "shes", "sses", "xes")):
        return plain[:-2]
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def key_of(text: str) -> Key:
    """The stems of the words of a text."""
    return tuple(stem(word) for word in words_of(text))


def _agrees(names: Sequence[Name], labels: Labels) -> bool:
    return any(labels.get(head) == value for head, value in names)
