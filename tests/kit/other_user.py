"""Commands as another user of the machine, where the tests may do that."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NOBODY = "65534"
needs_other_user = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user, and with setpriv"
)


def as_other_user(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who owns nothing."""
    become = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    return subprocess.run([*become, *command], cwd="/", capture_output=True, text=True, check=False)
