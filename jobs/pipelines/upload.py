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


def with_pipeline(command: Sequence[str], code: Path) -> tuple[str, ...]:
    """The command with the file of a pipeline replaced by its copy in `code`; any other command as it is.

    A file that is not on this machine may be on the cluster, which then checks it. Raises UsageFailure.
    """
    if command[0] != "pipeline":
        return tuple(command)
    try:
        options = command_line.read(list(command)).options
    except (UsageError, HelpRequested) as error:
        raise UsageFailure(str(error)) from error
    words = [word for word in options.command if not word.startswith("-")]
    if len(words) != 1 or not Path(words[0]).is_file():
        return tuple(command)
    file = Path(words[0])
    read_pipeline(file, variables=options.variables, checks_files=False)
    (code / FOLDER).mkdir()
    shutil.copyfile(file, code / FOLDER / file.name)
    return tuple(f"{FOLDER}/{file.name}" if word == words[0] else word for word in command)
