"""The command line: flags from dataclasses, one JSON line, exit codes, and the commands that the documents show."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import VERBS, Verb, main, parser_of, read
from jobs.cli.flags import UsageError, collect, field_docstrings
from models import FAMILIES
from models.family import Family
from tests.conftest import CHECKOUT, write_visitors
from tests.kit.verbs import Options

GOLDEN = CHECKOUT / "tests" / "golden" / "flags"
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md"))]


@pytest.fixture(autouse=True)
def environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the verb of the tests, `play`."""
    monkeypatch.setitem(VERBS, "play", Verb("tests.kit.verbs", "ends as asked", takes_family="optional"))


def test_the_help_lists_every_verb_without_importing_torch() -> None:
    code = "import sys; from jobs.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert all(f"  {verb} " in shown.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", "no verb given"),
        ("--store x train", "the verb comes first"),
        ("trian toy", "unknown verb 'trian', did you mean train?"),
        ("prepare", "prepare works on a family"),
        ("prepare tyo --raw x", "unknown family 'tyo', did you mean toy?"),
        ("prepare toy", "--raw"),
        ("prepare toy --rwa x", "--raw"),
        ("play --shrae 1", "unknown flag --shrae, did you mean --share?"),
        ("play --sha 1", "unknown flag --sha"),
        ("play --limit many", "'many' is not a whole number"),
        ("play --how gats", "did you mean gate?"),
        ("play --share 2", "--share 2.0 is above 1; use a fraction"),
        ("play toy more", "unexpected argument 'more'"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_what_was_meant(
    line: str, answer: str, toy: Family, play: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert answer in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_wrong_command_line_also_gets_its_json_line(toy: Family, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "toy", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verb"], answer["family"], answer["status"]) == ("prepare", "toy", "failed")
    assert "--raw" in answer["error"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("ok", 0),
        ("gate", 4),
        ("data", 3),
        ("down", 5),
        ("resumable", 6),
        ("ctrl-c", 130),
        ("sigterm", 6),
        ("mistake", 1),
    ],
)
def test_every_ending_has_its_exit_code_and_one_json_line(
    how: str, code: int, play: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", "--how", how, "--json"]) == code
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert (answer["status"] == "ok") == (code == 0)
    assert ("error" in answer) == (code != 0)
    assert answer["exit_code"] == code
    assert "a library talks" in shown.err
    assert "Traceback" not in shown.err


def test_details_of_a_failure_are_in_its_json_line(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--how", "gate", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["p_value"] == 0.4
    assert answer["metrics"] == {"test_accuracy": 0.3}


def test_nan_becomes_null_because_json_has_none(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--json"])
    line = capsys.readouterr().out
    assert json.loads(line, parse_constant=pytest.fail)["metrics"] == {"val_accuracy": 0.5, "val_loss": None}


def test_debug_shows_where_a_mistake_happened(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--how", "mistake", "--debug"])
    assert "tests/kit/verbs.py" in capsys.readouterr().err


def test_without_json_a_short_summary_is_on_stdout(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play"])
    assert capsys.readouterr().out.splitlines()[:2] == ["play: ok", "  run_id: r1"]


def test_a_dry_run_prints_the_settings_and_starts_nothing(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--names", "a,b", "--names", "c", "--gpu", "--limit", "3", "--dry-run", "--json", "--store", "s"])
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert answer["status"] == "dry-run"
    assert answer["options"] == {"how": "ok", "limit": 3, "share": 0.5, "names": ["a", "b", "c"], "gpu": True}
    assert answer["context"]["store"]["root"] == str(Path("s").absolute())
    assert "a library talks" not in shown.err


def test_a_dry_run_shows_no_keys_of_a_uri(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--names", "s3://KEY:SECRET@shop/log", "--address", "ray://me:SECRET@host:1", "--dry-run", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["options"]["names"] == ["s3://***@shop/log"]
    assert answer["context"]["address"] == "ray://***@host:1"


def test_the_environment_decides_where_no_flag_does(play: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPKEEPER_STORE", "/elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert read(["play"]).everywhere.store == "/elsewhere"
    assert read(["play"]).everywhere.address == "10.0.0.1:6379"
    assert read(["play", "--store", "here"]).everywhere.store == "here"


def test_the_docstring_under_a_field_is_its_help() -> None:
    assert field_docstrings(Options) == {
        "how": "How to end.",
        "limit": "A whole number, or none.",
        "names": "Some names.",
    }


def test_a_field_keeps_the_docstring_of_its_parent(toy: Family) -> None:
    assert "one optimiser step" in field_docstrings(toy.Config)["batch_size"]
    assert "Which network" in field_docstrings(toy.Config)["network"]


def test_a_verb_on_a_family_leaves_only_the_json_line_on_stdout(toy: Family, tmp_path: Path, capfd: Any) -> None:
    raw = write_visitors(tmp_path / "visitors.csv", num_visitors=100)
    code = main(["prepare", "toy", "--raw", str(raw), "--store", str(tmp_path / "store"), "--json"])
    lines = capfd.readouterr().out.splitlines()
    assert code == 0
    assert len(lines) == 1
    assert json.loads(lines[0])["rows"] == 100


def test_what_child_processes_write_to_stdout_goes_to_stderr() -> None:
    code = """
import os, sys
from jobs import __main__ as cli
cli.VERBS["play"] = cli.Verb("tests.kit.verbs", "", takes_family="optional")
with cli._stdout_for_results() as stdout:
    os.system("echo a child talks")
    stdout.write("the result")
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert shown.stdout == "the result"
    assert "a child talks" in shown.stderr


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_flags_of_a_verb_change_only_on_purpose(verb: str) -> None:
    golden = GOLDEN / f"{verb}.txt"
    now = "\n".join(_flags(verb)) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(now, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == now, "run the test with REWRITE_GOLDEN=1 if this is meant"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_config_of_a_family_has_help_and_survives_the_way_through_flags(family: str) -> None:
    for name in ("Config", "PrepareConfig"):
        config_class = getattr(FAMILIES[family], name)
        fields = {field.name for field in dataclasses.fields(config_class)}
        assert set(field_docstrings(config_class)) == fields
    config = read(["train", family]).config
    assert config == FAMILIES[family].Config()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if (CHECKOUT / name).is_file()])
def test_every_command_in_the_documents_can_be_read(document: str) -> None:
    for command in _commands(CHECKOUT / document):
        try:
            read(shlex.split(command, comments=True)[1:])
        except (UsageError, SystemExit) as error:
            pytest.fail(f"{command!r} in {document}: {error}")


def test_collect_keeps_defaults_where_no_flag_was_given(play: None) -> None:
    values = parser_of("play", None).read(["--limit", "1_000"])
    assert collect(values, Options) == Options(limit=1000)


def _flags(verb: str) -> list[str]:
    family = "recommender" if VERBS[verb].config else None
    actions = parser_of(verb, family)._actions
    lines = [f"{action.option_strings[0]} {action.metavar or ''}".strip() for action in actions]
    return sorted(f"{line} {_default(action.help or '')}" for line, action in zip(lines, actions, strict=True))


def _default(text: str) -> str:
    found = re.search(r"\((required|default: [^()]*)\)$", text)
    return found.group(0) if found else ""


def _commands(document: Path) -> list[str]:
    blocks = re.findall(r"```[a-z]*\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*(\.venv/bin/)?shopkeeper ", line)]
