"""Lists of prices as units: proposed, approved, applied and taken back as a whole, each change with who and when."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from models.files import add_directory, sha256, temporary_directory, write_text
from models.price_lists.current import CurrentPrices, Entry, read_current, write_current
from models.price_lists.rows import PriceRow, read_rows, write_rows
from models.raw.notes import say
from models.suggestions import suggestion

RECORD, ROWS = "record.json", "rows.parquet"
NAMED = 5
"""So many offers are named in a message."""
State = Literal["proposed", "approved", "rejected", "applied", "taken back", "superseded"]
Kind = Literal["recommendation", "exploration"]


class PriceListRefused(ValueError):
    """What was asked for cannot be done to this list; nothing was changed."""


class Change(BaseModel):
    """A decision about a list before it touched any price."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["proposed", "approved", "rejected"]
    by: str
    at: str
    """RFC 3339."""
    reason: str = ""


class Origin(BaseModel):
    """What a list was computed from, and what is claimed of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "recommendation"
    model: str
    """The URI of the model."""
    model_version: str
    data: str
    """Fingerprint of the prepared data that had the state of the shop."""
    rules_name: str
    rules: str
    """The text of the file of rules."""
    rules_sha256: str
    verdict: str
    reason: str
    claim: dict[str, Any] | None = None
    left_out: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    """Rules that the prices do not keep, since today's do not."""


