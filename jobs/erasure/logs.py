"""Erased users in the logs of a store: lines that quote an erased id are deleted."""

from __future__ import annotations

from pathlib import Path

from jobs.cli.context import Store
from models.erasure.erased import Erased
from models.files import replace_file


def logs_of(store: Store) -> list[Path]:
    """The logs of libraries, and tracking calls that wait; that of a running cluster is left alone."""
    return sorted(path for folder in (store.logs, store.spool) for path in folder.glob("**/*") if path.is_file())


def clean_logs(store: Store, erased: Erased) -> dict[Path, int]:
    """Delete the lines that quote an erased id; returns how many by file.

    A number that only happens to equal an id counts too: the line is lost, which matters less than one that is left.
    """
    deleted = {}
    for path in logs_of(store):
        if path.is_relative_to(store.spool):  # its lines are calls, which must not be lost for a chance
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if not erased.quotes(line)]
        if len(kept) < len(lines):
            deleted[path] = len(lines) - len(kept)
            with replace_file(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
    return deleted
