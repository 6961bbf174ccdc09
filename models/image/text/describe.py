"""Titles and descriptions from templates, which name only attributes the classifier is confident of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.image.text.chinese import COLOURS, PEOPLE, SEASONS, TYPES, USES

Language = Literal["en", "zh"]

THRESHOLD = 0.7
"""Default confidence that an attribute needs in order to be mentioned."""

ROLES = {
    "type": ("type", "articletype", "producttype", "class", "label"),
    "category": ("category", "subcategory", "mastercategory"),
    "colour": ("colour", "color", "basecolour", "basecolor"),
    "people": ("gender", "people", "audience"),
    "use": ("usage", "use", "occasion"),
    "season": ("season",),
}
"""Role -> names of heads in lower case, without spaces and underscores; the first head that matches is used."""
_CHINESE = {"type": TYPES, "category": TYPES, "colour": COLOURS, "people": PEOPLE, "use": USES, "season": SEASONS}
_TEMPLATES: Mapping[Language, Mapping[str, str]] = {
    "en": {"colour": "in {}", "people": "for {}", "use": "for {} wear", "season": "for the {} season"},
    "zh": {"colour": "{}", "people": "适合{}", "use": "{}风格", "season": "适合{}"},
}
_ENGLISH_PEOPLE = {"unisex": "everyone"}


@dataclass(frozen=True)
class Attribute:
    """A class predicted with enough confidence to be mentioned."""

    head: str
    value: str
    confidence: float


@dataclass(frozen=True)
class Phrase:
    """Some words and the attribute that supports them."""

    text: str
    attribute: Attribute


@dataclass(frozen=True)
class Description:
    """A title and a description; every statement in them is one of the phrases."""

    title: str
    description: str
    phrases: tuple[Phrase, ...]


def role_of(head: str) -> str | None:
    """The role of a head in a sentence; None if it is never mentioned, such as a brand."""
    plain = _plain(head)
    return next((role for role, names in ROLES.items() if plain in names), None)


def is_noun(head: str) -> bool:
    """Whether a head names the product itself; no text is generated without one."""
    return role_of(head) in ("type", "category")


def confident_attributes(
    heads: Mapping[str, Sequence[str]], probabilities: Mapping[str, Sequence[float]], threshold: float
) -> dict[str, Attribute]:
    """The most likely class of each head whose probability reaches the threshold."""
    found = {}
    for head, row in probabilities.items():
        index = max(range(len(row)), key=row.__getitem__)
        if row[index] >= threshold:
            found[head] = Attribute(head, heads[head][index], row[index])
    return found


def describe(attributes: Mapping[str, Attribute], language: Language) -> Description:
    """Fill the templates of a language; empty without a type or category.

    Heads without a role are left out, such as brands: an image is no reliable evidence of a brand.
    """
    by_role = _by_role(attributes)
    noun_role = "type" if "type" in by_role else "category"
    if noun_role not in by_role:
        return Description("", "", ())
    phrases = [Phrase(_word(noun_role, by_role[noun_role], language), by_role[noun_role])]
    for role, template in _TEMPLATES[language].items():
        if role in by_role:
            phrases.append(Phrase(template.format(_word(role, by_role[role], language)), by_role[role]))
    texts = [phrase.text for phrase in phrases]
    description = f"{texts[0]} {', '.join(texts[1:])}".strip() + "." if language == "en" else f"{'，'.join(texts)}。"
    return Description(_title(by_role, noun_role, language), description, tuple(phrases))


def describe_title(phrases: Sequence[Phrase]) -> Description:
    """A title of the phrases in their order; the description repeats it."""
    title = " ".join(phrase.text for phrase in phrases)
    return Description(title, f"{title}." if title else "", tuple(phrases))


def _by_role(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    plain = {_plain(head): attribute for head, attribute in attributes.items()}
    found = {role: [plain[name] for name in names if name in plain] for role, names in ROLES.items()}
    return {role: attributes[0] for role, attributes in found.items() if attributes}


def _plain(head: str) -> str:
    return head.lower().replace("_", "").replace(" ", "")


def _title(by_role: Mapping[str, Attribute], noun_role: str, language: Language) -> str:
    words = {role: _word(role, attribute, language) for role, attribute in by_role.items()}
    if language == "zh":
        return "".join(words[role] for role in ("people", "colour", noun_role) if role in words)
    parts = [words["colour"].title()] if "colour" in words else []
    parts.append(words[noun_role])
    return " ".join(parts) + (f" for {words['people'].title()}" if "people" in words else "")


def _word(role: str, attribute: Attribute, language: Language) -> str:
    """The class name as it is written in a sentence."""
    plain = attribute.value.lower()
    if language == "zh":
        return _CHINESE[role].get(plain, attribute.value)
    if role in ("type", "category"):
        return attribute.value
    return _ENGLISH_PEOPLE.get(plain, plain) if role == "people" else plain
