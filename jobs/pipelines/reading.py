"""Reads the YAML file of a pipeline, with an error for each mistake that names the line and the key."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.context import UsageFailure
from jobs.pipelines.commands import check_command, read_flags, read_run
from jobs.pipelines.order import in_order
from jobs.pipelines.references import Condition, Reference, condition, names, reference, replaced
from jobs.pipelines.steps import Pipeline, Step
from jobs.pipelines.traits import ACCEPTED
from models.documents import DocumentUnreadable, Listing, Node, Problems, Scalar, Table, parse, read_text
from models.suggestions import suggestion

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ID = re.compile(r"[A-Za-z][\w-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z_]\w*")
KEYS = ("name", "variables", "defaults", "steps")
DEFAULTS = ("retries", "pause_s", "timeout_minutes")
STEP_KEYS = ("id", "run", "flags", "flags_from", "needs", "if", "accept", *DEFAULTS)
LIMITS = {"retries": (0, 100), "pause_s": (0, 86_400), "timeout_minutes": (0.001, 1_000_000)}


@dataclass(frozen=True)
class _File:
    """What reading a step needs of the whole file."""

    variables: Mapping[str, str]
    defaults: Mapping[str, float]
    problems: Problems


def read_pipeline(
    path: Path, *, variables: Mapping[str, str], text: str | None = None, checks_files: bool = True
) -> Pipeline:
    """Read a pipeline, with values for its variables; raises UsageFailure with every problem of the file.

    `text` is its content where that is known already. Files that steps read must exist, unless they are on another
    machine.
    """
    problems = Problems()
    root = parse(_text_of(path) if text is None else text, problems, needs="`steps`")
    pipeline = None
    if root is not None and isinstance(root, Table):
        pipeline = _pipeline(path, root, variables, problems)
    elif root is not None:
        problems.add(root.line, "", f"a pipeline is a mapping with {', '.join(KEYS)}; see docs/pipelines.md")
    if pipeline is not None and not problems.found:
        for step in pipeline.steps:
            check_command(step, pipeline, problems, checks_files=checks_files)
    if pipeline is None or problems.found:
        raise UsageFailure(f"{problems.counted} in the pipeline, nothing was run:\n{problems.text(path)}")
    return pipeline


def _text_of(path: Path) -> str:
    try:
        return read_text(path, "a pipeline")
    except DocumentUnreadable as error:
        raise UsageFailure(str(error)) from None


def _pipeline(path: Path, root: Table, given: Mapping[str, str], problems: Problems) -> Pipeline | None:
    _check_keys(root, KEYS, "", problems)
    name = _text(root, "name", problems) or re.sub(r"[^\w.-]", "-", path.stem)
    if not NAME.fullmatch(name):
        line = root.lines.get("name", 1)
        problems.add(line, "name", f"{name!r} is not a name; use letters, digits, dots, dashes and underscores")
    variables = _variables(root, given, problems)
    file = _File(variables, _numbers(root.entries.get("defaults"), "defaults", problems), problems)
    listed = root.entries.get("steps")
    if not isinstance(listed, Listing) or not listed.items:
        problems.add(root.lines.get("steps", root.line), "steps", "a pipeline needs a list of steps")
        return None
    steps = [step for number, node in enumerate(listed.items, 1) if (step := _step(node, number, file))]
    _check_ids(steps, problems)
    if problems.found:
        return None
    _check_references(steps, problems)
    if problems.found:
        return None
    ordered, after = in_order(steps, problems)
    return None if problems.found else Pipeline(name, path, tuple(ordered), after)


def _variables(root: Table, given: Mapping[str, str], problems: Problems) -> dict[str, str]:
    node = root.entries.get("variables")
    values: dict[str, str] = {}
    if isinstance(node, Table):
        for name, value in node.entries.items():
            line, where = node.lines[name], f"variables.{name}"
            if not VARIABLE.fullmatch(name):
                problems.add(line, where, "a variable's name has letters, digits and underscores")
            elif not isinstance(value, Scalar) or (value.kind == "null" and name not in given):
                problems.add(line, where, f"needs a single value, here or by --set {name}=VALUE")
                values[name] = ""
            elif names(value.text):
                problems.add(line, where, "a variable has a value of its own and no ${...}; write it out")
                values[name] = ""
            else:
                values[name] = value.text
    elif node is not None:
        problems.add(root.lines["variables"], "variables", "needs names with values, such as `raw: shop.csv`")
    for name, text in given.items():
        if name not in values:
            close = suggestion(name, list(values))
            problems.add(root.lines.get("variables", 1), f"--set {name}", f"the file has no such variable{close}")
        values[name] = text
    return values


def _step(node: Node, number: int, file: _File) -> Step | None:
    where, problems = f"steps[{number}]", file.problems
    if not isinstance(node, Table):
        problems.add(node.line, where, "a step is a mapping with `run`, such as `- run: train recommender`")
        return None
    run = _text(node, "run", problems, where)
    try:
        words = shlex.split(run or "")
    except ValueError as error:
        problems.add(node.lines["run"], f"{where}.run", f"{run!r}: {error}")
        return None
    step_id = _text(node, "id", problems, where) or (words[0] if words else str(number))
    where = f"steps[{step_id}]"
    _check_keys(node, STEP_KEYS, where, problems)
    if not words:
        problems.add(node.line, where, "needs `run` with a verb, such as `run: train recommender`")
        return None
    words = [_with_variables(word, file, node.lines["run"], f"{where}.run", is_flag=False) for word in words]
    parsed = read_run(words, node.lines["run"], where, problems)
    if parsed is None:
        return None
    expanded = _expanded(node.entries.get("flags"), file, f"{where}.flags")
    numbers = {**file.defaults, **_numbers(node, where, problems, only=DEFAULTS)}
    return Step(
        id=step_id,
        verb=parsed.verb,
        family=parsed.family,
        words=tuple(parsed.rest),
        line=node.line,
        flags=tuple(read_flags(parsed, expanded, node.lines.get("flags", node.line), where, problems)),
        flags_from=_flags_from(node, where, problems),
        needs=_ids(node, where, problems),
        condition=_condition(node, where, problems),
        retries=int(numbers.get("retries", Step.retries)),
        pause_s=numbers.get("pause_s", Step.pause_s),
        timeout_minutes=numbers.get("timeout_minutes"),
        accept=_accepted(node, where, problems),
    )


def _expanded(node: Node | None, file: _File, where: str) -> Node | None:
    """The node with variables replaced."""
    match node:
        case Scalar():
            return Scalar(_with_variables(node.text, file, node.line, where, is_flag=True), node.kind, node.line)
        case Listing():
            items = [_expanded(item, file, where) for item in node.items]
            return Listing(tuple(item for item in items if item is not None), node.line)
        case Table():
            found = {name: _expanded(value, file, f"{where}.{name}") for name, value in node.entries.items()}
            return Table({name: value for name, value in found.items() if value is not None}, node.lines, node.line)
    return None


def _with_variables(text: str, file: _File, line: int, where: str, *, is_flag: bool) -> str:
    """The text with variables replaced; references to results stay, in flags."""
    for name in names(text):
        if reference(name) and not is_flag:
            file.problems.add(line, where, f"${{{name}}} is the result of a step; write it as a value below `flags`")
        elif not reference(name) and name not in file.variables:
            close = suggestion(name, list(file.variables))
            message = f"${{{name}}} is neither a variable{close} nor a result such as ${{train.run_id}}"
            file.problems.add(line, where, message)
    return replaced(text, lambda name: file.variables.get(name, f"${{{name}}}"), final=not is_flag)


def _flags_from(node: Table, where: str, problems: Problems) -> Reference | None:
    text = _text(node, "flags_from", problems, where)
    if text is None:
        return None
    found = reference(text[2:-1] if text.startswith("${") else text)
    if found is None:
        message = f"{text!r} is not a result of a step, such as sweep.best_config"
        problems.add(node.lines["flags_from"], f"{where}.flags_from", message)
    return found


def _condition(node: Table, where: str, problems: Problems) -> Condition | None:
    text = _text(node, "if", problems, where)
    if text is None:
        return None
    found = condition(text)
    if found is None:
        message = f"{text!r} is not a condition such as `promote.status == promoted` or `train.metrics.val_loss < 2`"
        problems.add(node.lines["if"], f"{where}.if", message)
    return found


def _ids(node: Table, where: str, problems: Problems) -> tuple[str, ...] | None:
    value = node.entries.get("needs")
    if value is None:
        return None
    if isinstance(value, Scalar) and value.kind != "null":
        return (value.text,)
    if isinstance(value, Listing) and all(isinstance(item, Scalar) for item in value.items):
        return tuple(item.text for item in value.items if isinstance(item, Scalar))
    problems.add(node.lines["needs"], f"{where}.needs", "needs ids of steps, such as [prepare, train]")
    return None


def _accepted(node: Table, where: str, problems: Problems) -> tuple[int, ...]:
    value = node.entries.get("accept")
    if value is None:
        return ()
    items = value.items if isinstance(value, Listing) else (value,)
    codes = [item.text for item in items if isinstance(item, Scalar)]
    if len(codes) < len(items) or not set(codes) <= {str(code) for code in ACCEPTED}:
        message = "takes exit codes that count as done: 4 (gate not met), 3 (data rejected)"
        problems.add(node.lines["accept"], f"{where}.accept", message)
        return ()
    return tuple(map(int, codes))


def _numbers(node: Node | None, where: str, problems: Problems, *, only: tuple[str, ...] = ()) -> dict[str, float]:
    """The retries, pauses and time limits of a mapping."""
    if node is None:
        return {}
    if not isinstance(node, Table):
        problems.add(node.line, where, f"needs a mapping of {', '.join(DEFAULTS)}")
        return {}
    if not only:
        _check_keys(node, DEFAULTS, where, problems)
    found = {}
    for name in DEFAULTS:
        value = node.entries.get(name)
        if value is None:
            continue
        low, high = LIMITS[name]
        number = _number(value, is_whole=name == "retries")
        if number is None or not low <= number <= high:
            kind = "a whole number" if name == "retries" else "a number"
            problems.add(node.lines[name], f"{where}.{name}", f"needs {kind} from {low:g} to {high:g}")
        else:
            found[name] = number
    return found


def _number(node: Node, *, is_whole: bool) -> float | None:
    if not isinstance(node, Scalar) or node.kind != "number":
        return None
    try:
        return float(int(node.text) if is_whole else float(node.text))
    except ValueError:
        return None


def _text(node: Table, name: str, problems: Problems, where: str = "") -> str | None:
    value = node.entries.get(name)
    if value is None:
        return None
    if isinstance(value, Scalar) and value.kind != "null" and value.text.strip():
        return value.text.strip()
    problems.add(node.lines[name], f"{where}.{name}".lstrip("."), "needs a text")
    return None


def _check_keys(node: Table, known: tuple[str, ...], where: str, problems: Problems) -> None:
    for name in node.entries:
        if name not in known:
            close = suggestion(name, known)
            place = f"{where}.{name}".lstrip(".")
            problems.add(node.lines[name], place, f"unknown key{close}; there are {', '.join(known)}")


def _check_ids(steps: list[Step], problems: Problems) -> None:
    first: dict[str, int] = {}
    for step in steps:
        if not ID.fullmatch(step.id):
            message = "an id begins with a letter, then letters, digits, dashes and underscores"
            problems.add(step.line, f"steps[{step.id}].id", message)
        if step.id in first:
            message = f"the step in line {first[step.id]} has this id too; give one of them an `id` of its own"
            problems.add(step.line, f"steps[{step.id}]", message)
        first.setdefault(step.id, step.line)


def _check_references(steps: list[Step], problems: Problems) -> None:
    """Names of steps and of their results."""
    by_id = {step.id: step for step in steps}
    for step in steps:
        where = f"steps[{step.id}]"
        for step_id in sorted(step.builds_on - set(by_id)):
            close = suggestion(step_id, list(by_id))
            problems.add(step.line, where, f"names the step {step_id!r}, which does not exist{close}")
        used = [*step.references, *([step.condition.left] if step.condition else [])]
        for found in (one for one in used if one.step in by_id):
            traits = by_id[found.step].traits
            known = ("status", *traits.results)
            if found.key not in known:
                close = suggestion(found.key, known)
                has = f"{found.step} ({by_id[found.step].verb}) has {', '.join(known)}"
                problems.add(step.line, where, f"${{{found}}}: no such result{close}; {has}")
        if step.flags_from and step.flags_from.step in by_id:
            mappings = by_id[step.flags_from.step].traits.mappings
            if step.flags_from.result not in mappings:
                message = f"flags_from: {step.flags_from} has no flags; use sweep's best_config"
                problems.add(step.line, where, message)
        _check_status(step, by_id, where, problems)


def _check_status(step: Step, by_id: Mapping[str, Step], where: str, problems: Problems) -> None:
    found = step.condition
    if found is None or found.left.result != "status" or found.left.step not in by_id:
        return
    other = by_id[found.left.step]
    statuses = (*other.traits.statuses, *(ACCEPTED[code] for code in other.accept))
    if other.traits.statuses and found.right not in statuses:
        close = suggestion(found.right, statuses)
        message = f"{found.left} is never {found.right!r}{close}; it can be {', '.join(statuses)}"
        problems.add(step.line, f"{where}.if", message)
