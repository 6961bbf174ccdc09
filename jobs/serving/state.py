"""What Ray Serve says of an application: replicas that run and that should, and why one is unhealthy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def num_replicas(state: Mapping[str, Any], *, running: bool = False) -> int:
    """Replicas of an application, all or those that run."""
    replicas = [one for each in _deployments(state) for one in each.get("replicas", ())]
    return sum(not running or one.get("state") == "RUNNING" for one in replicas)


def num_wanted(state: Mapping[str, Any]) -> int:
    """Replicas that an application should have now."""
    return sum(int(each.get("target_num_replicas", 0)) for each in _deployments(state))


def reason(state: Mapping[str, Any], *, num_lines: int = 4) -> str:
    """The last lines of Serve's messages, without its log of retries."""
    messages = [state.get("message", ""), *(each.get("message", "") for each in _deployments(state))]
    lines = [line.strip() for message in messages for line in str(message).splitlines() if line.strip()]
    return " | ".join(lines[-num_lines:]) or str(state.get("status"))


def degraded(infos: Iterable[Mapping[str, Any]]) -> str | None:
    """What is wrong with a store of a replica, going by what the replicas say of their model; None if nothing is."""
    return next((str(info["degraded"]) for info in infos if info.get("degraded")), None)


def _deployments(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(state.get("deployments", {}).values())
