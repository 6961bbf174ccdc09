"""Finishes erasures: everything that holds an erased user and can be changed is changed, and the receipts say so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from jobs.cli.context import Context, log
from jobs.erasure.data import Swept, is_pending, one_at_a_time, place_of, prepared_data, sweep_data
from jobs.erasure.lineage import DATA, Model, clean_fingerprints, held_fingerprints, models_by_family, traces_of
from jobs.erasure.logs import clean_logs
from jobs.serving.config import config_path, read_config
from models import FAMILIES
from models.erasure.copies import clean_export, recorded_copies
from models.erasure.erased import FOREVER, Erased
from models.erasure.features import personal, stores_of, sweep
from models.erasure.receipts import Receipt, Trace, read_receipts, write_receipt
from models.erasure.tombstones import Tombstones
from models.errors import BundleRejected, EventsUnavailable
from models.events.store import open_events
from models.family import Family

Changed = dict[tuple[str, str], int]
"""(what, where) -> how many values or rows were deleted there."""


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


def finish(context: Context, families: Collection[Family]) -> tuple[list[Swept], Changed]:
    """The same for everything in the store: events, feature stores, prepared data, logs, and recorded exports."""
    store = context.store
    erased = Tombstones(store.tombstones).erased()
    changed: Changed = {}
    swept: list[Swept] = []
    if not erased:
        return swept, changed
    with one_at_a_time(store):
        changed |= _events(context, erased)
        for family in families:
            for path in stores_of(store.root, family) if personal(family) else ():
                done = sweep(path, personal(family), erased)
                where = str(path.relative_to(store.root))
                if done.error is not None:
                    log.warning("%s was not cleaned: %s", path, done.error)
                if done.values:
                    changed["feature store", where] = done.values
        changed |= {("log", str(path.relative_to(store.root))): n for path, n in clean_logs(store, erased).items()}
        for copy in recorded_copies(store.root):
            if copy.kind == "export" and (count := clean_export(copy.path, erased)):
                changed["export", str(copy.path)] = count
    for family in families:
        swept += sweep_data(context, family)
    changed |= {("quarantine", f"{each.place}/quarantine"): each.quarantined for each in swept if each.quarantined}
    return swept, changed


def update_receipts(
    context: Context,
    *,
    changed: Changed | None = None,
    users: Collection[str] | None = None,
) -> list[Receipt]:
    """Write what is known now into all receipts, or those of some users (salted hashes), and return them."""
    store, tombstones = context.store, Tombstones(context.store.tombstones)
    families = with_users()
    models, down = models_by_family(context, families)
    clean = clean_fingerprints(context, families)
    updated = []
    for receipt in read_receipts(store.root):
        if users is not None and receipt.user not in users:
            continue
        traces = [
            *_data_traces(context, tombstones, receipt.user),
            *_changed_traces(changed or {}),
            *model_traces(context, tombstones, receipt.user, models=models, clean=clean),
            *outside(context),
        ]
        if down is not None:
            traces.append(Trace(what="tracking server", where=context.tracking_uri or "", state="maybe", note=down))
        later = receipt.with_traces(traces)
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
    known = traces_of(context, models, held=held, clean=clean)
    return known if held else [trace for trace in known if trace.state == "maybe"]


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
    for copy in recorded_copies(context.store.root):
        if copy.kind == "backup" and copy.path.exists():
            remedy = f"rm {copy.path} after `{context.command('events backup FILE')}` has made a new one"
            traces.append(Trace(what="backup", where=str(copy.path), state="held", remedy=remedy))
    return list({(trace.what, trace.where): trace for trace in traces if trace.where}.values())


def _changed_traces(changed: Changed) -> list[Trace]:
    note = "of all users erased until then"
    return [
        Trace(what=what, where=where, state="deleted", count=count, note=note)
        for (what, where), count in changed.items()
    ]


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


def _events(context: Context, erased: Erased) -> Changed:
    """Delete the events of erased users that are left, such as of a deletion that was interrupted."""
    changed: Changed = {}
    for address in event_addresses(context):
        try:
            store = open_events(address, create=False)
        except (EventsUnavailable, ValueError) as error:
            log.warning("the events at %s were not searched: %s", address.rpartition("@")[2], error)
            continue
        try:
            users: set[str] = set()
            for block in store.scan(after_seq=0, until_seq=store.last_seq()):
                users |= {event.user_id for event in block if event.user_id}
            count = sum(store.erase(user) for user in sorted(users) if erased.until(user) == FOREVER)
        finally:
            store.close()
        if count:
            changed["events", address.rpartition("@")[2]] = count
    return changed


def event_addresses(context: Context) -> list[str]:
    """The event stores that the deployments of a store use, and its own if there is one."""
    config = read_config(config_path(context.store)) or {}
    used = [each["deployments"][0]["user_config"].get("events") for each in config.get("applications", ())]
    own = [str(context.store.events)] if context.store.events.is_file() else []
    return list(dict.fromkeys([*own, *(str(address) for address in used if address)]))
