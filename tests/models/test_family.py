"""The contract: mypy reports the wrong line of an inconsistent family, or its construction fails."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from models.config import Choice, LogUniform, TrainConfig, Uniform
from models.family import Family, Gate, RawBody, Schema
from models.golden import golden
from models.metrics import Metric
from tests.conftest import CHECKOUT
from tests.kit import toy
from tests.kit.register import TOY
from tests.kit.toy_extras import TALK, Basket

WRONG = CHECKOUT / "tests" / "wrong_families"
MARK = re.compile(r"# wrong: ([\w-]+)$")
CACHE = CHECKOUT / ".mypy_cache" / "wrong_families"
"""A separate cache, so that only changes are checked and a concurrent `make check` is not disturbed."""


class Thawed:
    learning_rate = 0.1


@dataclass(frozen=True, kw_only=True)
class WithoutDefault(TrainConfig):
    width: int


@dataclass(frozen=True)
class WithoutRaw:
    path: str


def with_first(**members: Any) -> Any:
    """The toy's endpoint with other members."""
    return dataclasses.replace(TOY.endpoints[0], **members)


def test_mypy_finds_the_mistake_of_every_wrong_family_at_its_line_and_no_other() -> None:
    files = sorted(WRONG.glob("*.py"))
    marked = {
        (path.name, number, mark.group(1))
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (mark := MARK.search(line))
    }
    assert {name for name, _, _ in marked} == {path.name for path in files}

    command = [sys.executable, "-m", "mypy", "--output=json", f"--cache-dir={CACHE}"]
    run = subprocess.run([*command, *map(str, files)], cwd=CHECKOUT, capture_output=True, text=True)

    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    errors = [each for each in messages if each["severity"] == "error"]
    assert {(each["file"].rpartition("/")[2], each["line"], each["code"]) for each in errors} == marked, run.stderr


def test_the_wrong_families_are_excluded_from_the_check_of_everything_else() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={CACHE}", "-p", "tests.wrong_families"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert "error:" not in found.stdout


def test_a_misspelt_member_is_rejected_at_import() -> None:
    with pytest.raises(TypeError, match="update_statistic"):
        changed(update_statistic=toy.initialise)


def test_a_missing_member_is_rejected_at_import() -> None:
    members = {each.name: getattr(TOY, each.name) for each in dataclasses.fields(TOY) if each.name != "collate"}
    with pytest.raises(TypeError, match="collate"):
        Family(**members)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"space": {"learning_rat": LogUniform(1e-3, 1e-1)}}, "'learning_rat', which is not a field of its Config"),
        ({"endpoints": ()}, "toy has no endpoint"),
        ({"route_prefix": "/v1/visitors"}, "the path /v1/colours of toy must start with /v1/visitors/"),
        ({"endpoints": [*TOY.endpoints, *TOY.endpoints]}, "the path /v1/colours of toy .* be unique"),
        ({"metrics": [Metric("accuracy", "min")]}, "more than one metric 'accuracy'"),
        ({"name": "My toy"}, "'My toy' of a family is not a plain word"),
        ({"name": "toy/2"}, "'toy/2' of a family is not a plain word"),
        ({"metrics": [Metric("ndcg@10", "max")]}, "metric 'ndcg@10', a name that MLflow"),
        ({"metrics": [Metric("macro f1", "max")]}, "metric 'macro f1', a name that MLflow"),
        ({"features": [*TOY.features, *TOY.features]}, "more than one feature 'visitor'"),
        ({"files": ("words/a.txt",)}, "'words/a.txt' among its `files`; use plain file names"),
        ({"files": ("..",)}, "'..' among its `files`; use plain file names"),
        ({"files": ("golden.json",)}, "'golden.json' among its `files`, which the jobs write"),
        ({"files": ("words.txt", "words.txt")}, "'words.txt' more than once among its `files`"),
        ({"space": {"learning_rate": LogUniform(0.1, 0.01)}}, "'learning_rate' from 0.1 to 0.01; `low` must be less"),
        ({"space": {"learning_rate": LogUniform(0, 0.01)}}, "'learning_rate' from 0 on a logarithmic scale"),
        ({"space": {"warmup_fraction": Uniform(0.0, 1.5)}}, "'warmup_fraction', and --warmup-fraction is 1.5"),
        ({"space": {"batch_size": Uniform(16, 64)}}, "--batch-size is 34.09.*; a range needs a float field"),
        ({"space": {"network": Choice(("linear", "huge"))}}, "'network', and --network is 'huge'; .* name options"),
        ({"space": {"network": Choice(())}}, "'network' among no options"),
        ({"gate": Gate(max_latency_ms=math.nan)}, "the gate of toy has max_latency_ms = nan"),
        ({"gate": Gate(max_size_mb=math.inf)}, "the gate of toy has max_size_mb = inf"),
        ({"gate": Gate(slice_tolerance=-0.1)}, "the gate of toy has slice_tolerance = -0.1"),
        ({"endpoints": [with_first(answer_timeout_s=0.0)]}, "/v1/colours of toy has answer_timeout_s = 0.0"),
        ({"endpoints": [with_first(raw=RawBody("photo", (), 9))]}, "'photo', which its Request lacks; .* visitor_id"),
        ({"endpoints": [with_first(raw=RawBody("numbers", (), 0))]}, "raw bodies of at most 0 bytes"),
        ({"endpoints": [with_first(path="/v1/my colours")]}, "the path /v1/my colours of toy has ' '"),
        ({"endpoints": [with_first(path="/v1/colours?a=1")]}, "of toy has '\\?'"),
        ({"endpoints": [with_first(path="/v1/{colour}")]}, "of toy has '{'"),
        ({"endpoints": [with_first(path="/healthz")]}, "/healthz of toy is one of the service's own"),
        ({"endpoints": [with_first(path="/v1/models")]}, "/v1/models of toy is one of the service's own"),
        (
            {"endpoints": [with_first(path="/v1/toys/models")], "route_prefix": "/v1/toys"},
            "/v1/toys/models of toy is one of the service's own",
        ),
        ({"streams": [dataclasses.replace(TALK, max_message_bytes=0)]}, "/v1/talk of toy has max_message_bytes = 0"),
        ({"Config": Thawed}, "Config of toy is .*Thawed.*, not a frozen dataclass"),
        ({"Config": WithoutDefault, "space": {}}, "'width' of toy's Config has no default"),
        ({"PrepareConfig": WithoutRaw}, "PrepareConfig of toy has no field `raw: str`"),
    ],
)
def test_inconsistent_members_are_rejected_at_import(members: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        changed(**members)


def test_a_golden_request_of_another_endpoint_is_rejected_when_a_bundle_is_made() -> None:
    schema = Schema(family="toy", fingerprint="f", num_shards=1, num_examples={})
    network = toy.Network(toy.Config(), schema)

    with pytest.raises(
        ValueError, match=r"golden_request of toy returns .* a Basket; it must return a Request, .*colours"
    ):
        golden(changed(golden_request=lambda schema: Basket()), network, schema)


def changed(**members: Any) -> Family:
    """The toy family with other members."""
    return dataclasses.replace(TOY, **members)
