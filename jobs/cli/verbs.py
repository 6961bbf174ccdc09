"""The verbs of the command line: the module that runs each, and how its command line is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    module: str
    summary: str
    takes_family: Literal["required", "optional", "no"] = "required"
    config: Literal["Config", "PrepareConfig"] | None = None
    """The family's dataclass whose fields become flags of this verb too."""
    handles_dry_run: bool = False
    """The verb implements --dry-run itself; others are not run."""
    writes: bool = False
    """The verb cannot do anything without writing to the store."""
    logs_libraries: bool = False
    """The output of libraries goes to a log file of the store instead of stderr, except with --debug."""
    takes_command: bool = False
    """Arguments that are not flags of the verb become `command` of its options."""


PREPARE_SUMMARY = "raw data -> prepared data: validated, split, sharded"
VERB_GROUPS = {
    "Data and training": {
        "prepare": Verb(
            "jobs.prepare",
            PREPARE_SUMMARY,
            config="PrepareConfig",
            handles_dry_run=True,
            writes=True,
            logs_libraries=True,
        ),
        "train": Verb(
            "jobs.train", "prepared data -> tracked run with a model", config="Config", writes=True, logs_libraries=True
        ),
        "sweep": Verb(
            "jobs.sweep",
            "hyperparameter search; keeps the best trial's model",
            config="Config",
            writes=True,
            logs_libraries=True,
        ),
    },
    "Evaluation": {
        "evaluate": Verb("jobs.evaluate", "metrics of a model on a split, with a report", logs_libraries=True),
        "promote": Verb(
            "jobs.promote", "make a model champion if it passes the gate", writes=True, logs_libraries=True
        ),
        "rollback": Verb("jobs.rollback", "restore the previous champion", writes=True),
    },
    "Serving": {
        "prices": Verb(
            "jobs.prices",
            "lists of prices: propose, show, approve, apply, take back",
            takes_family="no",
            takes_command=True,
            logs_libraries=True,
        ),
        "predict": Verb("jobs.predict", "batch prediction: table of requests -> table of answers", logs_libraries=True),
        "deploy": Verb("jobs.deploy", "serve a model behind an HTTP endpoint", writes=True, logs_libraries=True),
        "serve": Verb(
            "jobs.serve", "keep up what was deployed last, in the foreground", takes_family="no", writes=True
        ),
    },
    "Cluster and operations": {
        "keys": Verb(
            "jobs.keys",
            "API keys of the endpoint: create, list, revoke, rotate",
            takes_family="no",
            takes_command=True,
        ),
        "events": Verb(
            "jobs.events",
            "events: export --to DIR, backup FILE, restore FILE or status",
            takes_family="no",
            takes_command=True,
        ),
        "erase": Verb(
            "jobs.erase",
            "forget users everywhere, with a receipt and a proof",
            takes_family="no",
            takes_command=True,
            logs_libraries=True,
        ),
        "pipeline": Verb(
            "jobs.pipeline",
            "run the steps of a YAML file as one, resumable",
            takes_family="no",
            takes_command=True,
            handles_dry_run=True,
        ),
        "submit": Verb("jobs.submit", "run any verb on a Ray cluster", takes_family="no", takes_command=True),
        "jobs": Verb(
            "jobs.job_list",
            "jobs of a cluster: list, or logs ID, stop ID, attach ID",
            takes_family="no",
            takes_command=True,
        ),
        "status": Verb("jobs.status", "data, runs, champion and deployment of each family", takes_family="optional"),
        "ui": Verb("jobs.ui", "open MLflow with the runs of the store", takes_family="optional"),
        "stop": Verb("jobs.stop", "stop the endpoint and the local cluster", takes_family="optional"),
        "demo": Verb(
            "jobs.demo",
            "end to end on a small synthetic shop",
            takes_family="optional",
            writes=True,
            logs_libraries=True,
        ),
    },
}
"""The verbs by their heading in `shopkeeper --help`."""
VERBS = {name: verb for verbs in VERB_GROUPS.values() for name, verb in verbs.items()}
