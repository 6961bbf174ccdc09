"""The contract: a family that does not fit together is refused by mypy at the wrong line, or when it is made."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from models.config import LogUniform
from models.family import Family
from models.metrics import Metric
from tests.conftest import CHECKOUT
from tests.kit import toy
from tests.kit.register import TOY

WRONG = CHECKOUT / "tests" / "wrong_families"
MARK = re.compile(r"# wrong: ([\w-]+)$")
CACHE = CHECKOUT / ".mypy_cache" / "wrong_families"
"""Of its own, so that nothing is checked anew but what has changed, and `make check` beside it is not disturbed."""


def test_mypy_finds_the_mistake_of_every_wrong_family_at_its_line_and_no_other() -> None:
    files = sorted(WRONG.glob("*.py"))
    marked = {
        (path.name, number, mark.group(1))
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (mark := MARK.search(line))
    }
    assert {name for name, _, _ in marked} == {path.name for path in files}

    command = [sys.executable, "-m", "mypy", "--output=json", f"--cache-dir={CACHE}"]
    run = subprocess.run([*command, *map(str, files)], cwd=CHECKOUT, capture_output=True, text=True)

    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    errors = [each for each in messages if each["severity"] == "error"]
    assert {(each["file"].rpartition("/")[2], each["line"], each["code"]) for each in errors} == marked, run.stderr


def test_the_wrong_families_are_left_out_of_the_check_of_everything_else() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={CACHE}", "-p", "tests.wrong_families"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert "error:" not in found.stdout


def test_a_misspelt_member_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="update_statistic"):
        changed(update_statistic=toy.initialise)


def test_a_missing_member_is_refused_at_import() -> None:
    members = {each.name: getattr(TOY, each.name) for each in dataclasses.fields(TOY) if each.name != "collate"}
    with pytest.raises(TypeError, match="collate"):
        Family(**members)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"space": {"learning_rat": LogUniform(1e-3, 1e-1)}}, "'learning_rat', which is no field of its Config"),
        ({"endpoints": ()}, "toy has no endpoint"),
        ({"route_prefix": "/v1/visitors"}, "the path /v1/colours of toy must start with /v1/visitors/"),
        ({"endpoints": [*TOY.endpoints, *TOY.endpoints]}, "the path /v1/colours of toy .* be there once"),
        ({"metrics": [Metric("accuracy", "min")]}, "more than one metric 'accuracy'"),
    ],
)
def test_members_that_do_not_fit_together_are_refused_at_import(members: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        changed(**members)


def changed(**members: Any) -> Family:
    """The toy with other members."""
    return dataclasses.replace(TOY, **members)
