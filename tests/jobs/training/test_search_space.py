"""What a sweep searches: ranges of the command line, the best settings of an earlier sweep, a budget."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from jobs import sweep
from jobs.__main__ import main
from jobs.cli.context import Context, Store, UsageFailure
from jobs.sweep import Options, with_metric
from jobs.tracking.client import Tracking
from jobs.training import trials
from jobs.training.search_space import is_inside, parse_range, search_space
from jobs.training.tuner import Budget
from models import FAMILIES
from models.config import Choice, LogUniform, Range, Uniform
from models.family import Family
from models.metrics import Metric
from models.prepared import Prepared
from tests.kit import toy as toy_module

RECOMMENDER = FAMILIES["recommender"]


@pytest.mark.parametrize(
    ("entry", "name", "dimension"),
    [
        ("learning_rate=log:1e-4:1e-2", "learning_rate", LogUniform(1e-4, 1e-2)),
        ("learning-rate=0.001:0.01", "learning_rate", Uniform(0.001, 0.01)),
        ("dropout=0:0.5", "dropout", Uniform(0.0, 0.5)),
        ("num_blocks=1:3", "num_blocks", Choice((1, 2, 3))),
        ("dim=32,64,128", "dim", Choice((32, 64, 128))),
        ("network=gru,transformer", "network", Choice(("gru", "transformer"))),
        ("blend=true,false", "blend", Choice((True, False))),
    ],
)
def test_a_range_is_read_with_the_types_of_the_setting(entry: str, name: str, dimension: Range) -> None:
    assert parse_range(RECOMMENDER, entry) == (name, dimension)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("learning_rate", "--space learning_rate is neither"),
        ("nothing=1:2", "--space nothing=1:2: recommender has no setting 'nothing'; there are batch_size, "),
        ("learning_rate=1e-4:", "is neither"),
        ("weights=view=1,cart=2", "is neither"),
        ("blend=true,banana", "--space blend=true,banana: blend is a switch, and 'banana' is neither true nor false"),
        ("learning_rate=fast:1e-4:1e-2", "is neither NAME=LOW:HIGH, NAME=log:LOW:HIGH nor NAME=A,B,C"),
        ("learning_rate=1e-4:1e-2:3", "is neither"),
        ("learning_rate=1e-2:1e-4", "0.01 is not less than 0.0001"),
        ("max_grad_norm=1:inf", "or one of them is no finite number"),
        ("learning_rate=-1:1", "--space learning_rate=-1:1: --learning-rate is -1.0"),
        ("dropout=log:0:0.5", "a logarithmic range begins above 0"),
        ("dim=16:1000", "list the whole numbers to try, such as dim=16,1000"),
        ("network=gru:transformer", "network is no number; list its values"),
        ("network=gru", "has one value; use --fix network=gru"),
        ("network=gru,unknown", '--space network=gru,unknown: Invalid value "unknown"'),
    ],
)
def test_other_ranges_are_refused_with_the_remedy(entry: str, message: str) -> None:
    with pytest.raises(UsageFailure) as failure:
        parse_range(RECOMMENDER, entry)

    assert message in str(failure.value)


def test_given_ranges_replace_and_join_those_of_the_family(toy: Family) -> None:
    space, _ = search_space(toy, toy_module.Config(), (), ("learning_rate=0.1:0.2", "weight_decay=0:0.1"))

    assert space["learning_rate"] == Uniform(0.1, 0.2)
    assert space["weight_decay"] == Uniform(0.0, 0.1)
    assert set(space) == {*toy.space, "weight_decay"}


def test_a_setting_is_not_both_fixed_and_searched(toy: Family) -> None:
    with pytest.raises(UsageFailure, match="learning_rate is fixed"):
        search_space(toy, toy_module.Config(), ("learning_rate=0.1",), ("learning_rate=0.1:0.2",))


@pytest.mark.parametrize(
    ("fix", "space", "message"),
    [
        (("dim=32", "dim=64"), (), "--fix dim=32: dim comes 2 times"),
        ((), ("learning-rate=0.1:0.2", "learning_rate=0.2:0.3"), "--space learning-rate=0.1:0.2: learning_rate comes"),
    ],
)
def test_a_setting_that_comes_twice_is_refused(fix: tuple[str, ...], space: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageFailure, match=message):
        search_space(RECOMMENDER, RECOMMENDER.Config(), fix, space)


@pytest.mark.parametrize(("text", "value"), [("on", True), ("False", False), ("0", False)])
def test_a_switch_is_fixed_by_a_word_for_it(text: str, value: bool) -> None:
    _, config = search_space(RECOMMENDER, RECOMMENDER.Config(), (f"blend={text}",))

    assert config.blend is value


@pytest.mark.parametrize("value", ["auto", None, True, float("nan")])
def test_what_is_no_number_is_in_no_range(value: object) -> None:
    assert not is_inside(value, Uniform(0.0, 2.0))


@pytest.mark.parametrize("settings", [["--space", "nothing=1:2"], ["--metric", "speed"], ["--fix", "dim=x"]])
@pytest.mark.parametrize("verb", [["sweep"], ["submit", "sweep"]])
def test_a_dry_run_and_submit_refuse_what_the_sweep_would(
    verb: list[str], settings: list[str], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["--dry-run"] if verb == ["sweep"] else []

    assert main([*verb, "recommender", *settings, "--store", str(store.root), *dry]) == 2

    assert " ".join(settings) in capsys.readouterr().err


def test_another_metric_of_the_family_may_count() -> None:
    name = RECOMMENDER.metrics[0].name

    assert with_metric(RECOMMENDER, name).metric.name == name
    assert with_metric(RECOMMENDER, None) is RECOMMENDER
    with pytest.raises(UsageFailure, match=r"--metric speed: recommender has ndcg_at_10, "):
        with_metric(RECOMMENDER, "speed")


def test_a_budget_counts_the_processors_of_every_trial() -> None:
    budget = Budget(100.0, cores=6)

    reports = [("a", 4.0), ("a", 8.0), ("b", 8.0), ("b", 9.0)]
    stops = [budget(trial, {"time_total_s": seconds}) for trial, seconds in reports]

    assert stops == [False, False, False, True]
    assert budget.stop_all()


@pytest.mark.ray
def test_a_sweep_begins_with_the_best_settings_of_an_earlier_one_and_keeps_to_its_budget(
    ray_cluster: None, toy: Family, toy_data: Prepared, context: Context
) -> None:
    config: Any = toy_module.Config(epochs=2)
    space = ("learning_rate=log:1e-4:1e-1",)
    earlier = sweep.run(context, toy, Options(trials=3, space=space), config)
    options = Options(trials=2, space=space, warm_start=earlier.run_id)

    warm = sweep.run(context, toy, options, config)
    short = sweep.run(context, toy, Options(trials=50, space=space, core_seconds=0.001, concurrent=1), config)

    directory = context.store.run_directory("toy", str(warm.run_id))
    tried = [row.sample for row in trials.read_table(directory, f"best_val_{toy.metric.name}", cores=1)]
    assert earlier.details["best_config"] in tried
    assert 1 <= short.details["num_trials"] < 50
    runs = len(Tracking(context).list_runs("toy"))
    with pytest.raises(UsageFailure, match="--warm-start nothing: the store has no sweep of toy"):
        sweep.run(context, toy, dataclasses.replace(options, warm_start="nothing"), config)
    speed = dataclasses.replace(toy, metric=Metric("speed", "max", "Speed", "How fast."))
    with pytest.raises(UsageFailure, match="its trials were not ranked by speed; give that sweep's --metric"):
        sweep.run(context, speed, dataclasses.replace(options, warm_start=str(earlier.run_id)), config)
    assert len(Tracking(context).list_runs("toy")) == runs


@pytest.mark.parametrize(
    "options", [{"gpu_share": 0.0}, {"gpu_share": 1.5}, {"gpu_share": 0.5, "workers_per_trial": 2}, {"gpu_share": 0.5}]
)
def test_a_share_of_a_gpu_is_for_trials_of_one_worker(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--gpu-share"):
        Options(**options)
