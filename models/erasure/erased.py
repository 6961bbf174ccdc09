"""The erased users as one value: salted hashes of their ids, to recognise their rows anywhere without knowing them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from models.raw.ids import MAX_ID_CHARACTERS, Id, has_control_characters, id_text

REASON = "erased_user"
"""The reason of rows of erased users in the card of prepared data; they are neither bad nor kept in quarantine."""
FOREVER = float("inf")
DIGEST_BYTES = 16

_SEPARATORS = re.compile(r"""[\s,;|"'()\[\]{}<>=&?]+""")
_WORD = re.compile(r"""[^\s,;|"'()\[\]{}<>=&?:./!*`\\]+""")
MAX_WORDS = 6
_ID: TypeAdapter[str] = TypeAdapter(Id)


@dataclass(frozen=True)
class Erased:
    """Which users are erased, and until when; small, so that it can be sent to any process."""

    salt: bytes = b""
    until_s: Mapping[bytes, float] = field(default_factory=dict)
    """Digest of an id -> events of the user before this time, in epoch seconds, are left out; FOREVER unless the user
    has consented anew."""

    def __bool__(self) -> bool:
        return bool(self.until_s)

    def until(self, user_id: str) -> float | None:
        """Until when an id, in the form of `models.raw.ids`, is erased; None if it is not."""
        return self.until_s.get(digest_of(user_id, self.salt)) if self.until_s else None

    def until_each(self, ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """The same for each id of a text column, -infinity where it is not erased; each distinct id is hashed once."""
        encoded = pc.dictionary_encode(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids)
        known = [self.until(one) if one is not None else None for one in encoded.dictionary.to_pylist()]
        of_code = np.array([-FOREVER if one is None else one for one in known] + [-FOREVER])
        codes = pc.fill_null(encoded.indices.cast(pa.int64()), len(known)).to_numpy(zero_copy_only=False)
        found: npt.NDArray[np.float64] = of_code[codes]
        return found

    def quotes(self, text: str) -> bool:
        """Whether an erased id stands in a line of text, alone or between separators such as blanks and dots.

        It may have separators itself, up to MAX_WORDS words with those between them.
        """
        candidates = {str(id_text(text)), *_words(text), *_phrases(text)}
        return any(self.until(each) is not None for each in candidates if each)

    def is_in(self, value: Any) -> bool:
        """Whether an erased id is one of the values of a JSON value, at any depth."""
        return any(self.until(text) is not None for text in scalars(value))


NOBODY = Erased()


def digest_of(user_id: str, salt: bytes) -> bytes:
    """The salted hash of an id (BLAKE2b with a key)."""
    return hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), key=salt, digest_size=DIGEST_BYTES).digest()


def checked_id(given: object) -> str:
    """A user id in the form of logs and requests (models.raw.ids); raises ValueError for one that nobody can have."""
    remedy = f"give the id as in the log, of 1 to {MAX_ID_CHARACTERS} characters"
    try:
        user_id = _ID.validate_python(given)
        user_id.encode()
    except (ValidationError, UnicodeEncodeError):
        raise ValueError(f"{given!r} is not a user id; {remedy}") from None
    if has_control_characters(user_id):
        raise ValueError(f"{given!r} is not a user id, since it has control characters; {remedy}")
    return user_id


def scalars(value: Any) -> Iterator[str]:
    """The texts and numbers of a JSON value, keys of objects included, as ids; words of a text too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    elif isinstance(value, str):
        yield str(id_text(value))
        yield from _words(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            yield str(id_text(value))
        except ValueError:  # a float that is not exact is no id
            return


def _words(text: str) -> Iterator[str]:
    for word in _SEPARATORS.split(text):
        if word:
            yield str(id_text(word))


def _phrases(text: str) -> Iterator[str]:
    """Each run of up to MAX_WORDS words of a text, with what stands between them."""
    spans = [match.span() for match in _WORD.finditer(text)]
    for place, (start, _) in enumerate(spans):
        for _, end in spans[place : place + MAX_WORDS]:
            yield str(id_text(text[start:end]))
