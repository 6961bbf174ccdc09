"""The part of a family's contract that erases users from its prepared data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from pydantic import BaseModel
from typing_extensions import TypeVar

from models.erasure.erased import Erased
from models.prepared import Prepared

PrepareConfigT = TypeVar("PrepareConfigT", default=Any)
SchemaT = TypeVar("SchemaT", bound=BaseModel, default=Any)


@dataclass(frozen=True)
class Erasure(Generic[PrepareConfigT, SchemaT]):
    """How prepared data whose rows are users' lose those of erased users."""

    prepare: Callable[[PrepareConfigT, Path, Executor, Erased], SchemaT]
    """As `Family.prepare`, without the rows of erased users: no file mentions them, and the card counts their rows
    under `bad` with the reason `erased_user`. The result equals that of raw data that never had them."""
    held: Callable[[Prepared, Erased], Collection[bytes]]
    """Digests of the erased users of whom prepared data still have an event before the end of the erasure."""
    rewrite: Callable[[Prepared, Path, Executor, Erased], SchemaT]
    """Fill an empty directory with the prepared data without these events, split at the same times; DataRejected where
    too little is left. The fingerprint is that of raw data that never had them, prepared with these times."""
    features_quote: bool = False
    """Whether stored features quote rows of users under keys that are no users', such as reviews of a product: what was
    deployed before the data were rewritten is then listed as held until the next `deploy`."""
