"""`shopkeeper prepare FAMILY --raw PATH`: raw data becomes prepared data in the store, completely or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Outcome, UsageFailure, log
from jobs.cluster.executor import executor
from models.errors import DataRejected
from models.family import Family
from models.files import add_directory, leftovers, temporary_directory, write_text

NAME_LENGTH = 16
"""Characters of the fingerprint that name a prepared data directory."""


@dataclass(frozen=True)
class Options:
    """Nothing of its own: what to read is the family's business."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Prepare a family's data and make it the current one; raises DataRejected when too much of it is bad.

    Data with an equal fingerprint is kept as it is. With a dry run the report is the same and the store untouched.
    """
    assert family is not None and config is not None, "prepare works on a family, with the family's PrepareConfig"
    started = time.monotonic()
    data = context.store.data(family.name)
    with _aside(data, is_dry_run=context.dry_run) as out:
        schema = _prepared(context, family, config, out)
        card = json.loads((out / "card.json").read_text(encoding="utf-8"))
        directory = data / schema.fingerprint[:NAME_LENGTH]
        if context.dry_run:
            is_new = not directory.exists()
        else:
            is_new = add_directory(out, directory)
            write_text(data / "CURRENT", directory.name + "\n")
    status = "dry-run" if context.dry_run else "ok" if is_new else "unchanged"
    seconds = round(time.monotonic() - started, 2)
    log.info("%s", _summary(card, directory, status=status, seconds=seconds))
    return Outcome(
        status=status,
        details={**card, "fingerprint": schema.fingerprint, "data": str(directory), "seconds": seconds},
    )


def _prepared(context: Context, family: Family, config: Any, out: Path) -> Any:
    try:
        with executor(context) as pool:
            return family.prepare(config, out, pool)
    except DataRejected:
        raise
    except ValueError as error:  # a flag that the family cannot use
        raise UsageFailure(str(error)) from error


@contextmanager
def _aside(data: Path, *, is_dry_run: bool) -> Iterator[Path]:
    """An empty directory beside the finished ones (elsewhere in a dry run); whatever is left of it goes at the end."""
    if is_dry_run:
        with tempfile.TemporaryDirectory(prefix="shopkeeper-") as elsewhere:
            out = Path(elsewhere) / "data"
            out.mkdir()
            yield out
        return
    made = [parent for parent in (data, *data.parents) if not parent.exists()]
    try:
        with temporary_directory(data / "new") as aside:
            _remove_leftovers(data)
            yield aside
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: the data, or something else, is there to stay
                parent.rmdir()


def _remove_leftovers(data: Path) -> None:
    """Remove what killed runs of prepare have left."""
    for path in leftovers(data):
        log.info("removing %s, which an earlier prepare left unfinished", path)
        with suppress(OSError):  # another run removes it just now
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _summary(card: Mapping[str, Any], directory: Path, *, status: str, seconds: float) -> str:
    """What was done, for a person."""
    bad = ", ".join(f"{count:,} {reason}" for reason, count in card.get("bad", {}).items()) or "none"
    done = {
        "dry-run": "dry run, nothing written; it would be",
        "ok": "prepared",
        "unchanged": "the same rows are prepared already as",
    }[status]
    return f"{card['rows']:,} rows read, bad: {bad}; {done} {directory} ({seconds:.1f} s)"
