"""Importing the family is quick: what takes a second is imported when a forecast is made."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import CHECKOUT


def test_the_family_is_imported_without_what_only_a_forecast_needs() -> None:
    code = "import sys, models.forecast; sys.exit('scipy.stats' in sys.modules or 'sklearn' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
