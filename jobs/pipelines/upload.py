"""A pipeline that is submitted to a cluster: its file is checked here and goes along with the code."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs import __main__ as command_line
from jobs.cli.context import UsageFailure
from jobs.cli.flags import HelpRequested, UsageError
from jobs.pipelines.reading import read_pipeline

FOLDER = "submitted"
"""In the code's directory, which is the working directory of the job."""


def check_pipeline(command: Sequence[str]) -> None:
    """Check the file of a pipeline before anything is uploaded; raises UsageFailure for a mistake in it."""
    _file_of(command)


def with_pipeline(command: Sequence[str], code: Path) -> tuple[str, ...]:
    """The command with the file of a pipeline replaced by its copy in `code`; any other command as it is.

    A file that is not on this machine may be on the cluster, which then checks it. Raises UsageFailure.
    """
    file = _file_of(command)
    if file is None:
        return tuple(command)
    (code / FOLDER).mkdir()
    shutil.copyfile(file, code / FOLDER / Path(file).name)
    return tuple(f"{FOLDER}/{Path(file).name}" if word == file else word for word in command)


def _file_of(command: Sequence[str]) -> str | None:
    """The word that names the file of a pipeline on this machine, which is valid; None if there is none."""
    if command[0] != "pipeline":
        return None
    try:
        options = command_line.read(list(command)).options
    except (UsageError, HelpRequested) as error:
        raise UsageFailure(str(error)) from error
    words = [word for word in options.command if not word.startswith("-")]
    if len(words) != 1 or not Path(words[0]).is_file():
        return None
    read_pipeline(Path(words[0]), variables=options.variables, checks_files=False)
    return str(words[0])