class Record(BaseModel):
    """The record of a list; its rows lie next to it and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    id: str
    origin: Origin
    rows_sha256: str
    num_offers: int
    num_changes: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class PriceList:
    """A list with its state; `history` has everything that happened to it, oldest first."""

    record: Record
    state: State
    history: tuple[Change | Entry, ...]
    directory: Path

    def rows(self) -> list[PriceRow]:
        """Its rows; raises ValueError if the file is damaged or was changed."""
        path = self.directory / ROWS
        if not path.is_file() or sha256(path) != self.record.rows_sha256:
            raise ValueError(f"{path} is not what was proposed; restore it from a backup, or propose a new list")
        return read_rows(path)


@dataclass(frozen=True)
class PriceLists:
    """All lists of a store, in `<root>/price-lists`, and the prices that hold now, in `<root>/current-prices`.

    A list of prices is a decision of one person about many prices, so it is applied and taken back as one: prices and
    the ledger of what was applied are one directory, which is replaced at once. One process changes lists at a time;
    others wait for it and then see what it did.
    """

    root: Path

    @property
    def directory(self) -> Path:
        """Where the lists lie."""
        return self.root / "price-lists"

    @property
    def current_directory(self) -> Path:
        """The prices that hold now, as CSV and Parquet: what a shop imports."""
        return self.root / "current-prices"

    def current(self) -> CurrentPrices:
        """The prices that hold now, as far as lists were applied."""
        return read_current(self.current_directory)

    def all(self) -> list[PriceList]:
        """Every list, oldest first; one whose record is damaged is left out, and named in the log."""
        ledger, found = self.current().ledger, list[PriceList]()
        for name in self._names():
            try:
                found.append(self._read(name, ledger))
            except ValueError as error:
                say([str(error)])
        return sorted(found, key=lambda one: one.history[0].at)

    def get(self, list_id: str) -> PriceList:
        """One list; raises PriceListRefused for an unknown id."""
        known = self._names()
        if list_id not in known:
            told = f"there are {', '.join(known[-NAMED:])}" if known else "there are none yet"
            raise PriceListRefused(f"there is no list of prices {list_id!r}{suggestion(list_id, known)}; {told}")
        return self._read(list_id, self.current().ledger)

    def propose(self, rows: Sequence[PriceRow], origin: Origin, *, by: str) -> PriceList:
        """Write a new list; raises PriceListRefused if no price changes."""
        num_changes = sum(row.is_changed for row in rows)
        if not num_changes:
            raise PriceListRefused(f"no price changes, so that there is nothing to propose: {origin.reason}")
        self.directory.mkdir(parents=True, exist_ok=True)
        list_id = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
        with temporary_directory(self.directory / list_id) as temporary:
            write_rows(rows, temporary)
            record = Record(
                id=list_id,
                origin=origin,
                rows_sha256=sha256(temporary / ROWS),
                num_offers=len(rows),
                num_changes=num_changes,
                changes=(Change(state="proposed", by=by, at=_now()),),
            )
            (temporary / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
            is_added = add_directory(temporary, self.directory / list_id)
        assert is_added, "six random digits are unique"
        return self.get(list_id)

    def approve(self, list_id: str, *, by: str, reason: str = "") -> PriceList:
        """Allow a proposed list to be applied."""
        return self._decide(list_id, "approved", allowed=("proposed",), by=by, reason=reason)

    def reject(self, list_id: str, *, by: str, reason: str) -> PriceList:
        """Refuse a list for good, which must not be applied yet."""
        return self._decide(list_id, "rejected", allowed=("proposed", "approved"), by=by, reason=reason)

    def apply(self, list_id: str, *, by: str) -> PriceList:
        """Make the prices of an approved list today's, all at once; open lists about the same offers are superseded.

        Raises PriceListRefused if it is not approved, or if any of its offers has another price now than the list was
        computed from.
        """
        with self._changing():
            wanted, current = self.get(list_id), self.current()
            _require(wanted, ("approved",), "applied")
            rows = wanted.rows()
            if moved := current.differing(rows, from_new=False):
                told = _listed([f"{row.name} {row.old:.2f}, now {current.prices[row.key]:.2f}" for row in moved])
                raise PriceListRefused(
                    f"{list_id} was computed from other prices than today's ({told}); propose a new list"
                )
            at, changed = _now(), {row.key for row in rows if row.is_changed}
            entries = [Entry(list_id=list_id, state="applied", by=by, at=at)]
            for other in self._open(but=list_id, about=changed):
                reason = f"{list_id} has changed prices of its offers"
                entries.append(Entry(list_id=other, state="superseded", by=by, at=at, reason=reason))
            prices = {**current.prices, **{row.key: row.new for row in rows}}
            write_current(self.current_directory, prices, [*current.ledger, *entries])
        return self.get(list_id)

    def take_back(self, list_id: str, *, by: str, reason: str = "") -> PriceList:
        """Restore the prices from before an applied list, of the offers that it changed, all at once.

        Raises PriceListRefused if it is not applied, or if any of these prices was changed again since.
        """
        with self._changing():
            wanted, current = self.get(list_id), self.current()
            _require(wanted, ("applied",), "taken back")
            rows = [row for row in wanted.rows() if row.is_changed]
            if moved := current.differing(rows, from_new=True):
                told = _listed([f"{row.name} {row.new:.2f}, now {current.prices[row.key]:.2f}" for row in moved])
                later = self._later(list_id, current, {row.key for row in moved})
                raise PriceListRefused(
                    f"prices of {list_id} were changed again since ({told}){later}; nothing was taken back"
                )
            entry = Entry(list_id=list_id, state="taken back", by=by, at=_now(), reason=reason)
            prices = {**current.prices, **{row.key: row.old for row in rows}}
            write_current(self.current_directory, prices, [*current.ledger, entry])
        return self.get(list_id)

    def _decide(
        self,
        list_id: str,
        state: Literal["approved", "rejected"],
        *,
        allowed: Sequence[State],
        by: str,
        reason: str,
    ) -> PriceList:
        with self._changing():
            wanted = self.get(list_id)
            _require(wanted, allowed, state)
            change = Change(state=state, by=by, at=_now(), reason=reason)
            record = wanted.record.model_copy(update={"changes": (*wanted.record.changes, change)})
            write_text(wanted.directory / RECORD, record.model_dump_json(indent=1) + "\n")
        return self.get(list_id)

    def _open(self, *, but: str, about: set[tuple[str, str]]) -> list[str]:
        """Lists that could still be applied and were computed from prices of these offers."""
        others = [one for one in self.all() if one.state in ("proposed", "approved") and one.record.id != but]
        return [one.record.id for one in others if about & {row.key for row in one.rows()}]

    def _later(self, list_id: str, current: CurrentPrices, offers: set[tuple[str, str]]) -> str:
        """The lists that were applied after this one and changed any of these offers, as a part of a sentence."""
        place = max(at for at, one in enumerate(current.ledger) if (one.list_id, one.state) == (list_id, "applied"))
        names = dict.fromkeys(one.list_id for one in current.ledger[place + 1 :] if one.state == "applied")
        found = [name for name in names if offers & {row.key for row in self.get(name).rows() if row.is_changed}]
        return f" by {', '.join(found)}, take that back first" if found else ""

    def _names(self) -> list[str]:
        """The ids of all lists; what killed writers left is hidden."""
        found = (path.parent.name for path in self.directory.glob(f"*/{RECORD}"))
        return sorted(name for name in found if not name.startswith("."))

    def _read(self, name: str, ledger: Sequence[Entry]) -> PriceList:
        path = self.directory / name / RECORD
        try:
            record = Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{path} is not the record of a list of prices ({where}: {first['msg']}); restore it from a backup, or "
                "remove its folder"
            ) from None
        if record.id != name:
            raise ValueError(f"{path} is the record of {record.id}, not of {name}; restore it from a backup")
        happened = [entry for entry in ledger if entry.list_id == record.id]
        history: tuple[Change | Entry, ...] = (*record.changes, *happened)
        return PriceList(record, history[-1].state, history, path.parent)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time; the lock ends with the process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _require(wanted: PriceList, allowed: Sequence[State], to_be: str) -> None:
    if wanted.state in allowed:
        return
    last = wanted.history[-1]
    told = f" by {last.by} at {last.at}{f' ({last.reason})' if last.reason else ''}"
    remedy = "; approve it first" if wanted.state == "proposed" else ""
    raise PriceListRefused(
        f"{wanted.record.id} is {wanted.state}{told} and cannot be {to_be}; only a list that is "
        f"{' or '.join(allowed)} can{remedy}"
    )


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
