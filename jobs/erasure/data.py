"""Takes erased users out of the prepared data of a store: new data replace the old, which are deleted."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Store, log
from jobs.cluster.executor import executor
from models.erasure.erased import Erased
from models.erasure.features import personal
from models.erasure.quarantine import clean_quarantine
from models.erasure.tombstones import RECEIPTS, Tombstones
from models.errors import BundleRejected, DataRejected
from models.family import Family
from models.files import add_directory, remove_directory, temporary_directory, write_text
from models.json_files import read_json
from models.prepared import CURRENT, NAME_LENGTH, SCHEMA, Prepared

LOCK = ".lock"
REWRITTEN = "rewritten"
"""Name of unfinished rewritten data; not that of prepare, whose unfinished data must be left alone."""


@dataclass(frozen=True)
class Swept:
    """What became of one prepared data directory."""

    family: str
    place: str
    """Path in the store."""
    fingerprint: str
    new_fingerprint: str | None
    """Of the data that replaced it; None if it stayed, or too little would be left."""
    users: Collection[bytes]
    """Digests of the erased users who were in it."""
    quarantined: int = 0
    """Bad rows that were deleted."""
    note: str | None = None


def place_of(store: Store, data: Prepared) -> str:
    """Name of prepared data among the places that were searched."""
    return str(data.path.relative_to(store.root))


def prepared_data(store: Store, family: Family) -> list[Prepared]:
    """All finished prepared data of a family."""
    return [Prepared(path.parent) for path in sorted(store.data(family.name).glob(f"[!.]*/{SCHEMA}"))]


def is_pending(store: Store, family: Family, tombstones: Tombstones) -> bool:
    """Whether prepared data of a family were not searched for the newest tombstones."""
    newest = tombstones.last_seq
    return newest > 0 and any(tombstones.swept(place_of(store, data)) < newest for data in prepared_data(store, family))


def sweep_data(context: Context, family: Family) -> list[Swept]:
    """Search all prepared data of a family that were not, and replace those that hold an erased user.

    Each step leaves the old data or the new ones, so that a killed sweep is simply run again.
    """
    store, tombstones = context.store, Tombstones(context.store.tombstones)
    if not is_pending(store, family, tombstones):
        return []
    with one_at_a_time(store):
        _remove_leftovers(store.data(family.name))
        newest, erased = tombstones.last_seq, tombstones.erased()
        swept = []
        for data in prepared_data(store, family):
            if tombstones.swept(place_of(store, data)) < newest:
                found = _sweep(context, family, data, tombstones, erased=erased, newest=newest)
                swept += [found] if found.users or found.quarantined or found.note else []
    return swept


@contextmanager
def one_at_a_time(store: Store) -> Iterator[None]:
    """Wait for another process that erases; the lock ends with the process that holds it."""
    directory = store.root / RECEIPTS
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(
    context: Context, family: Family, data: Prepared, tombstones: Tombstones, *, erased: Erased, newest: int
) -> Swept:
    store, place, fingerprint = context.store, place_of(context.store, data), data.fingerprint
    if family.erasure is None:
        reason = "this family cannot rewrite its data; prepare them from a log without the user"
        return Swept(family.name, place, fingerprint, None, (), note=reason if personal(family) else None)
    held = family.erasure.held(data, erased)
    if not held:
        quarantined = clean_quarantine(data.path / "quarantine", erased)
        tombstones.mark_swept(place, newest)
        return Swept(family.name, place, fingerprint, None, (), quarantined)
    tombstones.record_held(fingerprint, place, held)
    log.info("taking %d erased users out of %s", len(held), data.path)
    new: str | None = None
    note: str | None = None
    try:
        with temporary_directory(store.data(family.name) / REWRITTEN) as out:
            with executor(context) as pool:
                made = str(family.erasure.rewrite(data, out, pool, erased).fingerprint)
            quarantined = int(Prepared(out).card().get("quarantined_rows_deleted", 0))
            directory, new = store.data(family.name) / made[:NAME_LENGTH], made
            tombstones.record_rewritten(fingerprint, made)
            if add_directory(out, directory):
                tombstones.mark_swept(place_of(store, Prepared(directory)), newest)
    except DataRejected as error:
        quarantined, note = 0, f"too little is left, so the data were deleted: {error}"
    _move_pointer(store.data(family.name) / CURRENT, data.path.name, new)
    _remove_derived(store, family, data, fingerprint)
    remove_directory(data.path)
    tombstones.mark_swept(place, newest)  # who is not in `held` was not in these data, and not in their models
    return Swept(family.name, place, fingerprint, new, held, quarantined, note)


def _move_pointer(pointer: Path, old: str, new: str | None) -> None:
    if not pointer.is_file() or pointer.read_text(encoding="utf-8").strip() != old:
        return
    if new is None:
        pointer.unlink()
    else:
        write_text(pointer, new[:NAME_LENGTH] + "\n")


def _remove_derived(store: Store, family: Family, data: Prepared, fingerprint: str) -> None:
    """Delete what was made of the old data and can be made again: scores by user, reports, stores of `predict`."""
    shutil.rmtree(store.baselines(family.name) / data.name, ignore_errors=True)
    for path in (store.root / family.name).glob(f"features-{data.name}-*.sqlite*"):
        path.unlink(missing_ok=True)
    for numbers in (store.root / family.name / "reports").glob("*/evaluation.json"):
        if _reported(numbers).get("data_fingerprint") == fingerprint:  # its examples are histories of users
            remove_directory(numbers.parent)


def _reported(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (BundleRejected, OSError):
        return {}


def _remove_leftovers(data: Path) -> None:
    """Delete what a killed sweep was writing, or had renamed in order to delete it: only one runs at a time."""
    for name in (REWRITTEN, "[0-9a-f]" * NAME_LENGTH):
        for path in data.glob(f".{name}.{'[0-9a-f]' * 8}"):
            with suppress(OSError):
                shutil.rmtree(path)
