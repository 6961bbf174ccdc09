"""What the engine of pipelines has to know of each verb: its results, what it reads and writes, whether it resumes."""

from __future__ import annotations

from dataclasses import dataclass

METRICS = "metrics"
MODEL = "model"
GATE_NOT_MET, DATA_REJECTED = "gate-not-met", "data-rejected"
"""The status of a step whose exit code 4 or 3 is accepted."""
ACCEPTED = {4: GATE_NOT_MET, 3: DATA_REJECTED}


@dataclass(frozen=True)
class Traits:
    """How a verb behaves as a step; the defaults are those of a verb that is cheap and safe to repeat."""

    results: tuple[str, ...] = ()
    """Keys of its JSON line that later steps may use, besides `status`."""
    mappings: tuple[str, ...] = ()
    """Those of the results whose entries can become flags."""
    statuses: tuple[str, ...] = ()
    """What `status` can be after success; empty where that is not checked."""
    identity: str | None = None
    """The result that tells later steps whether there is something new; None if they do not build on this verb."""
    inputs: tuple[str, ...] = ()
    """Flags that name files or folders, which must exist."""
    outputs: tuple[str, ...] = ()
    """Flags that name what the verb writes."""
    kept: tuple[str, ...] = ()
    """Results that are paths; without them the step is run again."""
    reads_data: bool = False
    """It reads the family's current prepared data."""
    model_of: tuple[str, ...] = ()
    """Without --model it takes the model of one of these verbs, or whichever there is."""
    can_be_unchanged: bool = False
    """It is left out when nothing that it reads has changed since it was done."""
    resumes: bool = False
    """An interrupted one can be continued with --resume."""
    takes_words: bool = True
    """Its words may stand in a file and in the records of runs, which are kept; those of `erase` are users."""


TRAITS = {
    "prepare": Traits(
        results=("fingerprint", "data", "rows"),
        statuses=("ok", "unchanged"),
        identity="fingerprint",
        inputs=("raw", "items", "products", "calendar", "lexicon"),
        kept=("data",),
        can_be_unchanged=True,
    ),
    "train": Traits(
        results=("run_id", "model", "bundle", "best_epoch", "epochs", METRICS),
        statuses=("ok",),
        identity="run_id",
        reads_data=True,
        can_be_unchanged=True,
        resumes=True,
    ),
    "sweep": Traits(
        results=("run_id", "model", "bundle", "best_config", "best_trial", "num_trials", METRICS),
        mappings=("best_config",),
        statuses=("ok",),
        identity="run_id",
        reads_data=True,
        can_be_unchanged=True,
        resumes=True,
    ),
    "evaluate": Traits(
        results=("run_id", "report", METRICS),
        outputs=("report",),
        kept=("report",),
        reads_data=True,
        model_of=("promote",),
        can_be_unchanged=True,
    ),
    "promote": Traits(
        results=("run_id", "version", "model", METRICS),
        statuses=("promoted", "unchanged"),
        identity="version",
        reads_data=True,
        model_of=("train", "sweep"),
        can_be_unchanged=True,
    ),
    "predict": Traits(
        results=("run_id", "output", METRICS),
        inputs=("input",),
        outputs=("output",),
        kept=("output",),
        reads_data=True,
        model_of=("promote",),
        can_be_unchanged=True,
    ),
    "deploy": Traits(
        results=("run_id", "url", "version", "dashboard_url"),
        statuses=("ok",),
        identity="version",
        reads_data=True,
        model_of=("promote",),
        can_be_unchanged=True,
    ),
    "events": Traits(results=("files", "events", "event_store"), outputs=("to",)),
    "prices": Traits(
        results=("id", "state", "current_prices"), inputs=("rules", "products"), reads_data=True, model_of=("promote",)
    ),
    "erase": Traits(inputs=("from_file",), takes_words=False),
}
REFUSED = {
    "rollback": "it is not safe to repeat; run it by hand",
    "keys": "its keys are for people; run it by hand",
    "serve": "it does not end; run it as a service",
    "ui": "it does not end",
    "demo": "it deletes its store",
    "jobs": "it is for people",
    "submit": "submit the whole pipeline: `shopkeeper submit pipeline FILE.yaml`",
    "pipeline": "a pipeline cannot run a pipeline",
}
"""Verbs that cannot be steps, and why."""
OF_THE_PIPELINE = {
    "store": "all steps use the --store of `shopkeeper pipeline`",
    "name_prefix": "all steps use the --name-prefix of `shopkeeper pipeline`",
    "json": "the result of a step is kept anyway",
    "dry_run": "`shopkeeper pipeline FILE --dry-run` shows all steps",
    "resume": "the pipeline resumes its own runs",
}
"""Flags that a step cannot have, and why."""


def traits_of(verb: str) -> Traits:
    """The traits of a verb."""
    return TRAITS.get(verb, Traits())
