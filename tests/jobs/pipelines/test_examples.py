"""The examples in docs/pipelines: the pipeline is valid, and what runs it has a valid command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.__main__ import read
from jobs.pipeline import Options
from jobs.pipelines.reading import KEYS, STEP_KEYS, read_pipeline
from jobs.pipelines.traits import TRAITS
from tests.conftest import CHECKOUT

EXAMPLES = CHECKOUT / "docs" / "pipelines"
PAGE = (CHECKOUT / "docs" / "pipelines.md").read_text(encoding="utf-8")


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))


def test_the_daily_pipeline_is_valid_and_forgets_users_also_after_a_failure(tmp_path: Path) -> None:
    pipeline = read_pipeline(EXAMPLES / "daily.yaml", variables={"log": str(tmp_path)})

    assert [step.id for step in pipeline.steps][1:5] == ["prepare", "sweep", "train", "promote"]
    assert pipeline.steps[-1].id == "forget"
    assert not pipeline.after["forget"]
    assert "promote" in pipeline.after["deploy"]


@pytest.mark.parametrize("name", ["crontab", "shopkeeper-daily.service"])
def test_cron_and_systemd_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    (command,) = re.findall(r"/opt/shopkeeper/.venv/bin/shopkeeper ([^>\n]*)", text)

    options = read(shlex.split(command)).options

    assert isinstance(options, Options)
    assert options.command == ("daily.yaml",)


def test_the_kubernetes_job_submits_it() -> None:
    pod = load("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    invocation = read(container["command"][1:])

    assert invocation.verb == "submit"
    assert invocation.options.command == ("pipeline", "/config/daily.yaml")
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_ray_job_runs_it() -> None:
    spec = load("raycronjob.yaml")["spec"]
    words = shlex.split(spec["jobTemplate"]["entrypoint"])

    assert words[:3] == ["python", "-m", "jobs"]
    assert read(words[3:]).options.command == ("/store/daily.yaml",)
    assert set(spec) == {"schedule", "jobTemplate"}


def test_the_page_names_every_key_and_every_result() -> None:
    named = set(re.findall(r"`([a-z_]+)(?:\.NAME)?`", PAGE))

    assert set(KEYS) | set(STEP_KEYS) <= named
    assert {result for traits in TRAITS.values() for result in traits.results} <= named
