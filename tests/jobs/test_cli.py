"""The command line: flags from dataclasses, one JSON line, exit codes, and the commands in the documentation."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cyclopts import Argument

from jobs.__main__ import _log_to_stderr, main, parser_of, read
from jobs.cli.flags import HelpRequested, Parser, UsageError, field_docstrings
from jobs.cli.result import FORMER_KEYS, Result
from jobs.cli.verbs import VERBS, Verb
from models import FAMILIES
from models.bundle import config_from_dict
from models.family import Family
from tests.conftest import CHECKOUT, write_visitors
from tests.kit.verbs import Options

GOLDEN = CHECKOUT / "tests" / "golden" / "flags"
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md"))]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the test verb `play`."""
    monkeypatch.setitem(VERBS, "play", Verb("tests.kit.verbs", "ends as told", takes_family="optional"))


def test_the_help_lists_every_verb_without_importing_torch() -> None:
    code = "import sys; from jobs.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert all(f"  {verb} " in shown.stdout for verb in VERBS)


def test_the_help_groups_the_verbs_and_aligns_their_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    verbs = [line for line in lines if line.startswith("  ")]
    assert headings == ["Data and training:", "Evaluation:", "Serving:", "Cluster and operations:"]
    assert [line.split()[0] for line in verbs] == list(VERBS)
    assert len({line.index(VERBS[line.split()[0]].summary) for line in verbs}) == 1
    assert max(map(len, lines)) <= 80


def test_the_help_of_a_verb_without_a_family_lists_the_families(
    toy: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"FAMILY is one of {', '.join(sorted(FAMILIES))}." in shown
    assert "--workers" in shown
    assert "--batch-size" not in shown


def test_the_help_of_a_verb_lists_the_flags_of_its_family_and_of_every_verb(
    toy: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "toy", "--help"]) == 0
    shown = capsys.readouterr().out
    titles = ["Flags of train ", "Flags of train toy ", "Flags of every verb "]
    assert sorted(titles, key=shown.index) == titles
    assert "per optimizer step" in shown
    assert "exit codes: 0 done" in shown


