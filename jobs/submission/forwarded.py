"""What a submitted job gets from this machine: environment variables by name, and metadata for the list of jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from jobs.cli.context import UsageFailure

SUBMISSION_ID = "SHOPKEEPER_SUBMISSION_ID"
GIT_COMMIT = "SHOPKEEPER_GIT_COMMIT"
OWN_METADATA = "shopkeeper_"
"""Prefix of the metadata that Shopkeeper sets itself."""
HIDDEN = "***"
MIN_HIDDEN_LENGTH = 4
"""Shorter values, such as `true`, would be found in any text."""


def environment_variables(given: Sequence[str]) -> dict[str, str]:
    """The variables given as NAME=VALUE, or as NAME with the value that it has here; no other is sent.

    Raises UsageFailure, which never quotes a value.
    """
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageFailure("--env needs NAME=VALUE or NAME, where NAME has letters, digits and underscores only")
        if name in (SUBMISSION_ID, GIT_COMMIT):
            raise UsageFailure(f"--env {name} is set by submit itself; omit it")
        if not equals and name not in os.environ:
            raise UsageFailure(f"--env {name}: the variable is not set here; set it, or give --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def metadata(given: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a job from KEY=VALUE words, and our own under a prefix; raises UsageFailure."""
    found = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise UsageFailure(f"--metadata {word!r} is not KEY=VALUE")
        if key.startswith(OWN_METADATA):
            raise UsageFailure(f"--metadata {key}: keys that start with {OWN_METADATA} are set by submit; rename it")
        found[key] = value
    return found | {f"{OWN_METADATA}{key}": value for key, value in own.items()}


def hidden(text: str, variables: Mapping[str, str]) -> str:
    """The text without the values of variables, longest first, as one may be part of another."""
    for value in sorted(variables.values(), key=len, reverse=True):
        if len(value) >= MIN_HIDDEN_LENGTH:
            text = text.replace(value, HIDDEN)
    return text
