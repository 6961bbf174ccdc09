"""`shopkeeper events export|backup|restore|status`: the events of the shop as files for `prepare`, and safe copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, DependencyDown, Failure, Outcome, UsageFailure
from jobs.cluster.local_head import running_head
from jobs.serving.event_store import event_addresses
from models import FAMILIES
from models.erasure.copies import record_copy
from models.errors import EventsUnavailable
from models.events.backup import backup, restore
from models.events.export_files import export
from models.events.exports import Format
from models.events.store import EventStore, open_events
from models.family import Family
from models.prepared import events_until

USAGE = "events export --to DIR, events backup FILE, events restore FILE or events status"


@dataclass(frozen=True)
class Options:
    """What to do with the events, and where they are."""

    command: tuple[str, ...] = ()
    """export, backup FILE, restore FILE or status."""
    to: str | None = None
    """Folder that `export` writes to: the events that it does not hold yet, as files for `prepare --raw`."""
    format: Format = "parquet"
    """Format of the exported files."""
    all: bool = False
    """Export all events again, also those that the folder holds."""
    force: bool = False
    """Let `restore` overwrite a store that has events."""
    events: str | None = None
    """Where the events are: redis://HOST:PORT/DB or a file; default is what the last deployment uses, or the file
    events.sqlite of the store."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Export, back up, restore or report on the events of the shop."""
    flags = [word for word in options.command if word.startswith("-")]
    if flags:
        raise UsageFailure(f"unknown flag {flags[0]}; see `shopkeeper events --help`")
    address = _address(context, options)
    match options.command:
        case ("export",):
            return _export(context, address, options)
        case ("backup", file):
            return _backup(context, address, Path(file))
        case ("restore", file):
            return _restore(context, address, Path(file), force=options.force)
        case ("status",):
            return _status(context, address)
    raise UsageFailure(f"{' '.join(['events', *options.command])!r} is not a command; use {USAGE}")


def _address(context: Context, options: Options) -> str:
    """The address of the store of events: as given, of the last deployment, or the file in the store."""
    if options.events is not None:
        return options.events
    return next(reversed(event_addresses(context)), str(context.store.events))


@contextmanager
def _opened(address: str) -> Iterator[EventStore]:
    with _explained():
        store = open_events(address, create=False)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except EventsUnavailable as error:
        raise DependencyDown(str(error)) from error
    except ValueError as error:
        raise UsageFailure(str(error)) from error


def _export(context: Context, address: str, options: Options) -> Outcome:
    if options.to is None:
        raise UsageFailure("export needs a folder: `shopkeeper events export --to DIR`")
    folder = Path(options.to).absolute()
    with _opened(address) as store:
        record_copy(context.store.root, "export", folder)  # before, so that an erasure also finds an unfinished one
        done = export(store, folder, format=options.format, all_again=options.all)
        details: dict[str, Any] = {
            "event_store": store.store_id,
            "events": done.num_events,
            "files": [str(path) for path in done.files],
        }
    if done.superseded:
        details["superseded"] = [str(path) for path in done.superseded]
    return Outcome(status="ok" if done.files else "unchanged", details=details)


def _backup(context: Context, address: str, file: Path) -> Outcome:
    with _opened(address) as store:
        record_copy(context.store.root, "backup", file)
        last_seq = backup(store, file.absolute())
        return Outcome(details={"event_store": store.store_id, "last_seq": last_seq, "file": str(file.absolute())})


def _restore(context: Context, address: str, file: Path, *, force: bool) -> Outcome:
    if running_head(context.store) is not None:
        raise UsageFailure(f"the endpoint is running and takes events; `{context.command('stop')}` first")
    with _explained():
        store_id, num_events = restore(file.absolute(), address, force=force)
    return Outcome(details={"event_store": store_id, "events": num_events, "file": str(file.absolute())})


@dataclass
class _Counts:
    """What a pass over all events counts."""

    by_type: Counter[str] = field(default_factory=Counter)
    oldest_us: int | None = None
    newest_us: int | None = None
    waiting: Counter[str] = field(default_factory=Counter)


def _status(context: Context, address: str) -> Outcome:
    """Counts, times and size of the events, and how many each family's current data lack."""
    with _opened(address) as store:
        last_seq = store.last_seq()
        until = {name: held.get(store.store_id, 0) for name, held in _watermarks(context).items()}
        counts = _count(store, last_seq, until)
        details: dict[str, Any] = {
            "event_store": store.store_id,
            "events": counts.by_type.total(),
            "last_seq": last_seq,
            "by_type": dict(sorted(counts.by_type.items())),
            "oldest": _time(counts.oldest_us),
            "newest": _time(counts.newest_us),
            "bytes": store.num_bytes(),
            "families": {name: {"events_until": until[name], "waiting": counts.waiting[name]} for name in until},
        }
    return Outcome(details=details)


def _count(store: EventStore, last_seq: int, until: Mapping[str, int]) -> _Counts:
    counts = _Counts()
    for block in store.scan(after_seq=0, until_seq=last_seq):
        counts.by_type.update(event.event_type or "" for event in block)
        times = [event.time_us for event in block]
        counts.oldest_us = min(times) if counts.oldest_us is None else min(counts.oldest_us, *times)
        counts.newest_us = max(times) if counts.newest_us is None else max(counts.newest_us, *times)
        for name, seq in until.items():
            counts.waiting[name] += sum(event.seq > seq for event in block)
    return counts


def _watermarks(context: Context) -> dict[str, dict[str, int]]:
    """The watermark of each family that uses events and has prepared data."""
    found = {}
    for name, family in FAMILIES.items():
        if family.events is None:
            continue
        try:
            found[name] = events_until(context.store.current_data(name))
        except (Failure, OSError, ValueError):
            continue
    return found


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")
