"""The command of each step, checked by the parsers of the verbs themselves before anything runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import __main__ as command_line
from jobs.cli.context import UsageFailure
from jobs.cli.flags import HelpRequested, Parser, UsageError, flag_name
from jobs.cli.verbs import VERBS
from jobs.pipelines.steps import Flag, Pipeline, Step, flag_kinds
from jobs.pipelines.traits import OF_THE_PIPELINE, REFUSED
from models import FAMILIES
from models.documents import Listing, Node, Problems, Scalar, Table
from models.errors import PluginRejected
from models.suggestions import suggestion

PLACEHOLDER = "1"
"""For a required flag whose value comes from an earlier step."""
COMMANDS = {"events": ("export", "backup", "status")}
"""First words of verbs that are followed by one."""


@dataclass(frozen=True)
class Run:
    """The words of `run`: a verb, its family and the rest."""

    verb: str
    family: str | None
    rest: list[str]
    parser: Parser


def read_run(words: Sequence[str], line: int, where: str, problems: Problems) -> Run | None:
    """The verb and the family of a step; None if they are unknown, which is noted."""
    name, *rest = words
    where = f"{where}.run"
    allowed = [verb for verb in VERBS if verb not in REFUSED]
    if name not in allowed:
        reason = REFUSED.get(name)
        message = (
            f"{name} cannot be a step: {reason}" if reason else f"unknown verb {name!r}{suggestion(name, allowed)}"
        )
        problems.add(line, where, message if reason else f"{message}; there are {', '.join(allowed)}")
        return None
    verb, families = VERBS[name], sorted(FAMILIES)
    takes_family = verb.takes_family != "no" and bool(rest) and not rest[0].startswith("-")
    family = rest.pop(0) if takes_family else None
    if family is None and verb.takes_family == "required":
        problems.add(
            line, where, f"{name} needs a family, such as `{name} {families[0]}`; there are {_listed(families)}"
        )
        return None
    if family is not None and family not in FAMILIES:
        close = suggestion(family, families)
        problems.add(line, where, f"unknown family {family!r}{close}; there are {_listed(families)}")
        return None
    if name in COMMANDS and rest[:1] and rest[0] not in COMMANDS[name]:
        close = suggestion(rest[0], COMMANDS[name])
        problems.add(line, where, f"unknown word {rest[0]!r} after {name}{close}; use {_listed(COMMANDS[name])}")
        return None
    try:
        return Run(name, family, rest, command_line.parser_of(name, family))
    except PluginRejected as error:
        problems.add(line, where, str(error))
        return None


def read_flags(run: Run, node: Node | None, line: int, where: str, problems: Problems) -> Iterator[Flag]:
    """The flags of a step; each that the verb does not have, or whose value has the wrong form, is noted."""
    kinds = flag_kinds(run.parser)
    for word in run.rest:
        _check_owner(_field_of(word), line, f"{where}.run", problems)
    if node is None:
        return
    if not isinstance(node, Table):
        problems.add(line, f"{where}.flags", "needs a mapping of flags, such as `epochs: 20`")
        return
    in_run = {_field_of(word) for word in run.rest}
    for key, value in node.entries.items():
        name, place = key.replace("-", "_").removeprefix("__"), f"{where}.flags.{key}"
        if name not in kinds or (name == "command" and VERBS[run.verb].takes_command):
            close = suggestion(flag_name(name), [flag_name(one) for one in kinds])
            message = f"{' '.join(filter(None, [run.verb, run.family]))} has no flag {flag_name(name)}{close}"
            problems.add(node.lines[key], place, message)
        elif name in in_run:
            problems.add(node.lines[key], place, f"{flag_name(name)} is in `run` too; give it once")
        elif _check_owner(name, node.lines[key], place, problems):
            flag = _flag(name, kinds[name], value, node.lines[key])
            if isinstance(flag, str):
                problems.add(node.lines[key], place, flag)
            else:
                yield flag


def check_command(step: Step, pipeline: Pipeline, problems: Problems, *, checks_files: bool) -> None:
    """Parse the command of a step as the verb will, with what is known before it runs."""
    where = f"steps[{step.id}]"
    try:
        invocation = command_line.read(_known_words(step))
        command_line.check_settings(invocation)
    except HelpRequested:
        problems.add(step.line, f"{where}.run", "asks for help; omit --help")
        return
    except (UsageError, UsageFailure, PluginRejected) as error:
        named = [flag.line for flag in step.flags if re.search(rf"{flag_name(flag.name)}(?![\w-])", str(error))]
        problems.add(min(named, default=step.line), where, str(error))
        return
    words = invocation.options.command if VERBS[step.verb].takes_command else ()
    if not step.traits.takes_words and any(not word.startswith("-") for word in words):
        message = f"{step.verb} names a user here, and the file and its records are kept; use --pending"
        problems.add(step.line, f"{where}.run", message)
    if VERBS[step.verb].takes_command:
        known = [flag_name(name) for name in flag_kinds(command_line.parser_of(step.verb, step.family))]
        for word in (word for word in words if word.startswith("--")):
            close = suggestion(word, known)
            problems.add(step.line, f"{where}.run", f"{step.verb} has no flag {word}{close}")
    if checks_files:
        _check_files(step, invocation, pipeline, problems)


def values_of(step: Step) -> dict[str, Any]:
    """The values of all flags that are known before the step runs, defaults too."""
    invocation = command_line.read(_known_words(step))
    groups = [group for group in (invocation.options, invocation.config) if group is not None]
    return {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}


def _known_words(step: Step) -> list[str]:
    """The command line without flags whose values come from other steps, unless they are required."""
    parser = command_line.parser_of(step.verb, step.family)
    required = {
        field.name
        for config_class in parser.classes
        for field in dataclasses.fields(config_class)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    words = [step.verb, *([step.family] if step.family else []), *step.words]
    for flag in step.flags:
        if not flag.references:
            words += flag.words({})
        elif flag.name in required:
            words.append(f"{flag_name(flag.name)}={PLACEHOLDER}")
    return words


def _flag(name: str, kind: Any, node: Node, line: int) -> Flag | str:
    """The flag, or what is wrong with its value."""
    match node:
        case Scalar(kind="null"):
            return "has no value; give one or omit the flag"
        case Scalar() if kind == "switch" and node.kind != "switch" and "${" not in node.text:
            return f"{node.text!r} is neither true nor false"
        case Scalar():
            return Flag(name, kind, (node.text,), line)
        case Listing() if kind in ("list", "repeated"):
            texts = tuple(item.text for item in node.items if isinstance(item, Scalar) and item.kind != "null")
            return Flag(name, kind, texts, line) if len(texts) == len(node.items) else "needs a list of single values"
        case Table() if kind in ("list", "text"):  # NAME=VALUE,NAME=VALUE
            pairs = [f"{key}={value.text}" for key, value in node.entries.items() if isinstance(value, Scalar)]
            return (
                Flag(name, kind, (",".join(pairs),), line) if len(pairs) == len(node.entries) else "needs single values"
            )
    return f"takes {'true or false' if kind == 'switch' else 'a single value'}, not a list or a mapping"


def _check_owner(name: str, line: int, where: str, problems: Problems) -> bool:
    """Whether a step may have this flag."""
    reason = OF_THE_PIPELINE.get(name)
    if reason:
        problems.add(line, where, f"a step has no {flag_name(name)}: {reason}")
    return reason is None


def _check_files(step: Step, invocation: Any, pipeline: Pipeline, problems: Problems) -> None:
    """Files that the step reads exist, or a step before it writes them."""
    groups = [group for group in (invocation.options, invocation.config) if group is not None]
    for name in step.traits.inputs:
        flag = step.flag(name)
        value = next((getattr(group, name) for group in groups if hasattr(group, name)), None)
        if not isinstance(value, str) or not value or "://" in value or (flag and flag.references):
            continue
        path = Path(value).absolute()
        written = [Path(text).absolute() for one in pipeline.after[step.id] for text in outputs_of(pipeline.step(one))]
        if not path.exists() and not any(path.is_relative_to(one) for one in written):
            message = f"{flag_name(name)}: there is no {path}, and no step before this one writes it"
            problems.add(flag.line if flag else step.line, f"steps[{step.id}]", message)


def outputs_of(step: Step) -> list[str]:
    """The files and folders that a step writes, as far as its flags name them."""
    values = values_of(step)
    return [values[name] for name in step.traits.outputs if isinstance(values.get(name), str)]


def _field_of(word: str) -> str:
    """`--learning-rate=1` -> learning_rate; `--no-gpu` -> gpu; an empty string for a word that is no flag."""
    if not word.startswith("--"):
        return ""
    name = word[2:].partition("=")[0].replace("-", "_")
    return name.removeprefix("no_")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
