"""`shopkeeper rollback FAMILY`: restores the previous champion."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.cli.context import Context, Outcome, UsageFailure, log
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import CHAMPION, TAG_PREVIOUS, Registry
from models.family import Family


@dataclass(frozen=True)
class Options:
    """The reason for the rollback."""

    reason: str | None = None
    """Reason for the rollback; stored with the version that it replaces."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Move the alias back; raises UsageFailure if there is no previous champion."""
    assert family is not None
    tracking = Tracking(context)
    tracking.deliver_spool()
    registry = Registry(tracking)
    current = registry.get_alias(family.name, CHAMPION)
    if current is None:
        promote = context.command(f"promote {family.name}")
        raise UsageFailure(f"{family.name} has no champion; `{promote}` makes one")
    previous = registry.version_info(family.name, current).tags.get(TAG_PREVIOUS)
    if not previous:
        raise UsageFailure(f"version {current} is the first champion of {family.name}; there is no previous one")
    # Raises if the previous champion cannot be loaded.
    located = locate_model(context, f"models:/{family.name}/{previous}", tracking=tracking)
    registry.set_alias(family.name, CHAMPION, previous)
    log.info("models:/%s@%s is version %s again", family.name, CHAMPION, previous)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    registry.set_version_tags(
        family.name, current, {"rolled_back": now, "rolled_back_to": previous, "rollback_reason": options.reason or ""}
    )
    return Outcome(
        status="rolled back", run_id=located.run_id, details={"version": previous, "previous_version": current}
    )
