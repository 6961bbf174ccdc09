"""Command-line flags from dataclasses: a field is a flag, its type the check, its docstring the help; by cyclopts."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter, Token
from docstring_parser import parse_from_object

log = logging.getLogger("shopkeeper")


class UsageError(Exception):
    """A command line that cannot be read; the message is for the person who typed it."""


class Parser:
    """Reads the flags of several dataclasses, which help shows by the titles they are given under."""

    def __init__(
        self, groups: Mapping[str, Any], *, prog: str, description: str, epilog: str = "", without: Sequence[str] = ()
    ) -> None:
        """A flag for each field but those `without`; raises ValueError when two fields have one name."""
        self.prog = prog
        self.classes = list(groups.values())
        parameters = [
            parameter
            for place, (title, config_class) in enumerate(groups.items())
            for parameter in _parameters(config_class, Group(title, sort_key=place))
            if parameter.name not in without
        ]
        self.app = App(
            name=prog,
            help=description,
            help_epilogue=epilog,
            help_format="plaintext",
            version_flags=(),
            result_action="return_value",
            default_parameter=Parameter(negative_iterable="", negative_none="", allow_repeating=True),
            group_commands=Group("Help"),
        )
        self.app.default(_taking(parameters))

    def read(self, arguments: Sequence[str]) -> list[Any]:
        """The dataclasses from all of `arguments`; prints help and raises SystemExit, or raises UsageError."""
        values, unknown = self.read_known(arguments)
        if unknown:
            known = [name for argument in self.app.assemble_argument_collection() for name in argument.names]
            given = unknown[0].partition("=")[0]
            kind = "unknown flag" if given.startswith("-") else "unexpected argument"
            raise UsageError(f"{kind} {given}{suggestion(given, known)}; see `{self.prog} --help`")
        return values

    def read_known(self, arguments: Sequence[str]) -> tuple[list[Any], list[str]]:
        """The dataclasses, and the arguments that are no flag of theirs; fields not given keep their default."""
        try:
            command, bound, unknown, _ = self.app.parse_known_args(_respelt(arguments, self.classes))
            if command is not self.app.default_command:
                command(*bound.args, **bound.kwargs)
                raise SystemExit(0)
            return [_built(config_class, bound.arguments) for config_class in self.classes], unknown
        except CycloptsError as error:
            error.verbose = False
            raise UsageError(f"{' '.join(str(error).split()).rstrip('.')}; see `{self.prog} --help`") from None
        except ValueError as error:
            raise UsageError(str(error)) from None


def suggestion(given: str, known: Sequence[str]) -> str:
    """The words ", did you mean ...?" when something known is close to what was given, else nothing."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def flag_name(field_name: str) -> str:
    """`max_bad_fraction` -> `--max-bad-fraction`."""
    return f"--{field_name.replace('_', '-')}"


def check_at_least(options: Any, **least: int) -> None:
    """Raises ValueError, which names the flag, for a field of `options` that is below what is given for it."""
    for name, value in least.items():
        if getattr(options, name) < value:
            raise ValueError(f"{flag_name(name)} {getattr(options, name)} is too few; use {value} or more")


def field_docstrings(config_class: Any) -> dict[str, str]:
    """Field name -> the string literal under it; a field of a parent keeps the parent's unless it has its own."""
    parents = [parent for parent in reversed(config_class.__mro__) if dataclasses.is_dataclass(parent)]
    documented = [entry for parent in parents for entry in parse_from_object(parent).params]
    return {entry.arg_name: re.sub(r"\s+", " ", entry.description or "").strip() for entry in documented}


def _parameters(config_class: Any, group: Group) -> list[inspect.Parameter]:
    """One for each field: cyclopts cannot read a dataclass whose parent is in another module (its issue 439)."""
    hints, helps = typing.get_type_hints(config_class), field_docstrings(config_class)
    parameters = []
    for field in dataclasses.fields(config_class):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        several = hints[field.name] == tuple[str, ...]
        shown = Parameter(
            group=group,
            help=helps.get(field.name, ""),
            metavar="A,B,..." if several else None,
            show_default=default not in (None, (), ""),
            converter=_converter(hints[field.name]),
            n_tokens=1 if several else None,
        )
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
                annotation=Annotated[hints[field.name], shown],
            )
        )
    return parameters


def _taking(parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """A function with these parameters, which cyclopts makes a command of."""

    def command(**_: Any) -> None:
        """Nothing: what was given is taken from the parsed arguments."""

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _converter(hint: Any) -> Callable[[Any, Sequence[Token]], Any] | None:
    """How text becomes a value where cyclopts reads it otherwise: it would round 3.7 to a whole number."""
    if hint == tuple[str, ...]:
        return lambda _, tokens: tuple(
            word.strip() for token in tokens for word in token.value.split(",") if word.strip()
        )
    if int in (hint, *typing.get_args(hint)):
        return lambda _, tokens: _whole(tokens[-1].value)
    return None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _built(config_class: Any, given: Mapping[str, Any]) -> Any:
    return config_class(
        **{field.name: given[field.name] for field in dataclasses.fields(config_class) if field.name in given}
    )


def _respelt(arguments: Sequence[str], classes: Sequence[Any]) -> list[str]:
    """The arguments with each former name of a flag replaced by its name now, and a warning for each."""
    from models.bundle import former_names  # with torch, which `shopkeeper --help` does without

    now = {
        flag_name(prefix + was): (flag_name(prefix + name), until)
        for config_class in classes
        for was, (name, until) in former_names(config_class).items()
        for prefix in ("", "no_")
    }
    respelt = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in now:
            log.warning("%s is now %s; the old name goes in release %s", flag, *now[flag])
            flag = now[flag][0]
        respelt.append(f"{flag}{equals}{value}")
    return respelt
