"""The rules of docs/architecture.md that can be checked automatically."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import CHECKOUT

SOURCES = {
    str(path.relative_to(CHECKOUT)): path
    for package in ("models", "jobs", "serve", "tests")
    for path in sorted((CHECKOUT / package).rglob("*.py"))
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
FORBIDDEN = {
    "models": {"ray", "mlflow", "fastapi", "jobs", "serve"},
    "jobs": {"serve", "fastapi"},
    "serve": {"jobs", "mlflow"},
}
ONLY_HERE = {"mlflow": "jobs/tracking/", "TorchTrainer": "jobs/training/fit.py", "Tuner": "jobs/training/tuner.py"}
USES_RAY = (
    "jobs/cluster/connection.py",
    "jobs/cluster/executor.py",
    "jobs/cluster/node_types.py",
    "jobs/cluster/waiting.py",
    "jobs/evaluation/scoring.py",
    "jobs/predict.py",
    "jobs/serving/api.py",
    "jobs/serving/config.py",
    "jobs/submission/client.py",
    "jobs/sweep.py",
    "jobs/training/fit.py",
    "jobs/training/trials.py",
    "jobs/training/tuner.py",
    "serve/app.py",
)
"""Only these files use Ray and convert its values to ours. Keep the list short."""
TOUCHES_ENVIRONMENT = (
    "jobs/__main__.py",
    "jobs/cluster/connection.py",
    "jobs/cluster/head_environment.py",
    "jobs/cluster/waiting.py",
    "jobs/submission/forwarded.py",
    "jobs/tracking/connection.py",
)
"""The command line reads it, and submit what it forwards; the others set what Ray and MLflow read nowhere else."""
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w+")


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN.items())
def test_packages_import_in_one_direction_only(package: str, forbidden: set[str]) -> None:
    ours = [name for name in SOURCES if name.startswith(f"{package}/")]
    assert not {name: found for name in ours if (found := forbidden & {part.split(".")[0] for part in _imported(name)})}


def test_no_family_imports_another_and_what_they_share_imports_none() -> None:
    parts = {name: name.split("/")[1].removesuffix(".py") for name in SOURCES if name.startswith("models/")}
    families = {part for name, part in parts.items() if name == f"models/{part}/__init__.py" and "FAMILY" in _set(name)}
    assert {"recommender", "image"} <= families
    assert not {
        name: found
        for name, part in parts.items()
        if name != "models/__init__.py"
        and (found := {full for full in _imported(name) for other in families - {part} if _is_in(full, other)})
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {name: _ours(name) - {name} for name in SOURCES if not name.startswith("tests/")}
    while leaves := [name for name, needed in imports.items() if not needed & imports.keys()]:
        for name in leaves:
            del imports[name]
    assert not imports, "each of these imports another of them, at the top or inside a function"


def test_imports_are_absolute() -> None:
    relative = {
        name: [node for node in _nodes(name) if isinstance(node, ast.ImportFrom) and node.level] for name in SOURCES
    }
    assert not [name for name, nodes in relative.items() if nodes]


@pytest.mark.parametrize(("name", "home"), ONLY_HERE.items())
def test_libraries_with_one_home_are_used_nowhere_else(name: str, home: str) -> None:
    users = {source for source in SOURCES if name in {part for full in _used(source) for part in full.split(".")}}
    assert {user for user in users if not user.startswith(("tests/", home))} == set()


def test_ray_is_used_in_few_files_only() -> None:
    users = [name for name in SOURCES if any(part.split(".")[0] == "ray" for part in _imported(name))]
    assert tuple(name for name in users if not name.startswith("tests/")) == USES_RAY


def test_files_stay_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()}
    assert not {name: length for name, length in lengths.items() if length >= MAX_FILE_LINES}


def test_functions_stay_short() -> None:
    functions = [
        (name, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for name in SOURCES
        for node in _nodes(name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [function for function in functions if function[2] > MAX_FUNCTION_LINES]


def test_modules_start_with_a_docstring() -> None:
    assert not [name for name in SOURCES if not ast.get_docstring(_tree(name))]


def test_nothing_is_printed_or_pickled() -> None:
    assert not {name: found for name in SOURCES if (found := {"print", "pickle"} & _used(name))}


def test_environment_variables_are_used_in_few_files_only() -> None:
    touching = [name for name, path in SOURCES.items() if re.search(r"os\.(environ|getenv)", path.read_text("utf-8"))]
    assert not [name for name in touching if not name.startswith("tests/") and name not in TOUCHES_ENVIRONMENT]


def test_no_file_contains_a_path_of_one_machine() -> None:
    documents = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*"), *CHECKOUT.glob("*.*ml"), CHECKOUT / "Makefile"]
    texts = {path: path.read_text(encoding="utf-8") for path in [*SOURCES.values(), *documents] if path.is_file()}
    assert not {str(path): found for path, text in texts.items() if (found := MACHINE_PATH.findall(text))}


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"))


@cache
def _nodes(name: str) -> list[ast.AST]:
    return list(ast.walk(_tree(name)))


def _imported(name: str) -> set[str]:
    found = set()
    for node in _nodes(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _is_in(full_name: str, family: str) -> bool:
    return full_name == f"models.{family}" or full_name.startswith(f"models.{family}.")


def _set(name: str) -> set[str]:
    """Names that a module assigns."""
    targets = [target for node in _nodes(name) if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _ours(name: str) -> set[str]:
    """Our files that a file imports, including inside functions but not under TYPE_CHECKING."""
    seen_by_mypy = {
        id(node)
        for block in _nodes(name)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in _nodes(name):
        if id(node) in seen_by_mypy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [one for one in full if _file_of(one) in SOURCES]
            found |= set(modules) | ({node.module} if len(modules) < len(full) else set())
    return {file for module in found if (file := _file_of(module)) in SOURCES}


def _file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}.py" if f"{path}.py" in SOURCES else f"{path}/__init__.py"


def _used(name: str) -> set[str]:
    """Imported modules, names in the code, and the attributes in ONLY_HERE."""
    names = {node.id for node in _nodes(name) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in _nodes(name) if isinstance(node, ast.Attribute)}
    return names | attributes & set(ONLY_HERE) | _imported(name)
