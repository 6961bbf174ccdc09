"""Errors: raw data that cannot be prepared; models, stores and plugins that cannot be used."""

from __future__ import annotations

import errno
import re
from pathlib import Path

FULL = {errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded"}
SQLITE_FULL = "database or disk is full"
NUMPY_FULL = re.compile(r"\b\d+ requested and \d+ written\b")


def is_disk_full(error: BaseException | str) -> bool:
    """Whether an error, one that led to it or one that its text names says that nothing more can be written."""
    if isinstance(error, str):
        return any(text in error for text in (*FULL.values(), SQLITE_FULL)) or bool(NUMPY_FULL.search(error))
    seen, left = set[int](), [error]
    while left:
        one = left.pop()
        if getattr(one, "errno", None) in FULL or is_disk_full(str(one)):
            return True
        seen.add(id(one))
        causes = [one.__cause__, one.__context__, *dict(getattr(one, "worker_failures", {})).values()]
        left += [each for each in causes if isinstance(each, BaseException) and id(each) not in seen]
    return False


class DataRejected(ValueError):
    """Raw data that cannot be prepared; the message names the value and the remedy."""


class BundleRejected(ValueError):
    """A directory that is damaged, of another family or not a model; the message names the file and the reason."""


class FeatureStoreUnreadable(OSError):
    """A file that is not a feature store or cannot be opened; the message names the file and the reason."""


class TombstonesUnreadable(OSError):
    """The file of erased users cannot be read or written, so nobody can tell who is erased; names file and remedy."""

    def __init__(self, path: Path, error: Exception, *, writing: bool = False) -> None:
        remedy = "run as the owner of the store, make it writable, or restore the file from a backup"
        if is_disk_full(error):
            remedy = "free some space and run it again"
        verb = "written" if writing else "read"
        super().__init__(f"{path}, which says who is erased, cannot be {verb}: {error}; {remedy}")


class EventsUnavailable(OSError):
    """Events that cannot be stored or read now; none of them was stored. The message names the store and the remedy."""

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """After how many seconds it makes sense to try again."""


class FeatureStoreLocked(FeatureStoreUnreadable):
    """A feature store that another process has locked; the message names the file."""


class PluginRejected(ValueError):
    """A family or network of another package that is missing or unusable; the message names the package."""
