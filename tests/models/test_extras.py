"""Extras: a family is there without those of others, and what is missing is named with the extra that brings it."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from models.extras import PACKAGES, PARTS, ExtraMissing, Families, extra
from tests.conftest import CHECKOUT

WITHOUT = "import sys; sys.modules[{module!r}] = None; from jobs.__main__ import main; sys.exit(main(sys.argv[1:]))"
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}


def shopkeeper_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT.format(module=module), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_a_family_whose_package_is_missing_names_its_extra() -> None:
    done = shopkeeper_without("PIL", "train", "image")

    assert done.returncode == 2
    assert "needs the package PIL" in done.stderr and "shopkeeper[image]" in done.stderr


def test_the_other_families_work_without_it() -> None:
    done = shopkeeper_without("PIL", "train", "recommender", "--dry-run")

    assert done.returncode == 0, done.stderr


def test_a_package_that_only_a_report_needs_is_asked_for_by_the_report() -> None:
    assert shopkeeper_without("captum", "train", "image", "--dry-run").returncode == 0


def test_a_package_of_an_extra_names_it_and_a_fault_of_our_own_stays_as_it_is() -> None:
    with (
        pytest.raises(ExtraMissing, match=r"image family needs the package captum.*shopkeeper\[image\]"),
        extra("image"),
    ):
        raise ModuleNotFoundError("No module named 'captum'", name="captum.attr")
    with pytest.raises(ModuleNotFoundError, match="ours"), extra("image"):
        raise ModuleNotFoundError("ours", name="models.gone")


def test_an_unknown_family_is_a_key_error_and_a_missing_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    families = Families(["image", "reviews"], {})

    with pytest.raises(ExtraMissing, match="the image family needs the package PIL"):
        families["image"]
    with pytest.raises(KeyError):
        families["video"]
    assert "image" not in families and list(families) == ["reviews"] and families["reviews"].name == "reviews"


@pytest.mark.parametrize("name", sorted(PACKAGES.keys() - PARTS.keys()))
def test_a_family_imports_no_other_and_none_of_what_it_needs_later(name: str) -> None:
    code = (
        "import sys; from models.extras import LATER, PACKAGES; from models import FAMILIES\n"
        f"sys.modules.update(dict.fromkeys(LATER.get({name!r}, ())))\n"
        f"FAMILIES[{name!r}]\n"
        "print(*(name for name in PACKAGES if f'models.{name}' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert done.stdout.split() == [name], done.stderr


def test_every_package_of_an_extra_is_declared_there() -> None:
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]

    for name, modules in PACKAGES.items():
        assert {DISTRIBUTIONS.get(module, module) for module in modules} == {
            line.partition(">")[0] for line in extras[name]
        }


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["prepare", "--help"], ["jobs", "--help"]])
def test_help_that_is_about_no_family_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys; from jobs.__main__ import main; main({arguments}); sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert done.returncode == 0 and "usage: shopkeeper" in done.stdout.lower(), done.stderr
