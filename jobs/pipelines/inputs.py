"""The inputs of a step as a key: if it is that of the last time, and the outputs are still there, nothing is to do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Failure
from jobs.cli.flags import flag_name
from jobs.pipelines.commands import values_of
from jobs.pipelines.records import StepRecord
from jobs.pipelines.steps import Pipeline, Step
from jobs.pipelines.traits import traits_of
from jobs.serving.access import internal_key
from jobs.serving.api import read_json
from models import FAMILIES

KEY_LENGTH = 32


def key_of(step: Step, command: list[str], context: Context, *, before: Mapping[str, StepRecord]) -> str:
    """A hash of all that a step reads: its command, files, prepared data, and what the steps before it made.

    `command` is without the flags that all steps share: a store that was moved is the same store.
    """
    made = {name: identity_of(record) for name, record in sorted(before.items())}
    content = {
        "command": command,
        "name_prefix": context.name_prefix,
        "files": [_stamp(path) for path in _paths(step, command)],
        "data": _current(context, step) if step.traits.reads_data else None,
        "made": {name: value for name, value in made.items() if value is not None},
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:KEY_LENGTH]


def why_to_run(step: Step, pipeline: Pipeline, context: Context, record: StepRecord, key: str) -> str | None:
    """Why a step is to be run; None if its inputs are those of the last time and its outputs are there."""
    if not step.traits.can_be_unchanged:
        return f"{step.verb} is always run"
    if record.done_key is None:
        return "it was not done before"
    if (unseen := _unseen(step, pipeline)) is not None:
        return unseen
    if record.done_key != key:
        return "its inputs have changed"
    for name in step.traits.kept:
        if not (path := record.results.get(name)) or not Path(str(path)).exists():
            return f"{path or name} is missing"
    if step.verb == "prepare" and _current(context, step) != Path(str(record.results["data"])).name:
        return "other prepared data are current"
    if step.verb == "deploy" and not _is_served(step, record, context):
        return f"{record.results.get('url')} does not answer with version {record.results.get('version')}"
    return None


def identity_of(record: StepRecord) -> Any:
    """By what later steps notice that a step has made something new; None if they do not build on its verb."""
    name = traits_of(record.verb).identity
    return None if name is None or record.done_key is None else record.results.get(name, record.done_at)


def _unseen(step: Step, pipeline: Pipeline) -> str | None:
    """Why the engine cannot see whether the inputs have changed; None if it can."""
    values = {**values_of(step), **{flag.name: flag.texts[0] for flag in step.flags if flag.texts}}
    for name in step.traits.inputs:
        if "://" in str(values.get(name) or ""):
            return f"{flag_name(name)} is on another machine, so changes cannot be seen"
    model = values.get("model")
    if step.traits.model_of and model is None:
        verbs = {pipeline.step(one).verb for one in pipeline.after[step.id]}
        if not verbs & set(step.traits.model_of):
            return "it takes whichever model there is"
    if isinstance(model, str) and "@" in model:
        return f"{model} may have moved"
    return None


def _paths(step: Step, command: list[str]) -> list[Path]:
    """Files and folders that the command names, but for those that the step writes."""
    ignored = {flag_name(name) for name in step.traits.outputs}
    found = []
    for index, word in enumerate(command):
        flag, is_flag, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if flag in ignored or (not is_flag and index and command[index - 1] in ignored):
            continue
        path = Path(value)
        try:
            if value and index > 1 and path.exists():
                found.append(path.absolute())
        except (OSError, ValueError):  # too long for a path
            continue
    return found


def _stamp(path: Path) -> list[Any]:
    """Path, size and time of change of a file; of a folder those of all files in it."""
    if not path.is_dir():
        stat = path.stat()
        return [str(path), stat.st_size, stat.st_mtime_ns]
    digest = hashlib.sha256()
    for folder, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            file = Path(folder, name)
            try:
                stat = file.stat()
            except OSError:  # it was removed meanwhile, or is a link to nothing
                continue
            digest.update(f"{file.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="replace"))
    return [str(path), digest.hexdigest()]


def _current(context: Context, step: Step) -> str | None:
    """The name of the family's current prepared data."""
    if step.family is None:
        return None
    try:
        return context.store.current_data(step.family).path.name
    except Failure:
        return None


def _is_served(step: Step, record: StepRecord, context: Context) -> bool:
    """Whether the endpoint answers with the version that the step deployed."""
    assert step.family is not None
    try:
        url = f"{record.results['url']}{FAMILIES[step.family].models_path}"
        found = read_json(url, key=internal_key(context.store))
    except (Failure, OSError, ValueError, KeyError):
        return False
    return isinstance(found, dict) and found.get("version") == record.results.get("version")
