"""Verbs that take an action and its arguments, such as `keys create NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from jobs.cli.context import UsageFailure

Action = TypeVar("Action")


def chosen(command: Sequence[str], actions: Mapping[str, Action], *, verb: str, what: str) -> tuple[Action, list[str]]:
    """The action that a command line names, of those by their usage, such as `create NAME`, and its arguments.

    Raises UsageFailure, for `what` it is to be done with.
    """
    action, *rest = command or ("",)
    flags = [word for word in command if word.startswith("-")]
    if flags:
        raise UsageFailure(f"unknown flag {flags[0].partition('=')[0]}; see `shopkeeper {verb} --help`")
    by_name = {usage.split()[0]: (one, len(usage.split()) - 1) for usage, one in actions.items()}
    if action not in by_name or len(rest) != by_name[action][1]:
        given = f"got {' '.join(command)!r}" if command else "nothing was given"
        raise UsageFailure(f"say what to do with {what}: {', '.join(actions)}; {given}")
    return by_name[action][0], rest
