"""The previous model, kept loaded next to the one in use, so that a rollback only swaps the two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

import torch

from serve.loaded_model import Loaded
from serve.problems import log

KeyT = TypeVar("KeyT")
MEMORY_SHARE = 0.25
"""A standby is loaded only if its files take at most this share of the free memory: a replica must not die of it."""


class Standby(Generic[KeyT]):
    """At most one loaded model that is not in use, by the settings it is loaded with; call it on one event loop."""

    def __init__(self, *, load: Callable[[KeyT], Awaitable[Loaded]], discard: Callable[[Loaded], None]) -> None:
        self._load, self._discard = load, discard
        self._wanted: KeyT | None = None
        self._loaded: Loaded | None = None
        self._loading: asyncio.Task[None] | None = None

    @property
    def version(self) -> str | None:
        """The version that can be swapped in at once."""
        return None if self._loaded is None else self._loaded.version

    async def take(self, key: KeyT) -> Loaded | None:
        """The model of these settings, which is no longer the standby then; None if it is not loaded."""
        if key != self._wanted:
            return None
        await self.finish_loading()
        taken, self._wanted, self._loaded, self._loading = self._loaded, None, None, None
        return taken

    def keep(self, wanted: KeyT | None, *, replaced: tuple[KeyT, Loaded] | None = None) -> None:
        """Hold another standby from now on: the model that was just replaced, if that is it, else load it.

        It is loaded in the background. A model that is no longer needed is discarded.
        """
        if wanted != self._wanted:
            self._drop()
            self._wanted = wanted
            if replaced is not None and replaced[0] == wanted:
                self._loaded, replaced = replaced[1], None
            elif wanted is not None:
                self._loading = asyncio.get_running_loop().create_task(self._warm(wanted))
        if replaced is not None:
            self._discard(replaced[1])

    async def finish_loading(self) -> None:
        """Wait until what is loaded in the background is loaded, or has failed."""
        if self._loading is not None:
            await self._loading

    def _drop(self) -> None:
        if self._loaded is not None:
            self._discard(self._loaded)
        # A load that is under way ends by itself and sees that it is no longer wanted.
        self._wanted, self._loaded, self._loading = None, None, None

    async def _warm(self, wanted: KeyT) -> None:
        try:
            loaded = await self._load(wanted)
        except Exception as error:  # noqa: BLE001  the model in use does not depend on it
            log.warning("the previous model is not kept in memory, a rollback will load it: %s", error)
            return
        if self._wanted is wanted:
            self._loaded = loaded
            log.info("version %s is loaded, for a rollback", loaded.version)
        else:
            self._discard(loaded)


def check_fits_in_memory(*directories: Path | None) -> None:
    """Raise MemoryError if a model with these files would take too much of the free memory."""
    files = (path for each in directories if each for path in each.rglob("*") if path.is_file())
    needed, free = sum(path.stat().st_size for path in files), _free_bytes()
    if needed > MEMORY_SHARE * free:
        raise MemoryError(f"it takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free")


def _free_bytes() -> int:
    """Free memory for models: that of the GPU if there is one, else of the machine; 0 if it is unknown."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
