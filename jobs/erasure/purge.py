"""`shopkeeper erase --purge`: deletes the models that were trained with an erased user and are not in use."""

from __future__ import annotations

from pathlib import Path

from jobs.cli.context import Context, DependencyDown, Outcome, log
from jobs.erasure.data import one_at_a_time
from jobs.erasure.lineage import RUN, VERSION, Model, clean_fingerprints, models_by_family
from jobs.erasure.pending import update_receipts, with_users
from jobs.tracking.client import Tracking
from jobs.tracking.purge import purge_run, purge_version
from models.erasure.tombstones import Tombstones
from models.files import remove_directory


def purge(context: Context) -> Outcome:
    """Delete the files of superseded models whose data held an erased user, or are gone; metrics and params stay.

    Raises DependencyDown if the tracking server does not answer; run again, it goes on.
    """
    families = with_users()
    models, down = models_by_family(context, families)
    if down is not None:
        raise DependencyDown(down)
    if not Tombstones(context.store.tombstones).last_seq:
        return Outcome(status="unchanged", summary="  nobody was ever erased")
    clean = clean_fingerprints(context, families)
    suspects = [model for each in models.values() for model in each if model.fingerprint not in clean]
    with one_at_a_time(context.store):
        for model in (model for model in suspects if not model.is_used):
            log.info("deleting %s %s of %s", model.what, model.where, model.family)
            _delete(context, model)
    update_receipts(context)
    used = [f"{model.what} {model.where}" for model in suspects if model.is_used]
    details = {"deleted": len(suspects) - len(used), "in_use": used}
    return Outcome(status="held" if used else "ok" if suspects else "unchanged", details=details)


def _delete(context: Context, model: Model) -> None:
    tracking = Tracking(context)
    if model.what == RUN:
        assert model.run_id is not None
        if tracking.has_bundle(model.run_id):
            purge_run(tracking, model.run_id)
    elif model.what == VERSION:
        purge_version(tracking, model.family, model.where)
    if model.directory is not None and Path(model.directory).is_dir():
        remove_directory(model.directory)
