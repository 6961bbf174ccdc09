"""Tracked runs of `train` and `sweep`, with tags, and a plan on disk from which they can be resumed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, UsageFailure, log
from jobs.cli.flags import flag_name
from jobs.cluster import connection
from jobs.erasure.pending import finish_pending
from jobs.tracking.client import TAG_FINGERPRINT, DatasetInfo, Run, Tracking
from models.bundle import config_from_dict
from models.family import Family
from models.files import write_text
from models.json_files import read_json
from models.prepared import Prepared

PLAN, LOCK = "plan.json", "lock"
MAX_DIGEST_LENGTH = 36
"""Of a dataset in MLflow."""
THIS_FILE = Path(__file__).resolve()


@dataclass(frozen=True)
class Plan:
    """The inputs of a run."""

    run_id: str
    data: Prepared
    """Prepared data directory."""
    directory: Path
    """Directory of checkpoints and the bundle."""
    config: Any
    options: Any


def open_run(
    context: Context, family: Family, *, name: str, config: Any, options: Any, tags: dict[str, str]
) -> tuple[Plan, Run]:
    """Start a tracked run on the current data and store its plan; raises DependencyDown if tracking is down.

    Settings left at auto are resolved first, so that the plan and the run have their values.
    """
    finish_pending(context, [family])  # or the model would have to be trained again
    data = context.store.current_data(family.name)
    config = resolved(family, config, data)
    run = Tracking(context).start_run(
        family.name,
        name=name,
        params=family.used_settings(config),
        tags={
            TAG_FINGERPRINT: data.fingerprint,
            "git_commit": git_commit(),
            **source_tags(f"shopkeeper {tags.get('job', 'train')} {family.name}"),
            **_job_tags(),
            **commit_tags(context),
            **tags,
        },
    )
    run.log_dataset(dataset_of(family.name, data), context="training")
    run.log_text(json.dumps(data.card(), ensure_ascii=False), "data/card.json")
    directory = context.store.run_directory(family.name, run.run_id)
    plan = Plan(run_id=run.run_id, data=data, directory=directory, config=config, options=options)
    content = {"data": data.name, "config": dataclasses.asdict(config), "options": dataclasses.asdict(options)}
    write_text(directory / PLAN, json.dumps(content, indent=1))
    log.info("run %s in %s", run.run_id, directory)
    return plan, run


@contextmanager
def opened(
    context: Context, family: Family, stored: Plan | None, *, name: str, config: Any, options: Any, tags: dict[str, str]
) -> Iterator[tuple[Plan, Run]]:
    """A stored run again, or a new one, and nobody else's until the block ends; raises UsageFailure if it is."""
    if stored is None:
        plan, run = open_run(context, family, name=name, config=config, options=options, tags=tags)
        with _held(plan):
            yield plan, run
        return
    with _held(stored):
        yield stored, Tracking(context).resume_run(stored.run_id, reopen=True)


@contextmanager
def _held(plan: Plan) -> Iterator[None]:
    """Holds the lock of a run's directory, which ends with the process."""
    with (plan.directory / LOCK).open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageFailure(
                f"another process is at work on the run {plan.run_id}; wait until it ends, or stop it first"
            ) from None
        yield


def resolved(family: Family, config: Any, data: Prepared) -> Any:
    """The config with the settings that are left at auto chosen by the data, which is logged."""
    found = family.resolve(config, data.schema(family.Schema, family.files))
    before = vars(config)
    chosen = [f"{flag_name(name)} {value}" for name, value in vars(found).items() if value != before[name]]
    if chosen:
        log.info("chosen by the data: %s", ", ".join(chosen))
    return found


