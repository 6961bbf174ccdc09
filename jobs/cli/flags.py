"""Command-line flags from dataclasses, with cyclopts: a field is a flag, its type the check, its docstring the help."""

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
    """An invalid command line; the message is for the user."""


class Parser:
    """Parses the flags of several dataclasses, which the help groups by title."""

    def __init__(
        self, groups: Mapping[str, Any], *, prog: str, description: str, epilog: str = "", without: Sequence[str] = ()
    ) -> None:
        """Creates a flag per field except those in `without`; raises ValueError for a duplicate name."""
        self.prog = prog
        self.classes = list(groups.values())
        parameters = [
            parameter
            for index, (title, config_class) in enumerate(groups.items())
            for parameter in _parameters(config_class, Group(title, sort_key=index))
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
        self.app.default(_command(parameters))

    def read(self, arguments: Sequence[str]) -> list[Any]:
        """Parse `arguments` into the dataclasses; prints help and raises SystemExit, or raises UsageError."""
        values, unknown = self.read_known(arguments)
        if unknown:
            known = [name for argument in self.app.assemble_argument_collection() for name in argument.names]
            given = unknown[0].partition("=")[0]
            kind = "unknown flag" if given.startswith("-") else "unexpected argument"
            raise UsageError(f"{kind} {given}{suggestion(given, known)}; see `{self.prog} --help`")
        return values

    def read_known(self, arguments: Sequence[str]) -> tuple[list[Any], list[str]]:
        """Parse `arguments` into the dataclasses, and return the unknown ones; other fields keep their default."""
        try:
            command, bound, unknown, _ = self.app.parse_known_args(_renamed(arguments, self.classes))
            if command is not self.app.default_command:
                command(*bound.args, **bound.kwargs)
                raise SystemExit(0)
            return [_build(config_class, bound.arguments) for config_class in self.classes], unknown
        except CycloptsError as error:
            error.verbose = False
            raise UsageError(f"{' '.join(str(error).split()).rstrip('.')}; see `{self.prog} --help`") from None
        except ValueError as error:
            raise UsageError(str(error)) from None


def suggestion(given: str, known: Sequence[str]) -> str:
    """The text ", did you mean ...?" if a known name is close to the given one, else an empty string."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def flag_name(field_name: str) -> str:
    """`max_bad_fraction` -> `--max-bad-fraction`."""
    return f"--{field_name.replace('_', '-')}"


def check_at_least(options: Any, **minimum: int) -> None:
    """Raise ValueError naming the flag if a field of `options` is below its minimum."""
    for name, value in minimum.items():
        if getattr(options, name) < value:
            raise ValueError(f"{flag_name(name)} {getattr(options, name)} is too small; use {value} or more")


def field_docstrings(config_class: Any) -> dict[str, str]:
    """Field name -> the docstring below it; an inherited field keeps its parent's docstring unless overridden."""
    parents = [parent for parent in reversed(config_class.__mro__) if dataclasses.is_dataclass(parent)]
    documented = [entry for parent in parents for entry in parse_from_object(parent).params]
    return {entry.arg_name: re.sub(r"\s+", " ", entry.description or "").strip() for entry in documented}


def _parameters(config_class: Any, group: Group) -> list[inspect.Parameter]:
    """One parameter per field: cyclopts cannot parse a dataclass whose parent is in another module (its issue 439)."""
    hints, helps = typing.get_type_hints(config_class), field_docstrings(config_class)
    parameters = []
    for field in dataclasses.fields(config_class):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        is_list = hints[field.name] == tuple[str, ...]
        shown = Parameter(
            group=group,
            help=helps.get(field.name, ""),
            metavar="A,B,..." if is_list else None,
            show_default=default not in (None, (), ""),
            converter=_converter(hints[field.name]),
            n_tokens=1 if is_list else None,
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


def _command(parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """A function with these parameters, which cyclopts registers as a command."""

    def command(**_: Any) -> None:
        """Does nothing; the values are read from the bound arguments."""

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _converter(hint: Any) -> Callable[[Any, Sequence[Token]], Any] | None:
    """A converter where cyclopts' own does not fit: it would round 3.7 to an integer."""
    if hint == tuple[str, ...]:
        return lambda _, tokens: tuple(
            word.strip() for token in tokens for word in token.value.split(",") if word.strip()
        )
    if int in (hint, *typing.get_args(hint)):
        return lambda _, tokens: _integer(tokens[-1].value)
    return None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an integer") from None


def _build(config_class: Any, given: Mapping[str, Any]) -> Any:
    return config_class(
        **{field.name: given[field.name] for field in dataclasses.fields(config_class) if field.name in given}
    )


def _renamed(arguments: Sequence[str], classes: Sequence[Any]) -> list[str]:
    """The arguments with deprecated flag names replaced by the current ones; logs a warning for each."""
    from models.bundle import former_names  # imports torch, which `shopkeeper --help` must not

    current_names = {
        flag_name(prefix + was): (flag_name(prefix + name), until)
        for config_class in classes
        for was, (name, until) in former_names(config_class).items()
        for prefix in ("", "no_")
    }
    renamed = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in current_names:
            log.warning("%s was renamed to %s; the old name works until %s", flag, *current_names[flag])
            flag = current_names[flag][0]
        renamed.append(f"{flag}{equals}{value}")
    return renamed
