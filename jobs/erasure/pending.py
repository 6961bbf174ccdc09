"""Finishes erasures: everything that holds an erased user and can be changed is changed, and the receipts say so."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping

from jobs.cli.context import Context, Failure, log
from jobs.erasure.data import Swept, is_pending, one_at_a_time, place_of, prepared_data, sweep_data
from jobs.erasure.lineage import (
    DATA,
    Model,
    clean_fingerprints,
    held_fingerprints,
    models_by_family,
    searched_names,
    traces_of,
)
from jobs.erasure.logs import clean_logs
from jobs.serving.event_store import event_addresses
from models import FAMILIES
from models.erasure.copies import RECORD, CopiesUnreadable, Copy, recorded_copies
from models.erasure.erased import FOREVER, Erased
from models.erasure.exported import clean_export, search_export
from models.erasure.features import personal, stores_of, sweep
from models.erasure.receipts import Receipt, Trace, read_receipts, write_receipt
from models.erasure.request import EVENTS
from models.erasure.tombstones import Tombstones
from models.errors import BundleRejected, EventsUnavailable
from models.events.store import open_events, shown
from models.family import Family
from models.prepared import CARD, NAME_LENGTH, NEW

FEATURES = "feature store"
OF_ALL = "of all users erased until then"


def with_users(families: Collection[Family] | None = None) -> list[Family]:
    """The families that keep something by user."""
    return [each for each in (families or FAMILIES.values()) if each.erasure is not None or personal(each)]


def finish_pending(context: Context, families: Collection[Family]) -> list[Swept]:
    """Take erased users out of the prepared data of families, if any wait; what prepare and train begin or end with."""
    tombstones = Tombstones(context.store.tombstones)
    waiting = [family for family in families if is_pending(context.store, family, tombstones)]
    swept = [each for family in waiting for each in sweep_data(context, family)]
    if swept:
        update_receipts(context)
    return swept


def finish(context: Context, families: Collection[Family]) -> list[Trace]:
    """The same for everything in the store: events, feature stores, logs, recorded exports, and data of the families.

    Returns what was deleted, and as pending what could not be: that does not stop the rest.
    """
    store = context.store
    erased = Tombstones(store.tombstones).erased()
    if not erased:
        return []
    with one_at_a_time(store):
        found = [*_events(context, erased), *_features(context, erased)]
        for path, count in clean_logs(store, erased).items():
            found.append(_deleted("log", str(path.relative_to(store.root)), count))
        found += export_traces(context, erased)
    for swept in (each for family in families for each in sweep_data(context, family)):
        if swept.quarantined:
            found.append(_deleted("quarantine", f"{swept.place}/quarantine", swept.quarantined))
    for trace in found:
        if trace.state == "pending":
            log.warning("the erased users are left in %s %s: %s", trace.what, trace.where, trace.note)
    return found


def update_receipts(
    context: Context,
    *,
    found: Collection[Trace] | None = None,
    users: Collection[str] | None = None,
) -> list[Receipt]:
    """Write what is known now into all receipts, or those of some users (salted hashes), and return them.

    `found` is what `finish` returned; without it, what it could not delete earlier stays pending.
    """
    store, tombstones = context.store, Tombstones(context.store.tombstones)
    families = with_users()
    models, down = models_by_family(context, families)
    clean = clean_fingerprints(context, families)
    updated = []
    for receipt in read_receipts(store.root, on_damaged=log.warning):
        if users is not None and receipt.user not in users:
            continue
        traces = [
            *_data_traces(context, tombstones, receipt.user),
            *(found or ()),
            *model_traces(context, tombstones, receipt.user, models=models, clean=clean),
            *outside(context),
            *unfinished(context),
        ]
        if down is not None:
            traces.append(Trace(what="tracking server", where=context.tracking_uri or "", state="maybe", note=down))
        later = receipt.with_traces(traces, is_searched=found is not None)
        write_receipt(store.root, later)
        updated.append(later)
    return updated


def model_traces(
    context: Context,
    tombstones: Tombstones,
    user: str,
    *,
    models: Mapping[str, Collection[Model]],
    clean: Collection[str],
) -> list[Trace]:
    """The models that were trained with a user, given by the salted hash, if any data ever held them."""
    held = held_fingerprints(tombstones, user)
    searched = searched_names(tombstones, user)
    known = traces_of(context, models, held=held, clean={*clean, *_fingerprints(models, searched)})
    return known if held else [trace for trace in known if trace.state == "maybe"]


def _fingerprints(models: Mapping[str, Collection[Model]], names: Collection[str]) -> Iterator[str]:
    """The fingerprints of models whose data have one of these names."""
    for each in (model.fingerprint for of_family in models.values() for model in of_family):
        if each is not None and each[:NAME_LENGTH] in names:
            yield each


def outside(context: Context) -> list[Trace]:
    """What this store does not hold, and erasure does not reach: raw logs and backups."""
    traces = []
    for family in with_users():
        for data in prepared_data(context.store, family):
            try:
                raw = str(data.card().get("raw") or "")
            except (BundleRejected, OSError):
                continue
            note = "prepare leaves the rows of the user out; delete them there too"
            traces.append(Trace(what="raw log", where=raw, state="outside", note=note))
        if family.erasure is not None and family.erasure.features_quote:
            traces += _quoting_features(context, family)
    for copy in _copies(context):
        if copy.kind == "backup" and copy.path.exists():
            remedy = f"rm {copy.path} after `{context.command('events backup FILE')}` has made a new one"
            traces.append(Trace(what="backup", where=str(copy.path), state="held", remedy=remedy))
    return list({(trace.what, trace.where): trace for trace in traces if trace.where}.values())


def _quoting_features(context: Context, family: Family) -> list[Trace]:
    """The deployed features, if they are older than the current data, from which users may have been taken since."""
    path = context.store.feature_store(family.name)
    try:
        card = context.store.current_data(family.name).path / CARD
        is_older = path.stat().st_mtime_ns < card.stat().st_mtime_ns
    except (Failure, OSError):
        return []
    where, remedy = str(path.relative_to(context.store.root)), context.command(f"deploy {family.name}")
    note = "features quote rows of users, and were made of data from before"
    return [Trace(what="feature store", where=where, state="held", note=note, remedy=remedy)] if is_older else []


def unfinished(context: Context) -> Iterator[Trace]:
    """Data that a prepare was writing when it was killed, or still writes; nobody can tell whom they hold."""
    for family in with_users():
        for path in sorted(context.store.data(family.name).glob(f".{NEW}.*")):
            note = "left by a prepare that runs or was killed; the next prepare deletes it after a day"
            yield Trace(what="unfinished data", where=str(path), state="maybe", note=note, remedy=f"rm -r {path}")


def export_traces(context: Context, erased: Erased, *, changes: bool = True) -> Iterator[Trace]:
    """What was deleted from recorded exports, or without a change is left in them, and which files are unreadable."""
    remedy = context.command("erase --pending")
    try:
        copies = recorded_copies(context.store.root)
    except CopiesUnreadable as error:
        where = str(context.store.root / RECORD)
        yield Trace(what="export", where=where, state="pending", note=str(error), remedy=f"mend {where}, then {remedy}")
        return
    for folder in (copy.path for copy in copies if copy.kind == "export"):
        found = (clean_export if changes else search_export)(folder, erased)
        if count := sum(each.count for each in found if each.error is None):
            left = Trace(what="export", where=str(folder), state="pending", count=count, remedy=remedy)
            yield _deleted("export", str(folder), count) if changes else left
        for each in found:
            if each.error is not None:
                note, where = f"it cannot be searched or rewritten: {each.error}", str(each.path)
                do = f"mend or delete {where}, then {remedy}"
                yield Trace(what="export", where=where, state="pending", note=note, remedy=do)


def _copies(context: Context) -> list[Copy]:
    try:
        return recorded_copies(context.store.root)
    except CopiesUnreadable:  # `export_traces` names it
        return []


def _deleted(what: str, where: str, count: int) -> Trace:
    return Trace(what=what, where=where, state="deleted", count=count, note=OF_ALL)


def _data_traces(context: Context, tombstones: Tombstones, user: str) -> Iterator[Trace]:
    rewritten = dict(tombstones.rewritten())
    for fingerprint, place in tombstones.held_by(user):
        is_left = (context.store.root / place).is_dir()
        yield Trace(
            what=DATA,
            where=place,
            state="pending" if is_left else "deleted",
            fingerprint=fingerprint,
            new_fingerprint=rewritten.get(fingerprint),
            remedy=context.command("erase --pending") if is_left else None,
        )
    newest, known = tombstones.last_seq, {place for _, place in tombstones.held_by(user)}
    for family in with_users():
        for data in prepared_data(context.store, family):
            place = place_of(context.store, data)
            if tombstones.swept(place) < newest and place not in known:
                note = None if family.erasure else "this family cannot rewrite its data; prepare them without the user"
                remedy = context.command("erase --pending" if family.erasure else f"prepare {family.name} --raw PATH")
                yield Trace(what=DATA, where=place, state="pending", remedy=remedy, note=note)


def _features(context: Context, erased: Erased) -> Iterator[Trace]:
    """Delete the values of erased users, of all families."""
    root = context.store.root
    for family in with_users():
        for path in stores_of(root, family) if personal(family) else ():
            done, where = sweep(path, personal(family), erased), str(path.relative_to(root))
            if done.error is not None:
                remedy = context.command("erase --pending")
                yield Trace(what=FEATURES, where=where, state="pending", note=done.error, remedy=remedy)
            elif done.values:
                yield _deleted(FEATURES, where, done.values)


def _events(context: Context, erased: Erased) -> Iterator[Trace]:
    """Delete the events of erased users that are left, such as of a deletion that was interrupted."""
    for address in event_addresses(context):
        where = shown_in(context, address)
        try:
            count = _erase_events(address, erased)
        except (EventsUnavailable, ValueError, sqlite3.Error, OSError) as error:
            remedy = context.command("erase --pending")
            yield Trace(what="events", where=where, state="pending", note=str(error), remedy=remedy)
            continue
        if count:
            yield _deleted("events", where, count)


def _erase_events(address: str, erased: Erased) -> int:
    store = open_events(address, create=False)
    try:
        users: set[str] = set()
        for block in store.scan(after_seq=0, until_seq=store.last_seq()):
            users |= {event.visitor_id for event in block}
        return sum(store.erase(user) for user in sorted(users) if erased.until(user) == FOREVER)
    finally:
        store.close()


def shown_in(context: Context, address: str) -> str:
    """An event store in a receipt: its path in the store, or its address without the password."""
    return EVENTS if address == str(context.store.events) else shown(address)
