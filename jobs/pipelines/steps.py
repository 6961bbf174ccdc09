"""The steps of a pipeline, as its file describes them, and the command line of each."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.cli.context import ON_THIS_MACHINE, Context
from jobs.cli.flags import UNSPLIT, Parser, flag_name
from jobs.pipelines.references import Condition, Reference, names, reference, replaced, text_of, value_of
from jobs.pipelines.traits import Traits, traits_of

Results = Mapping[str, Mapping[str, Any]]
"""The results of each step."""


@dataclass(frozen=True)
class Flag:
    """A flag of a step; its texts may have references."""

    name: str
    """The name of the field, with underscores."""
    kind: Literal["switch", "text", "list", "repeated"]
    texts: tuple[str, ...]
    line: int = 0

    @property
    def references(self) -> list[Reference]:
        """The results in its texts."""
        return [found for text in self.texts for name in names(text) if (found := reference(name))]

    def words(self, results: Results) -> list[str]:
        """The words of a command line; raises KeyError for a result that is not there."""
        texts = [replaced(text, lambda name: _found(name, results)) for text in self.texts]
        match self.kind:
            case "switch":
                return [flag_name(self.name if texts[0].lower() in ("true", "yes", "on", "1") else f"no_{self.name}")]
            case "repeated":
                return [f"{flag_name(self.name)}={text}" for text in texts]
            case _:
                return [f"{flag_name(self.name)}={','.join(texts)}"]


@dataclass(frozen=True)
class Step:
    """A verb with its flags, when it runs, and how often it is tried."""

    id: str
    verb: str
    family: str | None
    words: tuple[str, ...]
    """Of `run`, after the verb and the family."""
    line: int
    flags: tuple[Flag, ...] = ()
    flags_from: Reference | None = None
    """A result whose entries become flags, unless the step has these itself."""
    needs: tuple[str, ...] | None = None
    """Steps that must have been done; None is the one above."""
    condition: Condition | None = None
    retries: int = 2
    pause_s: float = 30.0
    """Before the first repetition; it doubles each time."""
    timeout_minutes: float | None = None
    accept: tuple[int, ...] = ()
    """Exit codes that count as done."""

    @property
    def traits(self) -> Traits:
        """Those of its verb."""
        return traits_of(self.verb)

    @property
    def references(self) -> list[Reference]:
        """All results of other steps that it uses for its command."""
        of_flags = [found for flag in self.flags for found in flag.references]
        return of_flags + ([self.flags_from] if self.flags_from else [])

    @property
    def builds_on(self) -> set[str]:
        """The steps without which it cannot run: those that it names."""
        of_condition = {self.condition.left.step} if self.condition else set()
        return {found.step for found in self.references} | of_condition | set(self.needs or ())

    def flag(self, name: str) -> Flag | None:
        """One of its flags."""
        return next((flag for flag in self.flags if flag.name == name), None)

    def given(self, results: Results, parser: Parser) -> list[str]:
        """The command line from the verb on, without the flags of the pipeline; raises KeyError."""
        own = [word for flag in self.flags for word in flag.words(results)]
        return [self.verb, *([self.family] if self.family else []), *self.words, *self._taken(results, parser), *own]

    def _taken(self, results: Results, parser: Parser) -> list[str]:
        """The flags that an earlier step's result gives."""
        if self.flags_from is None:
            return []
        entries = value_of(self.flags_from, results[self.flags_from.step])
        kinds = flag_kinds(parser)
        own = {flag.name for flag in self.flags}
        taken = [
            Flag(name, kinds.get(name, "text"), (text_of(value),)) for name, value in entries.items() if name not in own
        ]
        return [word for flag in taken for word in flag.words({})]


@dataclass(frozen=True)
class Pipeline:
    """The steps of a file, each after those that it needs."""

    name: str
    path: Path
    steps: tuple[Step, ...]
    after: Mapping[str, frozenset[str]]
    """For each step those that run before it, directly or not, because it or one of them needs them."""

    def step(self, step_id: str) -> Step:
        """A step by its id."""
        return next(step for step in self.steps if step.id == step_id)


def flag_kinds(parser: Parser) -> dict[str, Literal["switch", "text", "list", "repeated"]]:
    """How each field of a verb is given."""
    kinds: dict[str, Literal["switch", "text", "list", "repeated"]] = {}
    for config_class in parser.classes:
        hints = typing.get_type_hints(config_class)
        for name, field in config_class.__dataclass_fields__.items():
            if hints[name] == tuple[str, ...]:
                kinds[name] = "repeated" if field.metadata == UNSPLIT else "list"
            else:
                kinds[name] = "switch" if hints[name] is bool else "text"
    return kinds


def of_pipeline(step: Step, context: Context) -> list[str]:
    """The flags that all steps share: store, cluster and prefix."""
    words = [f"--store={context.store.root}"]
    if context.name_prefix:
        words.append(f"--name-prefix={context.name_prefix}")
    if context.address and step.verb not in ON_THIS_MACHINE and not step.flag("address"):
        words.append(f"--address={context.address}")
    return words


def _found(name: str, results: Results) -> str:
    wanted = reference(name)
    assert wanted is not None, f"{name} was checked when the file was read"
    return text_of(value_of(wanted, results[wanted.step]))
