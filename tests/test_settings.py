"""What a setting may be: a value that makes no sense is refused where it is given, by the name of its flag."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

import jobs.deploy
import jobs.sweep
from jobs.flags import Parser, UsageError, add_dataclass, collect
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
def test_a_setting_of_any_family_out_of_its_range_is_named(family: str, flag: str, value: Any) -> None:
    name = flag.removeprefix("--").replace("-", "_")

    with pytest.raises(ValueError, match=re.escape(f"{flag} is {value!r}; it should ")):
        config_from_dict(FAMILIES[family].Config, {name: value})


@pytest.mark.parametrize(
    ("family", "name", "value", "allowed"),
    [
        ("recommender", "dropout", 2.0, 0.0),
        ("recommender", "num_heads", 0, 2),
        ("recommender", "max_length", -3, 1),
        ("image", "mixup", -1.0, 0.0),
        ("image", "balance", 2.0, None),
        ("image", "small_fraction", 3.0, 1.0),
        ("image", "width", 0.0, 0.25),
        ("image", "shift", -4, 0),
    ],
)
def test_a_family_states_the_range_of_its_own_settings(family: str, name: str, value: Any, allowed: Any) -> None:
    config = FAMILIES[family].Config()

    assert getattr(dataclasses.replace(config, **{name: allowed}), name) == allowed
    with pytest.raises(ValueError, match=re.escape(f"--{name.replace('_', '-')} is {value!r}; it should ")):
        dataclasses.replace(config, **{name: value})


@pytest.mark.parametrize(
    ("options", "arguments", "said"),
    [
        (jobs.sweep.Options, ["--minutes", "-1"], "--minutes is -1.0; it should be greater than 0"),
        (jobs.sweep.Options, ["--concurrent", "-2"], "--concurrent is -2; it should be greater than or equal to 0"),
        (jobs.deploy.Options, ["--timeout-s", "-1"], "--timeout-s -1.0 is no time to wait"),
        (jobs.deploy.Options, ["--cpus", "-1"], "--cpus -1.0 cannot be reserved"),
    ],
)
def test_a_flag_of_a_verb_out_of_its_range_is_named(options: Any, arguments: list[str], said: str) -> None:
    parser = Parser(prog="shopkeeper", description="")
    add_dataclass(parser, options, title="options")

    with pytest.raises(UsageError, match=re.escape(said)):
        collect(parser.read(arguments), options)
