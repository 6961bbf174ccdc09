"""What is left of a user in a store now, found by looking and not by what a receipt says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq

from jobs.cli.context import Context
from jobs.erasure.data import place_of, prepared_data
from jobs.erasure.lineage import DATA, clean_fingerprints, models_by_family
from jobs.erasure.logs import logs_of
from jobs.erasure.pending import export_traces, model_traces, outside, shown_in, unfinished, with_users
from jobs.serving.event_store import event_addresses
from models.erasure.erased import FOREVER, Erased, digest_of
from models.erasure.features import personal, stores_of
from models.erasure.quarantine import quoting_rows
from models.erasure.receipts import Trace
from models.erasure.tombstones import Tombstones
from models.errors import EventsUnavailable
from models.events.event import SESSION
from models.events.store import EventStore, open_events


def remaining(context: Context, user_id: str) -> list[Trace]:
    """Everything that still has the user, or was made with their data."""
    tombstones = Tombstones(context.store.tombstones)
    salt = tombstones.erased().salt
    erased = Erased(salt, {digest_of(user_id, salt): FOREVER})
    families = with_users()
    models, down = models_by_family(context, families)
    clean = clean_fingerprints(context, families)
    user = digest_of(user_id, salt).hex()
    found = [
        *_stored(context, user_id),
        *_prepared(context, erased),
        *unfinished(context),
        *_logged(context, erased),
        *export_traces(context, erased, changes=False),
        *model_traces(context, tombstones, user, models=models, clean=clean),
        *outside(context),
    ]
    if down is not None:
        found.append(Trace(what="tracking server", where=context.tracking_uri or "", state="maybe", note=down))
    return found


def _stored(context: Context, user_id: str) -> Iterator[Trace]:
    remedy = context.command(f"erase {user_id}")
    for address in event_addresses(context):
        where = shown_in(context, address)
        try:
            store = open_events(address, create=False)
            try:
                count = _num_events(store, user_id)
            finally:
                store.close()
        except (EventsUnavailable, ValueError) as error:
            yield Trace(what="events", where=where, state="maybe", note=str(error))
            continue
        if count:
            yield Trace(what="events", where=where, state="pending", count=count, remedy=remedy)
    for family in with_users():
        for path in stores_of(context.store.root, family):
            if count := _values(path, personal(family), user_id):
                where = str(path.relative_to(context.store.root))
                yield Trace(what="feature store", where=where, state="pending", count=count, remedy=remedy)


def _num_events(store: EventStore, user_id: str) -> int:
    """How many events a store has of a user, or of a session that nobody logged in to."""
    if not user_id.startswith(SESSION):
        return len(store.of(user_id=user_id, session_id=None, after_seq=0))
    session_id = user_id.removeprefix(SESSION)
    return 0 if store.owner(session_id) else len(store.of(user_id=None, session_id=session_id, after_seq=0))


def _values(path: Path, names: tuple[str, ...], user_id: str) -> int:
    marks = ", ".join("?" for _ in names)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        select = f"SELECT COUNT(*) FROM feature WHERE name IN ({marks}) AND key = ?"
        return int(connection.execute(select, (*names, user_id)).fetchone()[0])


def _prepared(context: Context, erased: Erased) -> Iterator[Trace]:
    remedy = context.command("erase --pending")
    for family in with_users():
        for data in prepared_data(context.store, family):
            where = place_of(context.store, data)
            if family.erasure is not None and family.erasure.held(data, erased):
                yield Trace(what=DATA, where=where, state="pending", fingerprint=data.fingerprint, remedy=remedy)
            if rows := sum(
                quoting_rows(pq.read_table(path), erased) for path in data.path.glob("quarantine/*.parquet")
            ):
                yield Trace(what="quarantine", where=where, state="pending", count=rows, remedy=remedy)


def _logged(context: Context, erased: Erased) -> Iterator[Trace]:
    remedy = context.command("erase --pending")
    for path in logs_of(context.store):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if count := sum(erased.quotes(line) for line in lines):
            where = str(path.relative_to(context.store.root))
            yield Trace(what="log", where=where, state="pending", count=count, remedy=remedy)
