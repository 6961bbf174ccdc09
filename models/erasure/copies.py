"""The record of copies of events outside a store: exports, which an erasure rewrites, and backups, which it names."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.files import write_text

RECORD = "copies.json"
LOCK = ".copies.lock"


class CopiesUnreadable(ValueError):
    """The record of copies is damaged; the message names the file and the remedy."""


@dataclass(frozen=True)
class Copy:
    """A copy of events: a folder of exported files, or a backup."""

    kind: Literal["export", "backup"]
    path: Path


def record_copy(root: Path, kind: Literal["export", "backup"], path: Path) -> None:
    """Record where a copy of the events of a store was written, so that an erasure finds it."""
    with _locked(root):  # or of two exports at once one would be forgotten
        known = {(each.kind, str(each.path)) for each in recorded_copies(root)} | {(kind, str(path.absolute()))}
        listed = [{"kind": kind, "path": path} for kind, path in sorted(known)]
        write_text(root / RECORD, json.dumps(listed, indent=1, ensure_ascii=False) + "\n", mode=0o600)


def recorded_copies(root: Path) -> list[Copy]:
    """All copies that were recorded, whether or not they still exist; raises CopiesUnreadable."""
    path = root / RECORD
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return [Copy(each["kind"], Path(each["path"])) for each in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CopiesUnreadable(
            f"{path}, which lists exports and backups of events, cannot be read: {error}; mend it, or delete it, and"
            " run `shopkeeper events export` and `backup` to each place again"
        ) from error


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
