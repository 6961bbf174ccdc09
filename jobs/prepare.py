"""`shopkeeper prepare FAMILY --raw PATH`: turns raw data into prepared data in the store, atomically."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Outcome, UsageFailure, log
from jobs.cluster.executor import executor
from jobs.erasure.data import place_of
from jobs.erasure.pending import finish_pending
from jobs.prepare_summary import summary_of
from models.erasure.erased import Erased
from models.erasure.tombstones import Tombstones
from models.errors import DataRejected
from models.family import Family
from models.files import add_directory, leftovers, put_directory, temporary_directory, write_text
from models.prepared import CARD, CURRENT, NAME_LENGTH, NEW, Prepared, events_until, raise_events_until

QUARANTINE, EVENTS_UNTIL = "quarantine", "events_until"


@dataclass(frozen=True)
class Options:
    """None: all flags of prepare belong to the family."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Prepare a family's data and make it current; raises DataRejected if too many rows are bad.

    Existing data with the same fingerprint is reused. A dry run reports the same and leaves the store untouched.
    """
    assert family is not None and config is not None, "prepare needs a family and its PrepareConfig"
    started = time.monotonic()
    data = context.store.data(family.name)
    tombstones = Tombstones(context.store.tombstones)
    newest, erased = tombstones.last_seq, tombstones.erased()
    with _temporary_directory(data, is_dry_run=context.dry_run) as out:
        schema = _prepare(context, family, config, out, erased=erased)
        card = json.loads((out / "card.json").read_text(encoding="utf-8"))
        directory = data / schema.fingerprint[:NAME_LENGTH]
        if context.dry_run:
            is_new = not directory.exists()
        else:
            is_new = add_directory(out, directory)
            if not is_new:
                _renew(Prepared(directory), out, card)
            write_text(data / CURRENT, directory.name + "\n")
            if erased and is_new and family.erasure is not None:
                tombstones.mark_swept(place_of(context.store, Prepared(directory)), newest)
            finish_pending(context, [family])  # also of users who were erased meanwhile
    status = "dry-run" if context.dry_run else "ok" if is_new else "unchanged"
    seconds = round(time.monotonic() - started, 2)
    return Outcome(
        status=status,
        details={**card, "fingerprint": schema.fingerprint, "data": str(directory), "seconds": seconds},
        summary=summary_of(card, directory, status=status, seconds=seconds),
    )


def _prepare(context: Context, family: Family, config: Any, out: Path, *, erased: Erased) -> Any:
    try:
        with executor(context) as pool:
            if erased and family.erasure is not None:
                return family.erasure.prepare(config, out, pool, erased)
            return family.prepare(config, out, pool)
    except DataRejected:
        raise
    except ValueError as error:  # an invalid setting of the family
        raise UsageFailure(str(error)) from error


def _renew(data: Prepared, out: Path, card: dict[str, Any]) -> None:
    """Give equal data that were there already the card and the quarantine of these files, if their bad rows differ."""
    held = {EVENTS_UNTIL: events_until(data)} if EVENTS_UNTIL in card else {}
    if data.card().get("bad") != card.get("bad") or _contents(data.path / QUARANTINE) != _contents(out / QUARANTINE):
        if (out / QUARANTINE).is_dir():
            put_directory(out / QUARANTINE, data.path / QUARANTINE)
        write_text(data.path / CARD, json.dumps({**card, **held}, indent=1, ensure_ascii=False))
    raise_events_until(data, card.get(EVENTS_UNTIL, {}))


def _contents(quarantine: Path) -> dict[str, bytes]:
    """The sha256 of each file."""
    paths = sorted(path for path in quarantine.rglob("*") if path.is_file())
    return {str(path.relative_to(quarantine)): hashlib.sha256(path.read_bytes()).digest() for path in paths}


@contextmanager
def _temporary_directory(data: Path, *, is_dry_run: bool) -> Iterator[Path]:
    """An empty directory next to the finished ones (elsewhere in a dry run), deleted at the end if not renamed."""
    if is_dry_run:
        with tempfile.TemporaryDirectory(prefix="shopkeeper-") as scratch:
            out = Path(scratch) / "data"
            out.mkdir()
            yield out
        return
    created = [parent for parent in (data, *data.parents) if not parent.exists()]
    try:
        with temporary_directory(data / NEW) as out:
            _remove_leftovers(data)
            yield out
    finally:
        for parent in created:
            with suppress(OSError):  # not empty: it holds the data, or something else
                parent.rmdir()


def _remove_leftovers(data: Path) -> None:
    """Delete temporary files of killed runs of prepare, and nothing else that is hidden."""
    for path in leftovers(data, NEW, CURRENT):
        log.info("deleting %s, left by an interrupted prepare", path)
        with suppress(OSError):  # another run is deleting it
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
