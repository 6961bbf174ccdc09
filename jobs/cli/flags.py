"""Command-line flags from dataclasses, with cyclopts: a field is a flag, its type the check, its docstring the help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import logging
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, Token
from docstring_parser import parse_from_object

FALSE = ("no", "n", "0", "false", "f")
"""What cyclopts reads as false after `--switch=`."""
UNSPLIT = {"unsplit": True}
"""Metadata of a field of several texts, each of which may contain commas; the flag is repeated."""

log = logging.getLogger("shopkeeper")


class UsageError(Exception):
    """An invalid command line; the message is for the user."""


class FlagsRejected(Exception):
    """A dataclass that cannot become flags; the message names the class, the field and the remedy."""


class HelpRequested(Exception):
    """The command line asks for help; an exception of its own, as a plugin may raise SystemExit too."""

    def __init__(self, render: Callable[[bool], str]) -> None:
        super().__init__("help")
        self._render = render

    def text(self, *, for_terminal: bool) -> str:
        """The help, with styles for a terminal."""
        return self._render(for_terminal)


class Parser:
    """Parses the flags of several dataclasses, which the help groups by title."""

    def __init__(
        self, groups: Mapping[str, Any], *, prog: str, description: str, epilog: str = "", without: Sequence[str] = ()
    ) -> None:
        """Creates a flag per field except those in `without`; raises FlagsRejected for fields without a flag."""
        self.prog = prog
        self.classes = list(groups.values())
        _check_names(groups)
        parameters = [
            parameter
            for index, (title, config_class) in enumerate(groups.items())
            for parameter in _parameters(config_class, title, index)
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

    def read(self, arguments: Sequence[str], *, unset: Mapping[str, Any] | None = None) -> list[Any]:
        """Parse `arguments` into the dataclasses, with values for flags not given; raises HelpRequested, UsageError."""
        values, unknown = self.read_known(arguments, unset=unset)
        if unknown and "--" in arguments:
            raise UsageError(f"unexpected argument --; omit it, flags follow directly; see `{self.prog} --help`")
        if unknown:
            known = [name for argument in self.app.assemble_argument_collection() for name in argument.names]
            given = unknown[0].partition("=")[0]
            kind = "unknown flag" if given.startswith("-") else "unexpected argument"
            from models.suggestions import suggestion  # `python -m jobs` first has to leave the working directory

            raise UsageError(f"{kind} {given}{suggestion(given, known)}; see `{self.prog} --help`")
        return values

    def read_known(
        self, arguments: Sequence[str], *, unset: Mapping[str, Any] | None = None
    ) -> tuple[list[Any], list[str]]:
        """Parse `arguments` into the dataclasses, with values for flags not given, and return the unknown arguments."""
        try:
            command, bound, unknown, _ = self.app.parse_known_args(_renamed(arguments, self.classes))
            if command is not self.app.default_command:
                raise HelpRequested(self._help)
            given = {**(unset or {}), **bound.arguments}
            return [_build(config_class, given) for config_class in self.classes], unknown
        except CycloptsError as error:
            raise UsageError(f"{_reason(error)}; see `{self.prog} --help`") from None
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _help(self, for_terminal: bool) -> str:
        from rich.console import Console  # cyclopts imports it for help only

        console = Console(file=io.StringIO(), force_terminal=for_terminal or None)
        with console.capture() as captured:
            self.app.help_print([], console=console)
        return captured.get()


def is_set(arguments: Sequence[str], name: str) -> bool:
    """Whether a switch such as `json` is given, for what must be known even if the arguments cannot be parsed."""
    found = False
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag in (f"--{name}", f"--no-{name}"):
            found = flag == f"--{name}" and value.lower() not in FALSE
    return found


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


def _check_names(groups: Mapping[str, Any]) -> None:
    """Raise FlagsRejected for a class that is no dataclass, or a field of two classes."""
    owners: dict[str, str] = {}
    for title, config_class in groups.items():
        if not dataclasses.is_dataclass(config_class):
            name = getattr(config_class, "__name__", repr(config_class))
            raise FlagsRejected(f"{name} is not a dataclass; decorate it with @dataclass")
        for field in dataclasses.fields(config_class):
            if field.name in owners:
                raise FlagsRejected(
                    f"the field {field.name!r} is among the {_lower(title)} and the {_lower(owners[field.name])}; "
                    "rename the family's field"
                )
            owners[field.name] = title


def _check_type(parameter: inspect.Parameter, config_class: Any) -> None:
    """Raise FlagsRejected for a field whose type cyclopts cannot read from text."""
    app = App(version_flags=(), help_flags=())
    app.default(_command([parameter]))
    try:
        app.assemble_argument_collection()
    except Exception as error:
        raise FlagsRejected(
            f"the field {parameter.name!r} of {config_class.__name__} has a type without a flag ({error}); "
            "use bool, int, float, str, Literal or tuple[str, ...]"
        ) from error


def _type_hints(config_class: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(config_class)
    except Exception as error:
        raise FlagsRejected(
            f"the types of the fields of {config_class.__name__} cannot be resolved ({error}); "
            "import them at the top of its module"
        ) from error


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


@functools.lru_cache(maxsize=256)
def _parameters(config_class: Any, title: str, index: int) -> tuple[inspect.Parameter, ...]:
    """One parameter per field: cyclopts cannot parse a dataclass whose parent is in another module (its issue 439).

    A pipeline asks for those of the same verbs again and again, which take a quarter of a second each time.
    """
    group = Group(title, sort_key=index)
    hints, helps = _type_hints(config_class), field_docstrings(config_class)
    parameters = []
    for field in sorted(dataclasses.fields(config_class), key=lambda field: bool(field.kw_only)):  # as in __init__
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        is_list = hints[field.name] == tuple[str, ...]
        shown = Parameter(
            group=group,
            help=helps.get(field.name, ""),
            metavar="A,B,..." if is_list else None,
            show_default=default not in (None, (), ""),
            converter=None
            if field.metadata == UNSPLIT
            else _converter(hints[field.name], allows_empty=default in ("",)),
            n_tokens=1 if is_list else None,
        )
        parameter = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
            annotation=Annotated[hints[field.name], shown],
        )
        _check_type(parameter, config_class)
        parameters.append(parameter)
    return tuple(parameters)


def _command(parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """A function with these parameters, which cyclopts registers as a command."""

    def command(**_: Any) -> None:
        """Does nothing; the values are read from the bound arguments."""

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _converter(hint: Any, *, allows_empty: bool) -> Callable[[Any, Sequence[Token]], Any] | None:
    """A converter where cyclopts' own does not fit: it would round 3.7 to an integer, and accept an empty path."""
    if hint == tuple[str, ...]:
        return lambda _, tokens: tuple(
            word.strip() for token in tokens for word in token.value.split(",") if word.strip()
        )
    if int in (hint, *typing.get_args(hint)):
        words = [word for part in typing.get_args(hint) for word in typing.get_args(part)]
        return lambda _, tokens: tokens[-1].value if tokens[-1].value in words else _integer(tokens[-1].value)
    if {str} <= {hint, *typing.get_args(hint)} <= {hint, str, NoneType} and not allows_empty:
        return lambda _, tokens: _filled(tokens[-1].value)
    return None


def _reason(error: CycloptsError) -> str:
    """The message of cyclopts, which words an absent flag like one without its value."""
    if isinstance(error, MissingArgumentError) and error.keyword is None and error.argument is not None:
        return f"{error.argument.name} is required"
    error.verbose = False
    return " ".join(str(error).split()).rstrip(".")


def _filled(text: str) -> str:
    if not text:
        raise ValueError("the value is empty; give one or omit the flag")
    return text


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
