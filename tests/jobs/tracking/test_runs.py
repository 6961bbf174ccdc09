"""The git commit of a run is that of our own code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from jobs.tracking.runs import git_commit


def test_the_commit_is_that_of_the_repository_that_tracks_the_file(tmp_path: Path) -> None:
    source = repository(tmp_path) / "runs.py"
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()

    assert git_commit(source) == commit
    source.write_text("changed", encoding="utf-8")
    assert git_commit(source) == f"{commit}+changes"


def test_a_repository_that_contains_the_environment_does_not_count(tmp_path: Path) -> None:
    installed = repository(tmp_path) / ".venv" / "runs.py"
    installed.parent.mkdir()
    installed.write_text("", encoding="utf-8")

    assert git_commit(installed) == "unknown"


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "runs.py") == "unknown"


def repository(directory: Path) -> Path:
    """A repository with one file, committed."""
    (directory / "runs.py").write_text("", encoding="utf-8")
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "--quiet"], ["add", "runs.py"], [*author, "commit", "--quiet", "--message", "One file"]):
        subprocess.run(["git", *words], cwd=directory, check=True)
    return directory
