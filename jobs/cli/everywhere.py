"""The flags of every verb."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STORE = "./store"
NAME_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}|")


@dataclass(frozen=True)
class Everywhere:
    """Flags of every verb."""

    store: str = DEFAULT_STORE
    """Directory of data, runs, the tracking database and deployed models."""
    address: str | None = None
    """Ray address (ray://HOST:10001, HOST:6379) or, for deploy and submit, dashboard URL; unset is this machine."""
    name_prefix: str = ""
    """Prefix of the names of experiments and registered models in MLflow, such as shop-a.; separates shops that share a
    server."""
    json: bool = False
    """Print one JSON object as the last line of stdout, everything else to stderr."""
    dry_run: bool = False
    """Print the resolved settings and change nothing."""
    debug: bool = False
    """Log debug messages, and print the traceback of an error."""
    quiet: bool = False
    """Log warnings and errors only."""

    def __post_init__(self) -> None:
        try:
            _ = self.root
        except RuntimeError:
            raise ValueError(f"--store {self.store}: there is no such user; give the path of a directory") from None
        if "://" in self.store:
            raise ValueError(
                f"--store {self.store}: a store is a directory, the same on every node of a cluster, such as a mounted "
                "network file system; object stores are not supported"
            )
        if not NAME_PREFIX.fullmatch(self.name_prefix):
            raise ValueError(
                f"--name-prefix {self.name_prefix!r} is not a prefix; use letters, digits, dots, dashes and underscores"
            )

    @property
    def root(self) -> Path:
        """The absolute path of the store; a leading ~ or ~user is a home directory, ./~ is not."""
        given = Path(self.store)
        return (given.expanduser() if self.store.startswith("~") else given).absolute()
