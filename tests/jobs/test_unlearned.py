"""The proof that retraining forgets: the same model as of a log without the users, and no trace in its losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jobs.erase
from jobs.cli.context import Context, Store
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES, bundle
from models.prepared import Prepared
from models.recommender.schema import Schema
from tests.kit.logs import make_log, prepared, write_csv
from tests.kit.membership import auc, losses, random_users, write_log

RECOMMENDER = FAMILIES["recommender"]
NETWORKS: dict[str, dict[str, Any]] = {
    "transitions": {},
    "gru": {"epochs": 2, "dim": 16, "num_blocks": 1},
}


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Trains a network on prepared data without a cluster; returns the bundle of the best epoch."""

    def train(name: str, data: Prepared, network: str, **settings: Any) -> Path:
        config = RECOMMENDER.Config(**{"network": network, **NETWORKS.get(network, {}), **settings})
        config = RECOMMENDER.resolve(config, data.schema(Schema))
        directory = tmp_path / name
        result = run_training(
            RECOMMENDER,
            config=config,
            data=data,
            directory=directory,
            worker=WorkerContext(),
            report=lambda numbers: None,
        )
        assert result is not None
        return result.best

    return train


def erase(context: Context, users: list[str]) -> None:
    jobs.erase.run(context, None, jobs.erase.Options(command=tuple(users)), None)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_model_of_erased_data_is_bit_identical_to_one_of_a_log_that_never_had_the_user(
    context: Context, tmp_path: Path, trained: Callable[..., Path], network: str
) -> None:
    rows = [*make_log(), {"user_id": "u7", "item_id": "i-only", "timestamp": "2024-03-10 10:00:00", "price": "1"}]
    cuts = {"val_from": "2024-04-15T00:00:00Z", "test_from": "2024-04-22T00:00:00Z"}
    with_user = prepared(context.store, write_csv(tmp_path / "log.csv", rows), **cuts)
    before = trained("before", with_user, network)
    never = write_csv(tmp_path / "never.csv", [row for row in rows if row["user_id"] != "u7"])

    erase(context, ["u7"])

    erased = trained("erased", context.store.current_data("recommender"), network)
    other = trained("never", prepared(Store(tmp_path / "other"), never, **cuts), network)
    for name in ("model.safetensors", "schema.json", "golden.json"):
        assert (erased / name).read_bytes() == (other / name).read_bytes(), name
    assert (before / "model.safetensors").read_bytes() != (erased / "model.safetensors").read_bytes()


@pytest.mark.parametrize("network", ["transitions"])
def test_after_retraining_erased_users_look_like_users_who_were_never_seen(
    context: Context, tmp_path: Path, trained: Callable[..., Path], network: str
) -> None:
    """AUC of the loss as a sign of membership: 0.5 is a coin, 1 a model that knows its users by heart."""
    members = random_users([f"erased-{number}" for number in range(150)], seed=1)
    others = random_users([f"kept-{number}" for number in range(300)], seed=2)
    strangers = random_users([f"never-{number}" for number in range(150)], seed=3)
    log = write_log(tmp_path / "log.txt", {**members, **others})
    data = prepared(context.store, log, split="leave-one-out")

    def measured(name: str, data: Prepared) -> tuple[float, float]:
        """The AUC at an item that members were trained on, and at their last one, which was held out."""
        model = bundle.load(trained(name, data, network), RECOMMENDER)
        of = [
            [losses(model.network, model.schema, each, place=place) for each in (members, strangers)]
            for place in (3, 5)
        ]
        return auc(*of[0]), auc(*of[1])

    before, _ = measured("before", data)
    erase(context, list(members))
    after, held_out_after = measured("after", context.store.current_data("recommender"))

    assert before > 0.8
    # Of 150 and 150 users the AUC of a coin has a standard error of 0.033.
    assert max(after, held_out_after) < 0.5 + 3 * 0.034
