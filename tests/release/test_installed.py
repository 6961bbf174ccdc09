"""What is installed is what the locks say, and what is imported is what pyproject.toml says."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions

import pytest

from release.installed import main, problems
from release.licences import canonical
from release.lock import ROOT
from tests.release.test_lock import PROJECT, direct

PACKAGES = ("jobs", "models", "serve", "release", "deploy")


@pytest.mark.parametrize(
    ("locked", "installed", "expected"),
    [
        ({"a": "1.0"}, {"a": "1.0", "pip": "26.0", "shopkeeper": "0.1"}, None),
        ({"a": "1.0"}, {"a": "1.0+cpu"}, None),
        ({"a": "1.0"}, {}, None),
        ({"a": "1.0"}, {"a": "1.0", "b": "2.0"}, "b 2.0 is installed and not in requirements/"),
        ({"a": "1.0"}, {"a": "1.1"}, "a 1.1 is installed, requirements/ has 1.0"),
        ({}, {}, "a is in pyproject.toml and not in requirements/"),
    ],
)
def test_what_is_not_locked_or_has_another_version_is_named(
    locked: dict[str, str], installed: dict[str, str], expected: str | None
) -> None:
    found = list(problems(locked, needed=["A[extra]>=1,<2"], installed=installed))

    assert len(found) == (expected is not None), found
    assert expected is None or found[0].startswith(expected)


def test_this_environment_is_the_locked_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().err


def test_every_package_that_is_imported_is_named_in_pyproject() -> None:
    declared = direct(
        [*PROJECT["dependencies"], *(each for more in PROJECT["optional-dependencies"].values() for each in more)]
    )
    named = {name: {canonical(each) for each in found} for name, found in packages_distributions().items()}
    undeclared: dict[str, str] = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {each.partition(".")[0] for each in modules} - {*sys.stdlib_module_names, *PACKAGES}:
                if not named.get(module, {module}) & declared:
                    undeclared[module] = str(path.relative_to(ROOT))

    assert not undeclared


@pytest.mark.parametrize("module", ["release.installed", "release.licences --check"])
def test_make_check_looks_at_what_is_installed(module: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert module in makefile.partition("\ncheck:")[2].partition("\n\n")[0]
