"""Stores and models written by earlier releases, one archive per release."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path


def unpack(release: str, directory: Path) -> Path:
    """Unpack the archive of a release and return its store, which names the paths of the place where it was made.

    `bundles/`, `requests/` and `answers/` are next to the store.
    """
    with tarfile.open(_archive(release)) as archive:
        archive.extractall(directory, filter="data")
    return (directory / "store").absolute()


@cache
def bundle_names(release: str) -> tuple[str, ...]:
    """Names of the standalone models in the archive of a release."""
    with tarfile.open(_archive(release)) as archive:
        paths = [Path(name) for name in archive.getnames()]
    return tuple(sorted(path.name for path in paths if path.parent == Path("bundles")))


def _archive(release: str) -> Path:
    return Path(__file__).with_name(f"{release}.tar.xz")
