"""Command-line flags from dataclasses: a field is a flag, its type the check, the docstring under it the help."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NoReturn


class UsageError(Exception):
    """A command line that cannot be read; the message is for the person who typed it."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of ending the process, and knows no abbreviations."""

    def __init__(self, *, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all of `arguments`; an unknown flag is answered with the nearest known one."""
        values, unknown = self.parse_known_args(list(arguments))
        if unknown:
            raise UsageError(self._unknown(unknown[0]))
        return values

    def _unknown(self, argument: str) -> str:
        flag = argument.partition("=")[0]
        if not flag.startswith("-"):
            return f"unexpected argument {argument!r}; see `{self.prog} --help`"
        known = [option for action in self._actions for option in action.option_strings]
        return f"unknown flag {flag}{suggestion(flag, known)}; see `{self.prog} --help`"


def suggestion(given: str, known: Sequence[str]) -> str:
    """The words ", did you mean ...?" when something known is close to what was given, else nothing."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def add_dataclass(
    parser: argparse.ArgumentParser, config_class: Any, *, title: str, without: Sequence[str] = ()
) -> None:
    """Give a parser one flag for each field of a dataclass, but for those `without`.

    Raises TypeError for a field type that has no flag: only str, int, float, bool, Literal of strings or numbers,
    one of these or None, and tuple[str, ...] have.
    """
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(config_class)
    helps = field_docstrings(config_class)
    for field in dataclasses.fields(config_class):
        if field.name in without:
            continue
        settings = _settings(hints[field.name], f"{config_class.__qualname__}.{field.name}")
        default = _default(field)
        required = default is dataclasses.MISSING
        shown = "required" if required else f"default: {_shown(default)}"
        group.add_argument(
            flag_name(field.name),
            dest=_destination(config_class, field.name),
            default=argparse.SUPPRESS,
            required=required,
            help=f"{helps.get(field.name, '')} ({shown})".replace("%", "%%").strip(),
            **settings,
        )


def collect(values: argparse.Namespace, config_class: Any) -> Any:
    """The dataclass from parsed flags; fields whose flag was not given keep their default. Raises UsageError."""
    given = vars(values)
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        destination = _destination(config_class, field.name)
        if destination in given:
            value = given[destination]
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
    try:
        return config_class(**chosen)
    except ValueError as error:
        raise UsageError(str(error)) from None


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
    found: dict[str, str] = {}
    parents: list[type] = [parent for parent in config_class.__mro__ if "__dataclass_fields__" in vars(parent)]
    for parent in reversed(parents):
        source = inspect.getsource(parent)
        (definition,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = _literal(following)
                if text:
                    found[statement.target.id] = re.sub(r"\s+", " ", text).strip()
    return found


def _literal(statement: ast.stmt) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
        case _:
            return ""


def _settings(hint: Any, where: str) -> dict[str, Any]:
    """The arguments of `add_argument` for a field's type."""
    hint = _without_none(hint)
    origin = typing.get_origin(hint)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if hint in (int, float, str):
        return {"type": _READERS[hint], "metavar": {int: "N", float: "X", str: "TEXT"}[hint]}
    if origin is Literal:
        options = typing.get_args(hint)
        return {"type": _choice(options), "metavar": "{" + ",".join(str(option) for option in options) + "}"}
    if origin is tuple and typing.get_args(hint) == (str, Ellipsis):
        return {"type": _words, "action": "extend", "metavar": "A,B,..."}
    raise TypeError(f"{where} is of type {hint}, for which there is no flag")


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


def _whole(text: str) -> int:
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _choice(options: Sequence[Any]) -> Any:
    by_text = {str(option): option for option in options}

    def read(text: str) -> Any:
        if text not in by_text:
            listed = ", ".join(by_text)
            raise argparse.ArgumentTypeError(f"{text!r} is none of {listed}{suggestion(text, list(by_text))}")
        return by_text[text]

    return read


_READERS: dict[Any, Any] = {int: _whole, float: _number, str: str}


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _shown(default: Any) -> str:
    match default:
        case None | () | "":
            return "none"
        case bool():
            return "yes" if default else "no"
        case tuple():
            return ",".join(str(part) for part in default)
        case _:
            return str(default)


def _destination(config_class: Any, field_name: str) -> str:
    return f"{config_class.__module__}.{config_class.__qualname__}.{field_name}"
