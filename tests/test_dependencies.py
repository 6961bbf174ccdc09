"""The offline audit of dependencies that `make check` runs."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.conftest import CHECKOUT


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", CHECKOUT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("requirements", "installed", "licence", "expected"),
    [
        ("a==1.0", "1.0", "MIT", None),
        ("a==1.0", "1.0+cpu", "MIT", None),
        ("A_b==1.0\na==1.0", "1.0", "MIT", None),
        ("a>=1.0", "1.0", "MIT", "not an exact version"),
        ("a==1.*", "1.0", "MIT", "not an exact version"),
        ("a @ https://example.com/a.whl", "1.0", "MIT", "not an exact version"),
        ("--index-url https://example.com\na==1.0", "1.0", "MIT", "not an exact version"),
        ("a==1.0\na==2.0", "2.0", "MIT", "twice"),
        ("b==1.0", "1.0", "MIT", "not in requirements.txt"),
        ("a==1.0", "1.1", "MIT", "requirements.txt has 1.0"),
        ("a==1.0", "1.0", "GPL-3.0-only", "not among the accepted"),
        ("a==1.0", "1.0", "MIT AND GPL-3.0-only", "not among the accepted"),
        ("a==1.0", "1.0", "GPL-3.0-only OR Apache-2.0", None),
        ("a==1.0", "1.0", "none", "not among the accepted"),
    ],
)
def test_the_audit_names_what_is_not_pinned_installed_or_permissive(
    audit: Any, requirements: str, installed: str, licence: str, expected: str | None
) -> None:
    found = list(audit.problems(requirements, needed=["a"], installed={"a": installed}, licences={"a": licence}))

    assert bool(found) == (expected is not None), found
    assert expected is None or any(expected in problem for problem in found)


def test_a_new_dependency_must_be_pinned(audit: Any) -> None:
    found = list(audit.problems("a==1.0", needed=["a", "new_one"], installed={}, licences={}))

    assert found == ["new-one is in pyproject.toml and not in requirements.txt; add the version that was tried"]


def test_make_check_runs_the_audit() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")

    check = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    assert ".ci/audit.py" in check
