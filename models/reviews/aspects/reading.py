"""A shop's own words for aspects: a YAML file that extends the seed lexicons; mistakes are named with their line."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from models.documents import DocumentUnreadable, Listing, Node, Problems, Scalar, Table, parse, read_text
from models.reviews.aspects.chinese import CHINESE
from models.reviews.aspects.english import ENGLISH
from models.reviews.aspects.lexicon import OPPOSITES, AspectWords, Lexicon
from models.suggestions import suggestion

FILE = "aspects.yaml"
"""The shop's file in prepared data and in every bundle; empty without one."""
SEEDS: Mapping[str, Lexicon] = {"en": ENGLISH, "zh": CHINESE}
"""The lexicons that every shop has."""
ASPECT_KEYS = tuple(one.name for one in fields(AspectWords))
WORD_KEYS = ("positive", "negative", "negations", "contrasts")
EXAMPLE = "en: {aspects: {taste: {terms: [taste, flavour], positive: [rich]}}}"


class LexiconRejected(ValueError):
    """A file of words for aspects has mistakes; the text names each with its line."""


def read_lexicon(path: Path) -> str:
    """The text of a shop's file; raises LexiconRejected."""
    try:
        text = read_text(path, "words for aspects")
    except DocumentUnreadable as error:
        raise LexiconRejected(str(error)) from None
    parse_lexicons(text, path)
    return text


@functools.lru_cache(maxsize=8)
def lexicons_of(content: bytes) -> Mapping[str, Lexicon]:
    """The lexicons by language: the seeds, extended by the content of a shop's file, which may be empty."""
    return parse_lexicons(content.decode(), Path(FILE)) if content else SEEDS


def parse_lexicons(text: str, path: Path) -> Mapping[str, Lexicon]:
    """The seeds extended by the text of a file called `path`; raises LexiconRejected."""
    problems = Problems()
    root = parse(text, problems, needs=f"words by language, such as `{EXAMPLE}`")
    found = dict(SEEDS)
    if root is not None:
        for language, node in _entries(root, "", tuple(SEEDS), problems):
            found[language] = SEEDS[language].with_more(_lexicon(node, language, problems))
    if problems.found:
        raise LexiconRejected(f"{problems.counted} in the words for aspects:\n{problems.text(path)}")
    return found


def _lexicon(node: Node, where: str, problems: Problems) -> Lexicon:
    aspects, found = dict[str, AspectWords](), dict[str, frozenset[str]]()
    for key, value in _entries(node, where, ("aspects", *WORD_KEYS), problems):
        if key != "aspects":
            found[key] = _words(value, f"{where}.{key}", problems)
            continue
        for name, part in _entries(value, f"{where}.aspects", None, problems):
            place = f"{where}.aspects.{name}"
            given = _entries(part, place, ASPECT_KEYS, problems)
            aspects[name] = AspectWords(**{one: _words(node, f"{place}.{one}", problems) for one, node in given})
            _check_aspect(aspects[name], part.line, place, problems)
    if both := found.get("positive", frozenset()) & found.get("negative", frozenset()):
        problems.add(node.line, where, f"{sorted(both)[0]!r} is both positive and negative; keep one")
    return Lexicon(aspects=aspects, **found)


def _check_aspect(aspect: AspectWords, line: int, where: str, problems: Problems) -> None:
    for first, second in OPPOSITES:
        if both := getattr(aspect, first) & getattr(aspect, second):
            problems.add(line, where, f"{sorted(both)[0]!r} is both {first} and {second}; keep one")


def _entries(node: Node, where: str, known: Sequence[str] | None, problems: Problems) -> list[tuple[str, Node]]:
    """The keys of a mapping with their values; unknown keys are problems."""
    if not isinstance(node, Table):
        problems.add(node.line, where, f"needs keys, such as `{EXAMPLE}`")
        return []
    for key in node.entries:
        if known is not None and key not in known:
            place = f"{where}.{key}" if where else key
            message = f"there is no such key{suggestion(key, known)}; known are {', '.join(known)}"
            problems.add(node.lines[key], place, message)
    return [(key, value) for key, value in node.entries.items() if known is None or key in known]


def _words(node: Node, where: str, problems: Problems) -> frozenset[str]:
    """The words of a list, in lower case; a space in one is written as a hyphen in the lexicon."""
    if not isinstance(node, Listing):
        problems.add(node.line, where, "needs a list of words, such as [taste, flavour]")
        return frozenset()
    found = set[str]()
    for item in node.items:
        if isinstance(item, Scalar) and item.kind != "null" and item.text.strip():
            found.add("-".join(item.text.casefold().split()))
        else:
            problems.add(item.line, where, "each word must be text that is not empty")
    return frozenset(found)
