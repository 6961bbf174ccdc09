"""Receipts of erasures: what was found and deleted, what is left, and by which commands it goes too.

A receipt lies in `<store>/erasures/<id>.json`, readable by its owner only, and names its user by the salted hash.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.erasure.tombstones import RECEIPTS
from models.files import write_text

SEARCHED = ("events", "feature store", "log", "export")
"""What an erasure searches, and `prepare` and `train`, which finish prepared data only, do not."""
State = Literal["deleted", "pending", "held", "maybe", "outside"]
"""deleted: gone from here. pending: `shopkeeper erase --pending` deletes it. held: it was made with the user's data and
stays until it is replaced or deleted. maybe: the data that it was made with are gone, so nobody can tell. outside: not
in this store."""


class Trace(BaseModel):
    """One thing that held the user, or still does."""

    model_config = ConfigDict(extra="forbid")

    what: str
    """Such as events, feature store, prepared data, run, model version, export."""
    where: str
    """Path in the store, or id."""
    state: State
    count: int | None = None
    """Values, events or rows of the user."""
    fingerprint: str | None = None
    """Of the data that held the user."""
    new_fingerprint: str | None = None
    """Of the data that replaced them."""
    remedy: str | None = None
    """The command that finishes the job."""
    note: str | None = None


class Receipt(BaseModel):
    """What an erasure has done for one user."""

    model_config = ConfigDict(extra="forbid")

    receipt_id: str
    user: str
    """Salted hash of the id."""
    requested_at: str
    updated_at: str
    is_new: bool = True
    """False if the user was erased already."""
    traces: list[Trace] = Field(default_factory=list)

    @property
    def status(self) -> str:
        """erased: nothing of the user is left in the store; pending: data wait for `--pending`; else held."""
        states = {trace.state for trace in self.traces}
        return next((state for state in ("pending", "held", "maybe") if state in states), "erased")

    def with_traces(self, traces: list[Trace], *, is_searched: bool = True) -> Receipt:
        """The receipt with newer findings; what was deleted earlier stays on record.

        Unless the store was searched for them now, so does what waits in events, features, logs and exports.
        """
        keys = {(trace.what, trace.where) for trace in traces}
        before = [
            trace
            for trace in self.traces
            if (trace.state == "deleted" or (trace.state == "pending" and trace.what in SEARCHED and not is_searched))
            and (trace.what, trace.where) not in keys
        ]
        return self.model_copy(update={"traces": [*before, *traces], "updated_at": now()})


def new_receipt(user: str, *, is_new: bool, traces: list[Trace]) -> Receipt:
    """A receipt with a fresh id for a user, given by the salted hash."""
    moment = now()
    return Receipt(
        receipt_id=f"er_{moment[:10].replace('-', '')}_{secrets.token_hex(8)}",
        user=user,
        requested_at=moment,
        updated_at=moment,
        is_new=is_new,
        traces=traces,
    )


def write_receipt(root: Path, receipt: Receipt) -> Path:
    """Write a receipt into a store, or replace it."""
    directory = root / RECEIPTS
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{receipt.receipt_id}.json"
    content = {"status": receipt.status, **receipt.model_dump(mode="json", exclude_none=True)}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", mode=0o600)
    return path


def read_receipts(
    root: Path, user: str | None = None, *, on_damaged: Callable[[str], object] | None = None
) -> Iterator[Receipt]:
    """All receipts of a store, or those of one user, oldest first; `on_damaged` is told of one that cannot be read."""
    found = []
    for path in sorted((root / RECEIPTS).glob("er_*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("status", None)
            receipt = Receipt.model_validate(content)
        except (OSError, ValueError, AttributeError, TypeError) as error:  # the others must not wait for it
            if on_damaged is not None:
                on_damaged(f"the receipt {path} cannot be read: {error}; restore it from a backup, or delete it")
            continue
        if user in (None, receipt.user):
            found.append(receipt)
    yield from sorted(found, key=lambda receipt: receipt.requested_at)


def now() -> str:
    """The time, RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
