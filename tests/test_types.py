"""mypy checks against real types: no library is ignored, and our stubs match pyarrow."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from types import ModuleType

import pyarrow as pa
import pytest

from tests.conftest import CHECKOUT

UNTYPED = {
    "captum": ["models/image/report/saliency.py"],
    "sklearn": [
        "models/forecast/networks/tree.py",
        "models/image/report/embedding_map.py",
        "models/pricing/dml.py",
        "models/pricing/tree.py",
    ],
}
"""Libraries without types, and the only files that call each and annotate its results."""
STUBS = {
    ".".join(path.relative_to(CHECKOUT / "stubs").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((CHECKOUT / "stubs").rglob("*.pyi"))
}


def test_mypy_follows_every_library_that_has_types() -> None:
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    everywhere = {name: value for name, value in settings.items() if name != "overrides"}
    assert settings["disallow_any_unimported"]
    assert not {"ignore_missing_imports", "follow_imports", "disable_error_code"} & everywhere.keys()
    assert settings["overrides"] == [{"module": [f"{name}.*" for name in UNTYPED], "ignore_missing_imports": True}]


@pytest.mark.parametrize(("library", "homes"), UNTYPED.items())
def test_an_untyped_library_is_called_in_few_files(library: str, homes: list[str]) -> None:
    sources = [path for package in ("models", "jobs", "serve") for path in (CHECKOUT / package).rglob("*.py")]
    users = [path for path in sources if re.search(rf"^\s*(import|from) {library}\b", path.read_text("utf-8"), re.M)]
    assert sorted(str(path.relative_to(CHECKOUT)) for path in users) == homes


@pytest.mark.parametrize("name", STUBS)
def test_a_stub_has_only_names_and_parameters_of_the_library(name: str) -> None:
    tree = ast.parse(STUBS[name].read_text(encoding="utf-8"))
    assert not list(_invented(tree, importlib.import_module(name), name))


def test_combining_chunks_returns_an_array_as_in_the_stub() -> None:
    words = pa.chunked_array([["a"], ["b", "a"]])

    assert isinstance(words.combine_chunks(), pa.Array)
    assert isinstance(pa.chunked_array([], pa.string()).combine_chunks(), pa.Array)
    assert isinstance(words.combine_chunks().dictionary_encode(), pa.DictionaryArray)


def _invented(tree: ast.Module | ast.ClassDef, real: ModuleType | type, where: str) -> Iterator[str]:
    """Names and parameters in a stub that the library does not have."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        found = getattr(real, node.name, None)
        if found is None:
            yield f"{where}.{node.name}"
        elif isinstance(node, ast.ClassDef):
            yield from _invented(node, found, f"{where}.{node.name}")
        elif not node.decorator_list:
            yield from (f"{where}.{node.name}({name})" for name in _lacking(node, found))


def _lacking(stub: ast.FunctionDef, function: Callable[..., object]) -> set[str]:
    """Parameters that a function does not have; empty for C functions without a signature."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return set()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return set()
    return {argument.arg for argument in [*stub.args.args, *stub.args.kwonlyargs]} - parameters.keys()
