"""Replicas and address of a deployment: what the command line says, else what was deployed before, else defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import log
from jobs.serving.config import Size, application_of
from models.family import Family

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
DEFAULT_REPLICAS = 2
"""With one, a crash is an outage until it has restarted, 12 to 20 s."""
REPLICA_BYTES = 450 * 10**6
"""Resident memory of a replica with a tiny model, measured: Python, torch, scipy and Ray; a third of it is shared."""
SPARE_BYTES = 500 * 10**6
"""Memory that the default number of replicas leaves free."""


@dataclass(frozen=True)
class WantedSize:
    """What the command line says of a family's replicas; None is unsaid."""

    min_replicas: int | None
    max_replicas: int | None
    cpus: float | None
    gpus: float | None


def resolve_size(wanted: WantedSize, kept: Size | None, *, default_cpus: float, fits: int) -> Size:
    """The replicas of a deployment; `kept` is what the family was deployed with before, `fits` how many have memory.

    A limit that is said moves the other one along, if that is not said.
    """
    low = wanted.min_replicas or (kept.min_replicas if kept else max(1, min(DEFAULT_REPLICAS, fits)))
    high = wanted.max_replicas or (kept.max_replicas if kept else max(low, DEFAULT_REPLICAS))
    if wanted.max_replicas is None:
        high = max(low, high)
    elif wanted.min_replicas is None:
        low = min(low, high)
    cpus = wanted.cpus if wanted.cpus is not None else kept.cpus if kept else default_cpus
    gpus = wanted.gpus if wanted.gpus is not None else kept.gpus if kept else 0.0
    return Size(low, high, cpus, gpus)


def kept_size(config: Mapping[str, Any] | None, family: Family) -> Size | None:
    """What a family was deployed with, or None if it was not."""
    found = application_of(config, family)
    if found is None:
        return None
    deployment = found["deployments"][0]
    replicas, actor = deployment["autoscaling_config"], deployment["ray_actor_options"]
    return Size(
        replicas["min_replicas"], replicas["max_replicas"], actor.get("num_cpus", 1.0), actor.get("num_gpus", 0.0)
    )


def resolve_address(host: str | None, port: int | None, config: Mapping[str, Any] | None) -> tuple[str, int]:
    """Host and port of the endpoint, which all families of a store share."""
    kept = (config or {}).get("http_options", {})
    return host or kept.get("host", DEFAULT_HOST), port or int(kept.get("port", DEFAULT_PORT))


def replica_bytes(*directories: Path | None) -> int:
    """Estimated memory of a replica: itself, and its model and index twice, as it keeps the previous ones too."""
    files = (path for each in directories if each for path in each.rglob("*") if path.is_file())
    return REPLICA_BYTES + 2 * sum(path.stat().st_size for path in files)


def num_that_fit(bytes_each: int) -> int:
    """How many replicas fit into the free memory of this machine; the default number if that is unknown."""
    free = _free_bytes()
    return DEFAULT_REPLICAS if free is None else max(0, free - SPARE_BYTES) // bytes_each


def describe_size(size: Size, kept: Size | None, *, bytes_each: int, fits: int) -> None:
    """Log how many replicas there will be, why, and what each costs."""
    why = "as before" if size == kept else "the default" if kept is None else "changed"
    log.info(
        "replicas: %d to %d (%s), each about %.0f MB of memory",
        *(size.min_replicas, size.max_replicas, why, bytes_each / 1e6),
    )
    if kept is None and size.min_replicas == 1 and fits < DEFAULT_REPLICAS:
        log.warning("one replica, as memory is free for no more; a crash is an outage of 12 to 20 s")
    if kept is not None and size.min_replicas == 1 and size == kept:
        log.info("with one replica a crash is an outage of 12 to 20 s; --min-replicas 2 avoids it")


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    try:  # in a container
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(limit - used, limit if free is None else free)
