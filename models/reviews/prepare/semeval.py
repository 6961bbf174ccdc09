"""Reads labelled aspects from XML in the format of SemEval-2014 task 4, without document types and entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from models.errors import DataRejected

EXAMPLE = (
    '<sentences><sentence><text>Good food.</text><aspectTerms><aspectTerm term="food" polarity="positive" from="5" '
    'to="9"/></aspectTerms></sentence></sentences>'
)
LabelRow = dict[str, Any]
"""text, term, polarity, from and to as they stand in a file; a sentence without terms has a row without a term."""


def read_semeval(path: Path) -> list[LabelRow]:
    """The labelled terms of an XML file; raises DataRejected, with the line, for what is not such a file.

    A document type is refused before anything in it is read: entities declared there can expand without end, or name
    other files.
    """
    reader = _Reader(path)
    try:
        with path.open("rb") as file:
            reader.parser.ParseFile(file)
    except DataRejected:  # a ValueError too
        raise
    except expat.ExpatError as error:
        what = expat.ErrorString(error.code)
        raise DataRejected(
            f"{path}:{error.lineno}: is not well-formed XML: {what}; export it again, as UTF-8, such as {EXAMPLE}"
        ) from None
    except (LookupError, ValueError) as error:  # expat reads single bytes, UTF-8 and UTF-16
        raise DataRejected(f"{path}: its encoding cannot be read: {error}; save it as UTF-8") from None
    except OSError as error:
        raise DataRejected(f"{path} cannot be read: {error.strerror}; check the path, see --aspects") from None
    if not reader.has_sentence:
        raise DataRejected(f"{path} has no element <sentence>; give the format of SemEval-2014, such as {EXAMPLE}")
    return reader.rows


class _Reader:
    """Collects the sentences of a file while expat reads it."""

    def __init__(self, path: Path) -> None:
        self.rows: list[LabelRow] = []
        self.has_sentence = False
        self._path = path
        self._text: list[str] | None = None
        self._is_text = self._is_sentence = False
        self._terms: list[dict[str, str]] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._document_type
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _reject(self, what: str) -> NoReturn:
        raise DataRejected(f"{self._path}:{self.parser.CurrentLineNumber}: {what}")

    def _document_type(self, *_: Any) -> None:
        self._reject(
            "has a document type (<!DOCTYPE ...>), whose entities can expand without end or read other files; remove "
            "it, and write entities out"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Opinion":
            self._reject("<Opinion> is of SemEval-2015 and 2016, which is not read; write <aspectTerm> as in 2014")
        if name == "sentence" and self._is_sentence:
            self._reject("a <sentence> is inside another; close each before the next begins")
        if name in ("text", "aspectTerm") and not self._is_sentence:
            self._reject(f"<{name}> is outside of a <sentence>; put each into the sentence that it belongs to")
        if name == "sentence":
            self.has_sentence = self._is_sentence = True
            self._text, self._terms = None, []
        elif name == "text":
            if self._text is not None:
                self._reject("a <sentence> has more than one <text>; give each text a sentence of its own")
            self._text, self._is_text = [], True
        elif name == "aspectTerm":
            self._terms.append(attributes)

    def _end(self, name: str) -> None:
        if name == "text":
            self._is_text = False
        elif name == "sentence":
            self._is_sentence = False
            text = None if self._text is None else "".join(self._text)
            for term in self._terms or [{}]:
                self.rows.append({"text": text, **{key: term.get(key) for key in KEYS}})

    def _characters(self, characters: str) -> None:
        if self._is_text and self._text is not None:
            self._text.append(characters)


KEYS = ("term", "polarity", "from", "to")
