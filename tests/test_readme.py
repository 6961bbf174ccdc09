"""The README stays short, the tree in docs/architecture.md is that of the checkout, and what documents name exists."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from jobs.prediction.request_fields import markdown, request_fields
from models import FAMILIES
from tests.conftest import CHECKOUT

HEADING = "## The tree\n"
SHORT = {
    "Dockerfile": "one image for every role, with or without CUDA",
    "Makefile": "make setup, make demo, make test, make check",
    "THIRD_PARTY.md": "the licences of what a node installs",
    "cluster.yaml": "a Ray cluster: small head, autoscaled workers",
    "pyproject.toml": "what is needed; settings of ruff, mypy and pytest",
    "benchmarks/": "one script and one dated page per claim",
    "deploy/": "the compose file and the health check of images",
    "docs/": "architecture, adding a family, operations, decisions, log",
    "licences/": "notices that images carry",
    "release/": "locks, licences and the installer; see docs/images.md",
    "requirements/": "the versions that were tried together, with hashes",
    "stubs/": "what mypy knows of pyarrow, which has no types of its own",
    "tests/": "mirrors the packages; `kit/toy.py` is a small family",
}
CAPTION_LENGTH = 95
DOCUMENTS = sorted(
    str(path.relative_to(CHECKOUT))
    for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), CHECKOUT / "benchmarks" / "README.md"]
)
OURS = ("benchmarks", "docs", "jobs", "models", "serve", "stubs", "tests")
"""Where files that documents name may lie; a name may leave out the folders above that the text has named before."""


def test_the_tree_names_every_file_with_its_own_words() -> None:
    page = CHECKOUT / "docs" / "architecture.md"
    before, _, _ = page.read_text(encoding="utf-8").partition(HEADING)
    now = f"{before}{HEADING}\n{_tree()}\n"
    if os.environ.get("REWRITE_GOLDEN"):
        page.write_text(now, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == now, "run the test with REWRITE_GOLDEN=1"


@pytest.mark.parametrize("family", ["recommender", "image", "forecast", "pricing", "reviews"])
def test_the_guides_show_the_fields_of_a_request(family: str) -> None:
    page = CHECKOUT / "docs" / f"{family}.md"
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- fields of {family} -->\n")
    _, end, after = rest.partition("<!-- end -->\n")

    table = markdown(request_fields(FAMILIES[family].endpoints[0]))

    now = f"{before}{begin}\n{table}\n\n{end}{after}"
    if os.environ.get("REWRITE_GOLDEN"):
        page.write_text(now, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == now, "run the test with REWRITE_GOLDEN=1"
    assert all(each.description for each in request_fields(FAMILIES[family].endpoints[0]))


def test_the_readme_fits_on_a_screen_of_prose() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").split()) < 550


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    assert not [name for name in _named_files(_prose(document)) if not _exists(name)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", _prose(document))
    assert not [link for link in links if not link.startswith("https://") and not _leads_somewhere(document, link)]


def _prose(document: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"```.*?```", "", (CHECKOUT / document).read_text(encoding="utf-8"), flags=re.S)


def _named_files(prose: str) -> list[str]:
    """Python files and our folders in backticks; `*` is a wildcard."""
    names = re.findall(r"`([\w.*][\w./*-]*(?:\.py|/))`", prose)
    return [name for name in names if name.endswith(".py") or (name.count("/") > 1 and name.split("/")[0] in OURS)]


def _exists(name: str) -> bool:
    return any(CHECKOUT.glob(name)) or any(next((CHECKOUT / folder).rglob(name), None) for folder in OURS)


def _leads_somewhere(document: str, link: str) -> bool:
    target, _, anchor = link.partition("#")
    path = (CHECKOUT / document).parent / target if target else CHECKOUT / document
    if not path.exists() or not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _tree() -> str:
    lines = [f"{name:<22} {caption}" for name, caption in SHORT.items() if (CHECKOUT / name).exists()]
    for package in ("models", "jobs", "serve"):
        lines += _folder(CHECKOUT / package, depth=0)
    return "\n".join(["```text", *lines, "```"])


def _folder(folder: Path, *, depth: int) -> list[str]:
    """The package with its caption, then its files, then its subpackages."""
    lines = [_line(f"{folder.name}/", folder / "__init__.py", depth=depth)]
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            lines.append(_line(path.name, path, depth=depth + 1))
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").is_file():
            lines += _folder(path, depth=depth + 1)
    return lines


def _line(name: str, path: Path, *, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    caption = re.split(r"[;.](?:\s|$)", " ".join(docstring.split()))[0]
    if len(caption) > CAPTION_LENGTH:
        caption = re.split(r"[,:] (?=[^,:]*$)| \S*$", caption[:CAPTION_LENGTH])[0]
    return f"{'  ' * depth + name:<22} {caption}"
