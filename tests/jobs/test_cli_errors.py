"""Command lines that cannot be read or answered: every one gets one line, its JSON line and an exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main, read
from jobs.cli.output import OutputFailed, write
from models import FAMILIES
from models.family import Family
from tests.conftest import CHECKOUT
from tests.kit import toy as kit

STATUS = [sys.executable, "-m", "jobs", "status"]


@dataclass(frozen=True)
class Repeated(kit.Config):
    workers: int = 1


@dataclass(frozen=True)
class WithoutFlag(kit.Config):
    table: dict[int, int] | None = None


@dataclass(frozen=True)
class Clumsy(kit.Config):
    def __post_init__(self) -> None:
        raise KeyError("colour\nand shape")


@pytest.mark.parametrize(
    ("verb", "change", "said"),
    [
        (
            "train",
            {"Config": Repeated},
            "the family 'toy' cannot be used by train: the field 'workers' is among the flags of train toy and the "
            "flags of train; rename the family's field",
        ),
        ("train", {"Config": WithoutFlag}, "the field 'table' of WithoutFlag has a type without a flag"),
        ("train", {"Config": Clumsy}, "the flags of `shopkeeper train toy` cannot be read: KeyError: "),
    ],
)
def test_a_family_whose_settings_cannot_be_flags_fails_with_one_line_that_says_why(
    verb: str,
    change: dict[str, Any],
    said: str,
    toy: Family,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(FAMILIES, "toy", dataclasses.replace(toy, **change))

    code = main([verb, "toy", "--json"])

    shown = capsys.readouterr()
    assert code == 1
    assert said in shown.err and shown.err.count("\n") == 1
    answer = json.loads(shown.out)
    assert (answer["verb"], answer["family"], answer["exit_code"]) == (verb, "toy", 1)


@pytest.mark.parametrize("switch", ["--json", "--json=true", "--json=1", "--no-json --json"])
def test_a_usage_error_gets_its_json_line_however_json_is_asked_for(
    switch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", *switch.split(), "--nope"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


@pytest.mark.parametrize("switch", ["", "--json=false", "--json --no-json"])
def test_a_usage_error_gets_no_json_line_where_none_is_asked_for(
    switch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", *switch.split(), "--nope"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("status --store=", "--store: the value is empty"),
        ("prepare toy --raw=", "--raw: the value is empty"),
        ("prepare toy --raw", "--raw requires an argument"),
        ("prepare toy", "--raw is required; see `shopkeeper prepare toy --help`"),
        ("train toy --resume=", "--resume: the value is empty"),
        ("status --store ~nosuchuser/x", "--store ~nosuchuser/x: there is no such user"),
        ("status --store s3://shop/store", "--store s3://shop/store: a store is a directory"),
        ("train toy --learning-rate inf", "--learning-rate is inf; it should be a finite number"),
        ("train toy --learning-rate nan", "--learning-rate is nan; it should be a finite number"),
        ("sweep toy --trials 0 --dry-run", "--trials 0 is too small; use 1 or more"),
        ("train toy -- --epochs 3", "unexpected argument --; omit it"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_usage_error(
    line: str, said: str, toy: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_infinity_turns_gradient_clipping_off(toy: Family) -> None:
    invocation = read(["train", "toy", "--max-grad-norm", "inf"])
    assert invocation.config is not None and invocation.config.max_grad_norm == float("inf")


def test_a_flag_given_with_its_default_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPKEEPER_STORE", "/elsewhere")
    assert read(["status", "--store", "./store"]).everywhere.store == "./store"
    assert read(["status"]).everywhere.store == "/elsewhere"


def test_an_empty_variable_of_the_environment_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPKEEPER_STORE", "")
    assert read(["status"]).everywhere.store == "./store"


def test_arguments_that_stdout_cannot_encode_are_escaped(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*STATUS, "--nope-\u00e9", "--store", os.fsdecode(b"\xff"), "--json"]

    found = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)

    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "--nope-\u00e9" in json.loads(found.stdout)["error"]


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("flags", ["--help", "--nope --json"])
def test_a_stdout_that_takes_nothing_is_one_line_and_a_failure(redirection: str, flags: str) -> None:
    found = subprocess.run(
        ["sh", "-c", f'"$0" -m jobs status {flags} {redirection}', sys.executable],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )

    assert found.returncode == 1
    assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr
    assert "stdout" in found.stderr.splitlines()[-1]


def test_a_verb_whose_working_directory_is_gone_can_be_run_again(tmp_path: Path) -> None:
    script = f"cd {tmp_path} && rmdir {tmp_path} && exec {sys.executable} -m jobs status"

    ended = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)

    assert ended.returncode == 6
    assert "the working directory has been removed; run the verb again" in ended.stderr


def test_what_cannot_be_written_names_the_reason() -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        with pytest.raises(OutputFailed, match="No space left on device"):
            write(full, "the result")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
