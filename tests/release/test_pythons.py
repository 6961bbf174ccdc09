"""What `.ci/run` tries on the other Pythons."""

from __future__ import annotations

import re
import subprocess
import sys

from release.lock import ROOT

SCRIPT = ROOT / ".ci" / "pythons"


def test_a_python_that_is_not_here_is_passed_over_with_a_word() -> None:
    done = subprocess.run([SCRIPT, "3.99"], capture_output=True, text=True, check=True)

    assert "Python 3.99 is not here; not tried" in done.stdout


def test_the_tests_that_other_pythons_run_exist() -> None:
    lists = re.findall(r'^with\w*="([^"]*)"', SCRIPT.read_text(encoding="utf-8"), re.M)
    paths = [path for each in lists for path in each.split()]

    assert len(lists) == 2 and len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_all_modules_can_be_imported_on_this_python() -> None:
    done = subprocess.run(
        [sys.executable, "-P", ".ci/imports.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert ", 0 need torch" in done.stdout
