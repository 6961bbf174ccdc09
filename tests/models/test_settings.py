"""Validation of settings: an invalid value is rejected early, with the name of its flag."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from jobs.cli.flags import Parser, UsageError
from jobs.deploy import Options
from models import FAMILIES
from models.bundle import config_from_dict


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--epochs", 0),
        ("--batch-size", -1),
        ("--learning-rate", math.nan),
        ("--learning-rate", 0.0),
        ("--warmup-fraction", 1.5),
        ("--weight-decay", -0.1),
        ("--max-grad-norm", 0.0),
        ("--patience", -1),
        ("--seed", -1),
        ("--precision", "fp8"),
        ("--batch-size", "many"),
    ],
)
def test_an_error_names_the_flag_of_a_setting_that_is_out_of_range(family: str, flag: str, value: Any) -> None:
    name = flag.removeprefix("--").replace("-", "_")

    with pytest.raises(ValueError, match=re.escape(f"{flag} is {value!r}; it should ")):
        config_from_dict(FAMILIES[family].Config, {name: value})


@pytest.mark.parametrize(
    ("family", "name", "value", "allowed"),
    [
        ("recommender", "dropout", 2.0, 0.0),
        ("recommender", "dropout", 1.0, 0.9),
        ("recommender", "num_heads", 0, 2),
        ("recommender", "max_length", -3, 1),
        ("image", "mixup", -1.0, 0.0),
        ("image", "balance", 2.0, None),
        ("image", "small_fraction", 3.0, 1.0),
        ("image", "width", 0.0, 0.25),
        ("image", "shift", -4, 0),
    ],
)
def test_the_settings_of_a_family_have_ranges(family: str, name: str, value: Any, allowed: Any) -> None:
    config = FAMILIES[family].Config()

    assert getattr(dataclasses.replace(config, **{name: allowed}), name) == allowed
    with pytest.raises(ValueError, match=re.escape(f"--{name.replace('_', '-')} is {value!r}; it should ")):
        dataclasses.replace(config, **{name: value})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "value"), [("max_bad_fraction", 2.0), ("max_bad_fraction", math.nan), ("columns", None), ("raw", 7)]
)
def test_the_settings_of_prepare_have_ranges(family: str, name: str, value: Any) -> None:
    flag = re.escape(f"--{name.replace('_', '-')} is {value!r}; it should ")

    with pytest.raises(ValueError, match=flag):
        FAMILIES[family].PrepareConfig(**{"raw": "log.csv", name: value})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--timeout-s", "-1"], "--timeout-s -1.0 is not a duration"),
        (["--cpus", "-1"], "--cpus -1.0 cannot be reserved"),
    ],
)
def test_invalid_deployment_options_are_rejected_with_their_flag(arguments: list[str], said: str) -> None:
    parser = Parser({"Options": Options}, prog="shopkeeper deploy", description="")

    with pytest.raises(UsageError, match=re.escape(said)):
        parser.read(arguments)
