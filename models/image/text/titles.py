"""What a title may say: words that name a class of a head, as a shop's own titles have them; never a brand.

A title of a shop mixes what an image shows with brands, names of models, patterns and sizes. Only phrases that name a
class of a head are kept, in the shop's wording and order; a head without a role, such as a brand, is never said.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from models.image.text.describe import is_noun, role_of

END = 0
"""Token after the last phrase; the phrases are numbered from 1."""
PADDING = -1
MAX_PHRASES = 7
MIN_FORM_TITLES = 5
"""A wording of a class that fewer titles have is replaced by a more common one."""
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
    """A phrase that titles may hold, and the classes that it names: one of them has to be held for it to be said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    names: tuple[Name, ...]


@dataclass(frozen=True)
class Mention:
    """A place of a text that names a class, or several that share a name."""

    text: str
    key: Key
    names: tuple[Name, ...]
    """Also those of heads that are never said."""
    word: int
    """Place of its first word."""


class Lexicon:
    """Finds what a text names, and turns titles into phrases."""

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
        """What a text names from left to right, the longest names first: "navy blue" is not "blue"."""
        words = words_of(text)
        stems = [stem(word) for word in words]
        place = 0
        while place < len(words):
            for length in range(min(self._longest, len(words) - place), 0, -1):
                key = tuple(stems[place : place + length])
                if key in self._names:
                    yield Mention(" ".join(words[place : place + length]), key, self._names[key], place)
                    break
            else:
                length = 1
            place += length

    def encode(self, title: str | None, labels: Labels) -> list[int]:
        """The phrases [MAX_PHRASES + 1] of a title that the product's labels confirm, END, and PADDING.

        What is said twice counts the second time: brands, which may have a colour in their name, come first.
        """
        found: dict[int, int] = {}
        for mention in self.mentions(title or ""):
            number = self._by_text.get(mention.text.lower(), self._by_key.get(mention.key))
            if number is not None and _confirmed(self.forms[number - 1].names, labels):
                found[number] = mention.word
        phrases = sorted(found, key=found.__getitem__)[:MAX_PHRASES]
        ended = [*phrases, END] if phrases else []
        return ended + [PADDING] * (MAX_PHRASES + 1 - len(ended))


def learn_forms(
    heads: Mapping[str, Sequence[str]], titles: Sequence[str | None], labels: Sequence[Labels]
) -> list[Form]:
    """The phrases of training titles that name a class, most common first, then the products that no title names."""
    sayable = {head: classes for head, classes in heads.items() if role_of(head) is not None}
    lexicon = Lexicon(heads)
    wordings: dict[str, Counter[str]] = defaultdict(Counter)
    names: dict[str, tuple[Name, ...]] = {}
    for title, of in zip(titles, labels, strict=True):
        for mention in lexicon.mentions(title or ""):
            allowed = tuple(name for name in mention.names if name[0] in sayable)
            if _confirmed(allowed, of):
                wordings[mention.text.lower()][mention.text] += 1
                names[mention.text.lower()] = allowed
    common = [text for text, count in wordings.items() if count.total() >= MIN_FORM_TITLES]
    common.sort(key=lambda text: (-wordings[text].total(), text))
    # Of equally common spellings the first in the order of characters, whatever the order of the rows.
    forms = [
        Form(text=max(sorted(wordings[text]), key=wordings[text].__getitem__), names=names[text]) for text in common
    ]
    known = {name for form in forms for name in form.names}
    plain = [
        Form(text=value, names=((head, value),))
        for head, classes in sayable.items()
        for value in classes
        if is_noun(head) and (head, value) not in known and key_of(value)
    ]
    return (forms + plain)[:MAX_FORMS]


def words_of(text: str) -> list[str]:
    """The words of a text without the marks around them."""
    return _WORD.findall(text)


def stem(word: str) -> str:
    """A word as it is compared: in lower case, in the singular, without hyphens and dots."""
    plain = re.sub(r"[-.'’]", "", word.lower())
    if plain in _IRREGULAR:
        return _IRREGULAR[plain]
    if plain.endswith(("ches", "shes", "sses", "xes")):
        return plain[:-2]
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def key_of(text: str) -> Key:
    """The stems of a text's words."""
    return tuple(stem(word) for word in words_of(text))


def _confirmed(names: Sequence[Name], labels: Labels) -> bool:
    return any(labels.get(head) == value for head, value in names)
