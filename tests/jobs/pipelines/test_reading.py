"""The file of a pipeline: what it says, and an error with line and key for each mistake before anything runs."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from jobs.__main__ import parser_of
from jobs.cli.context import UsageFailure
from jobs.cli.verbs import VERBS
from jobs.pipelines.reading import read_pipeline
from jobs.pipelines.steps import Pipeline, flag_kinds
from jobs.pipelines.traits import OF_THE_PIPELINE, REFUSED, TRAITS
from models import FAMILIES
from models.family import Family


def read(tmp_path: Path, text: str, **variables: str) -> Pipeline:
    path = tmp_path / "nightly.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return read_pipeline(path, variables=variables)


def words(pipeline: Pipeline, step: str) -> list[str]:
    return [word for flag in pipeline.step(step).flags for word in flag.words({})]


@pytest.fixture(autouse=True)
def in_a_folder_with_a_log(toy: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.csv").write_text("visitor_id\n", encoding="utf-8")


MISTAKES = [
    ("steps: []", 1, "steps: a pipeline needs a list of steps"),
    ("", 1, "the file is empty"),
    ("[1, 2]", 1, "a pipeline is a mapping"),
    ("steps:\n  - run: a\n b: c", 3, "not YAML"),
    ("steps: [{run: train toy, flags: {epochs: ${n}}}]", 1, 'write "${...}" in quotes'),
    ("stpes: []", 1, "unknown key, did you mean steps?"),
    ("steps:\n  - run: trian toy", 2, "steps[trian].run: unknown verb 'trian', did you mean train?"),
    ("steps:\n  - run: train tyo", 2, "unknown family 'tyo', did you mean toy?"),
    ("steps:\n  - run: train", 2, "train needs a family"),
    ("steps:\n  - run: rollback toy", 2, "rollback cannot be a step: it is not safe to repeat"),
    ("steps:\n  - run: erase anna", 2, "erase names a user here, and the file and its records are kept"),
    ("steps: " + "[" * 3000, 1, "nested too deeply"),
    ("steps:\n  - run: train toy --epohcs 3", 2, "unknown flag --epohcs, did you mean --epochs?"),
    ("steps:\n  - run: train toy\n    flags:\n      epohcs: 3", 4, "no flag --epohcs, did you mean --epochs?"),
    ("steps:\n  - run: train toy\n    flags:\n      epochs: many", 4, "--epochs: 'many' is not an integer"),
    ("steps:\n  - run: train toy\n    flags:\n      epochs: [1, 2]", 4, "takes a single value, not a list"),
    ("steps:\n  - run: train toy\n    flags:\n      gpu: maybe", 4, "'maybe' is neither true nor false"),
    ("steps:\n  - run: train toy\n    flags:\n      epochs:", 4, "has no value"),
    ("steps:\n  - run: train toy\n    flags:\n      resume: r1", 4, "the pipeline resumes its own runs"),
    ("steps:\n  - run: train toy --store=x", 2, "all steps use the --store of `shopkeeper pipeline`"),
    ("steps:\n  - run: train toy --epochs 2\n    flags: {epochs: 3}", 3, "--epochs is in `run` too"),
    ("steps:\n  - run: train toy\n    flags:\n      epochs: 2\n      epochs: 3", 5, "given twice, first in line 4"),
    ("steps:\n  - run: train toy\n  - run: train toy", 3, "the step in line 2 has this id too"),
    ("steps:\n  - run: train toy\n    needs: [prepare]", 2, "the step 'prepare', which does not exist"),
    ("steps:\n  - run: train toy\n    needs: [promote]\n  - run: promote toy", 2, "a circle: train needs promote"),
    ("steps:\n  - run: train toy\n    flags: {epochs: '${n}'}", 3, "${n} is neither a variable"),
    ("steps:\n  - run: train toy --name ${promote.model}", 2, "write it as a value below `flags`"),
    ("steps:\n  - run: prepare toy\n    flags:\n      raw: gone.csv", 4, "--raw: there is no"),
    ("steps:\n  - run: prepare toy", 2, "--raw is required"),
    ("steps:\n  - run: train toy\n    retries: lots", 3, "retries: needs a whole number from 0 to 100"),
    ("steps:\n  - run: train toy\n    timeout_minutes: 0", 3, "timeout_minutes: needs a number"),
    ("steps:\n  - run: train toy\n    accept: [5]", 3, "accept: takes exit codes that count as done"),
    ("steps:\n  - run: train toy\n    if: often", 3, "'often' is not a condition"),
    ("steps:\n  - run: erase --pnding", 2, "erase has no flag --pnding, did you mean --pending?"),
    ("steps:\n  - run: events exprot", 2, "unknown word 'exprot' after events, did you mean export?"),
    ("name: a b\nsteps:\n  - run: status", 1, "name: 'a b' is not a name"),
    ("variables: {raw: }\nsteps:\n  - run: status", 1, "by --set raw=VALUE"),
    ("a: &a [*a]\nsteps:\n  - run: status", 1, "an alias (*) contains itself"),
]


@pytest.mark.parametrize(("text", "line", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line_and_the_remedy(text: str, line: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageFailure) as caught:
        read(tmp_path, text)

    found = [one for one in str(caught.value).splitlines() if message in one]
    assert found, str(caught.value)
    assert found[0].startswith(f"{tmp_path / 'nightly.yaml'}:{line}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flags: {model: '${train.runid}'}", "no such result, did you mean run_id?"),
        ("flags: {model: '${trian.run_id}'}", "the step 'trian', which does not exist, did you mean train?"),
        ("flags_from: train.metrics", "has no flags; use sweep's best_config"),
        ("if: train.status == good", "train.status is never 'good'; it can be ok"),
    ],
)
def test_a_result_that_a_step_does_not_have_is_a_mistake(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageFailure) as caught:
        read(tmp_path, f"steps:\n  - run: train toy\n  - run: promote toy\n    {text}\n")

    assert message in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match="3 mistakes in the pipeline, nothing was run"):
        read(tmp_path, "steps:\n  - run: trian toy\n  - run: train toy\n    retries: x\n    flags: {epohcs: 1}\n")


def test_values_become_the_words_of_a_command_line_as_they_are_written(tmp_path: Path) -> None:
    text = """
        variables: {raw: shop.csv, rows: 010}
        steps:
          - run: prepare recommender
            flags:
              raw: ${raw}
              columns: {user_id: visitor, item_id: no}
              val_from: 2026-01-31
              target: [purchase, add]
              accept-gaps: yes
              keep_bots: false
              min_item_events: ${rows}
              items: $${kept}
    """
    (tmp_path / "${kept}").touch()

    pipeline = read(tmp_path, text, raw="./shop.csv")

    assert words(pipeline, "prepare") == [
        "--raw=./shop.csv",
        "--columns=user_id=visitor,item_id=no",
        "--val-from=2026-01-31",
        "--target=purchase,add",
        "--accept-gaps",
        "--no-keep-bots",
        "--min-item-events=010",
        "--items=${kept}",
    ]


def test_repeated_flags_of_predict_are_repeated(tmp_path: Path) -> None:
    text = """
        steps:
          - run: predict toy
            flags: {input: shop.csv, output: out.csv, set: ['a={"b":1,"c":2}', count=3]}
    """

    assert words(read(tmp_path, text), "predict")[2:] == ['--set=a={"b":1,"c":2}', "--set=count=3"]


def test_steps_run_in_the_order_of_their_needs(tmp_path: Path) -> None:
    text = """
        steps:
          - {id: last, run: status, needs: [a, b]}
          - {id: a, run: train toy, needs: []}
          - {id: b, run: promote toy, needs: [], flags: {model: '${c.model}'}}
          - {id: c, run: train toy, needs: a}
    """

    pipeline = read(tmp_path, text)

    assert [step.id for step in pipeline.steps] == ["a", "c", "b", "last"]
    assert pipeline.after["b"] == {"a", "c"}


def test_a_variable_that_is_not_in_the_file_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match=r"the file has no such variable, did you mean raw\?"):
        read(tmp_path, "variables: {raw: x}\nsteps:\n  - run: status\n", rwa="y")


def test_files_that_a_step_before_writes_may_be_missing(tmp_path: Path) -> None:
    text = "steps:\n  - run: events export\n    flags: {to: out}\n  - run: prepare toy --raw out/day1\n"

    assert [step.verb for step in read(tmp_path, text).steps] == ["events", "prepare"]


def test_the_traits_name_only_verbs_and_flags_that_exist() -> None:
    assert set(TRAITS) <= set(VERBS)
    assert set(REFUSED) <= {*VERBS, "jobs"}
    for verb, traits in TRAITS.items():
        names = [None] if VERBS[verb].takes_family == "no" else FAMILIES
        known = {flag for name in names for flag in flag_kinds(parser_of(verb, name))}
        assert {*traits.inputs, *traits.outputs} <= known
        assert set(OF_THE_PIPELINE) - {"resume"} <= known
        assert ("resume" in known) == traits.resumes


def test_aliases_of_aliases_do_not_explode(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]

    with pytest.raises(UsageFailure, match=r"aliases .* stand for more than 100,000 values"):
        read(tmp_path, "\n".join(lines))


def test_a_variable_does_not_refer_to_another(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match=r"variables\.a: a variable has a value of its own"):
        read(tmp_path, 'variables: {a: "${b}", b: "${a}"}\nsteps:\n  - run: train toy\n')