def read_plan(context: Context, family: Family, *, config: Any, options: Any, changeable: Sequence[str] = ()) -> Plan:
    """The stored plan of the run `options.resume`; raises UsageFailure if there is none or a flag contradicts it.

    Flags of the verb that are `changeable` replace the stored ones, also on disk.
    """
    run_id = options.resume
    directory = context.store.run_directory(family.name, run_id)
    if Path(run_id).name != run_id or not (directory / PLAN).is_file():
        known = ", ".join(sorted(path.parent.name for path in directory.parent.glob(f"*/{PLAN}"))[:5]) or "none"
        raise UsageFailure(f"no run {run_id!r} of {family.name} to resume in {context.store.root}; there are: {known}")
    stored = read_json(directory / PLAN)
    _check_verb(stored["options"], options, run_id, family)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored["options"].items()}
    plan = Plan(
        run_id=run_id,
        data=Prepared(context.store.data(family.name) / stored["data"]),
        directory=directory,
        config=config_from_dict(family.Config, stored["config"]),
        options=config_from_dict(type(options), {**values, "resume": run_id}),
    )
    _refuse_contradictions(config, plan.config, run_id)
    changed = {name: value for name in changeable if (value := getattr(options, name)) != getattr(type(options), name)}
    plan = dataclasses.replace(plan, options=dataclasses.replace(plan.options, **changed))
    _refuse_contradictions(options, plan.options, run_id)
    if not plan.data.path.is_dir():
        raise UsageFailure(f"the data of run {run_id} is missing from {plan.data.path}; prepare it again, then resume")
    if changed:
        write_text(directory / PLAN, json.dumps({**stored, "options": {**stored["options"], **changed}}, indent=1))
    log.info("resuming run %s in %s", run_id, directory)
    return plan


def git_commit(source: Path = THIS_FILE) -> str:
    """The commit of the repository that tracks a source file, plus "+changes" if it is dirty; else "unknown".

    A repository that merely contains the file does not count, such as a user's own with this package in its `.venv`.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=source.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return f"{git('rev-parse', 'HEAD')}{'+changes' if git('status', '--porcelain') else ''}"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def source_tags(command: str) -> dict[str, str]:
    """What MLflow's UI shows as the source of a run: the command and the commit."""
    commit = git_commit()
    known = {} if commit == "unknown" else {"mlflow.source.git.commit": commit.removesuffix("+changes")}
    return {"mlflow.source.name": command, "mlflow.source.type": "LOCAL", **known}


def dataset_of(family_name: str, data: Prepared) -> DatasetInfo:
    """What MLflow's UI shows as the dataset of a run: the fingerprint, and the numbers of the card."""
    schema, card = read_json(data.path / "schema.json"), data.card()
    counts: dict[str, Any] = {name: card[name] for name in ("rows", "bad", "duplicates") if name in card}
    return DatasetInfo(
        name=f"{family_name} {data.name}",
        digest=data.fingerprint[:MAX_DIGEST_LENGTH],
        source=str(card.get("raw") or data.path),
        profile={"examples": schema.get("num_examples"), **counts},
    )


def commit_tags(context: Context) -> dict[str, str]:
    """The commit of the checkout that a job was submitted from."""
    commit = context.git_commit
    return {} if commit is None else {"git_commit": commit, "mlflow.source.git.commit": commit.removesuffix("+changes")}


def _job_tags() -> dict[str, str]:
    job_id = connection.job_id()
    return {} if job_id is None else {"ray_job_id": job_id}


def _check_verb(stored: Mapping[str, Any], options: Any, run_id: str, family: Family) -> None:
    """Raise UsageFailure for a sweep that `train` is to resume, or the other way round."""
    verb, other = ("sweep", "train") if "trials" in stored else ("train", "sweep")
    if hasattr(options, "trials") != ("trials" in stored):
        raise UsageFailure(
            f"run {run_id} is one of `{verb}`, not of `{other}`; `shopkeeper {verb} {family.name} --resume {run_id}` "
            "resumes it"
        )


def _refuse_contradictions(given: Any, stored: Any, run_id: str) -> None:
    """Reject flags that differ from the run's; a flag at its default counts as not given."""
    for field in dataclasses.fields(given):
        value, was = getattr(given, field.name), getattr(stored, field.name)
        if value not in (field.default, was):
            flag = flag_name(field.name)
            shown = "unset" if was is None or was == () else _words(was)
            raise UsageFailure(f"{flag} {_words(value)} differs from run {run_id}, where it is {shown}; omit {flag}")


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