def test_the_help_of_predict_lists_the_fields_of_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "recommender", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "  exclude_seen (true or false; default null): Whether to leave out" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", "no verb given"),
        ("--store x train", "the verb comes first"),
        ("trian toy", "unknown verb 'trian', did you mean train?"),
        ("prepare", "prepare needs a family"),
        ("prepare tyo --raw x", "unknown family 'tyo', did you mean toy?"),
        ("prepare toy", "--raw"),
        ("prepare toy --rwa x", "--raw"),
        ("play --shrae 1", "unknown flag --shrae, did you mean --share?"),
        ("play --sha 1", "unknown flag --sha"),
        ("play --limit many", "--limit: 'many' is not an integer"),
        ("play --limit 3.7", "--limit: '3.7' is not an integer"),
        ("play --share much", "--share"),
        ("play --limit", "--limit requires an argument"),
        ("play --how gats", 'Did you mean "gate"?'),
        ("play --share 2", "--share 2.0 is above 1; use a fraction"),
        ("play toy more", "unexpected argument more"),
        ("play --no-names", "unknown flag --no-names"),
    ],
)
def test_an_invalid_command_line_exits_2_with_a_hint(
    line: str, answer: str, toy: Family, play: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert answer in shown.err
    assert shown.err.count("\n") == 1
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
def test_every_outcome_has_its_exit_code_and_one_json_line(
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


def test_the_json_line_of_a_failure_has_its_details(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--how", "gate", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["p_value"] == 0.4
    assert answer["metrics"] == {"test_accuracy": 0.3}


def test_nan_becomes_null_in_json(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--json"])
    line = capsys.readouterr().out
    assert json.loads(line, parse_constant=pytest.fail)["metrics"] == {"val_accuracy": 0.5, "val_loss": None}


def test_debug_prints_the_traceback_of_a_bug(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--how", "mistake", "--debug"])
    assert "tests/kit/verbs.py" in capsys.readouterr().err


def test_without_json_a_summary_is_printed_to_stdout(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play"])
    assert capsys.readouterr().out.splitlines()[:2] == ["play: ok", "  run_id: r1"]


def test_a_dry_run_prints_the_settings_and_runs_nothing(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--names", "a,b", "--names", "c", "--gpu", "--limit", "3", "--dry-run", "--json", "--store", "s"])
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert answer["status"] == "dry-run"
    assert answer["options"] == {"how": "ok", "limit": 3, "share": 0.5, "names": ["a", "b", "c"], "gpu": True}
    assert answer["context"]["store"]["root"] == str(Path("s").absolute())
    assert "a library talks" not in shown.err


def test_a_dry_run_masks_the_credentials_of_a_uri(play: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", "--names", "s3://KEY:SECRET@shop/log", "--address", "ray://me:SECRET@host:1", "--dry-run", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["options"]["names"] == ["s3://***@shop/log"]
    assert answer["context"]["address"] == "ray://***@host:1"


def test_the_environment_sets_flags_that_are_not_given(play: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPKEEPER_STORE", "/elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert read(["play"]).everywhere.store == "/elsewhere"
    assert read(["play"]).everywhere.address == "10.0.0.1:6379"
    assert read(["play", "--store", "here"]).everywhere.store == "here"


def test_the_docstring_below_a_field_is_its_help() -> None:
    assert field_docstrings(Options) == {
        "how": "How to end.",
        "limit": "A whole number, or none.",
        "names": "Some names.",
    }


def test_an_inherited_field_has_the_docstring_of_its_parent(toy: Family) -> None:
    assert "per optimizer step" in field_docstrings(toy.Config)["batch_size"]
    assert "one layer" in field_docstrings(toy.Config)["network"]


def test_a_verb_writes_only_the_json_line_to_stdout(toy: Family, tmp_path: Path, capfd: Any) -> None:
    raw = write_visitors(tmp_path / "visitors.csv", num_visitors=100)
    code = main(["prepare", "toy", "--raw", str(raw), "--store", str(tmp_path / "store"), "--json"])
    lines = capfd.readouterr().out.splitlines()
    assert code == 0
    assert len(lines) == 1
    assert json.loads(lines[0])["rows"] == 100


def test_stdout_of_child_processes_goes_to_stderr() -> None:
    code = """
import os, sys
from jobs import __main__ as cli
from jobs.cli.verbs import VERBS, Verb
VERBS["play"] = Verb("tests.kit.verbs", "", takes_family="optional")
with cli.stdout_for_results() as stdout:
    os.system("echo a child talks")
    stdout.write("the result")
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert shown.stdout == "the result"
    assert "a child talks" in shown.stderr


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_flags_of_a_verb_match_the_golden_file(verb: str) -> None:
    golden = GOLDEN / f"{verb}.txt"
    now = "\n".join(_flags(verb)) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(now, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == now, "run the test with REWRITE_GOLDEN=1 if this is meant"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_config_has_help_for_all_fields_and_survives_a_round_trip_through_flags(family: str) -> None:
    for name in ("Config", "PrepareConfig"):
        config_class = getattr(FAMILIES[family], name)
        fields = {field.name for field in dataclasses.fields(config_class)}
        assert set(field_docstrings(config_class)) == fields
    config = read(["train", family]).config
    assert config == FAMILIES[family].Config()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if (CHECKOUT / name).is_file()])
def test_every_command_in_the_documentation_can_be_parsed(document: str) -> None:
    for command in _commands(CHECKOUT / document):
        try:
            read(shlex.split(command, comments=True)[1:])
        except (UsageError, HelpRequested) as error:
            pytest.fail(f"{command!r} in {document}: {error}")


def test_a_field_without_a_flag_keeps_its_default(play: None) -> None:
    options, _ = parser_of("play", None).read(["--limit", "1_000"])
    assert options == Options(limit=1000)


def test_the_last_occurrence_of_a_flag_wins(play: None) -> None:
    options, _ = parser_of("play", None).read(["--limit", "1", "--gpu", "--limit=-2", "--no-gpu"])
    assert options == Options(limit=-2, gpu=False)


def test_arguments_that_are_not_flags_of_submit_form_the_submitted_command() -> None:
    invocation = read(shlex.split("submit --address h train toy --workers 8 --no-wait --name=a --gpu"))
    assert invocation.options.command == ("train", "toy", "--workers", "8", "--name=a", "--gpu")
    assert not invocation.options.wait
    assert invocation.everywhere.address == "h"


@dataclass(frozen=True)
class Before:
    epochs: int = field(default=5, metadata={"was": "passes", "until": "0.3.0"})
    """Number of epochs."""


@dataclass(frozen=True)
class Renamed(Before):
    epochs: int = 20
    blend: bool = field(default=True, metadata={"was": "mix", "until": "0.4.0"})
    raw: str = field(default="", metadata={"was": "log", "until": "0.3.0"})


@pytest.mark.parametrize(
    ("line", "meant", "warning"),
    [
        (
            "--passes 3",
            Renamed(epochs=3),
            "--passes was renamed to --epochs; the old name works until 0.3.0",
        ),
        (
            "--passes=3",
            Renamed(epochs=3),
            "--passes was renamed to --epochs; the old name works until 0.3.0",
        ),
        (
            "--no-mix",
            Renamed(blend=False),
            "--no-mix was renamed to --no-blend; the old name works until 0.4.0",
        ),
        ("--epochs 3 --raw x", Renamed(epochs=3, raw="x"), ""),
    ],
)
def test_the_deprecated_name_of_a_flag_works_with_a_warning(
    line: str, meant: Renamed, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _log_to_stderr(quiet=True, debug=False)
    assert Parser({"flags": Renamed}, prog="play", description="").read(line.split()) == [meant]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(warning)
    assert all(shown.endswith(warning) for shown in lines)


def test_the_deprecated_name_of_a_flag_is_not_in_the_help() -> None:
    with pytest.raises(HelpRequested) as requested:
        Parser({"flags": Renamed}, prog="play", description="").read(["--help"])
    shown = requested.value.text(for_terminal=False)
    assert "--epochs" in shown
    assert "--passes" not in shown


def test_a_stored_config_with_a_deprecated_field_name_loads() -> None:
    assert config_from_dict(Renamed, {"passes": 3, "mix": False}) == Renamed(epochs=3, blend=False)
    with pytest.raises(ValueError, match="unknown field 'passes'"):
        config_from_dict(Renamed, {"passes": 3, "epochs": 4})
    with pytest.raises(ValueError, match="unknown field 'steps'"):
        config_from_dict(Renamed, {"steps": 3})


def test_a_deprecated_key_of_the_json_line_repeats_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMER_KEYS, "hit_rate", "recall")
    result = Result(0, "evaluate", "toy", metrics={"recall": 0.5}, details={"slices": [{"recall": 0.25}], "rows": 7})
    answer = json.loads(result.to_json())
    assert answer["metrics"] == {"recall": 0.5, "hit_rate": 0.5}
    assert answer["slices"] == [{"recall": 0.25, "hit_rate": 0.25}]
    assert answer["rows"] == 7
    assert "hit_rate" not in result.to_text()


def test_the_summary_shows_the_headline_metrics_or_all_if_there_are_none() -> None:
    metrics = {"val_accuracy": 0.5, "val_loss": 1.0}

    assert Result(0, "train", "toy", status="ok", metrics=metrics, headline="accuracy").to_text().splitlines() == [
        "train toy: ok",
        "  val_accuracy: 0.5",
        "  more: --json prints all 2 metrics",
    ]
    counted = Result(0, "predict", "toy", status="ok", metrics={"rows": 3, "errors": 2}, headline="accuracy")
    assert counted.to_text() == "predict toy: ok\n  rows: 3\n  errors: 2"


def test_the_summary_separates_a_reason_from_its_count() -> None:
    result = Result(0, "predict", "toy", details={"error_reasons": {"item 5 is unknown": 3}})

    assert result.to_text().endswith("  error_reasons: item 5 is unknown: 3")


def test_the_summary_gives_each_nested_dictionary_its_own_line() -> None:
    result = Result(0, "prepare", "toy", details={"splits": {"train": {"users": 9}, "val": {"users": 2}}})

    assert result.to_text().splitlines()[1:] == ["  splits:", "    train: users: 9", "    val: users: 2"]


def _flags(verb: str) -> list[str]:
    family = "recommender" if VERBS[verb].config else None
    return sorted(_flag(argument) for argument in parser_of(verb, family).app.assemble_argument_collection())


def _flag(argument: Argument) -> str:
    """`--cell {gru,lstm} (default: gru)`."""
    options = argument.get_choices()
    of_type = argument.hint.__name__ if isinstance(argument.hint, type) else argument.hint
    kind = "{" + ",".join(options) + "}" if options else of_type
    shown = "required" if argument.required else f"default: {argument.field_info.default}"
    return f"{', '.join(argument.names)} {kind} ({shown})"


def _commands(document: Path) -> list[str]:
    blocks = re.findall(r"```[a-z]*\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*(\.venv/bin/)?shopkeeper ", line)]
