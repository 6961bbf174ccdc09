"""Strong generalisation: evaluation on users who are not trained on, with several targets each."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.errors import DataRejected
from models.metrics import set_ranking
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import Histories, collate, dataset
from models.recommender.held_out import Example, ShardLog
from models.recommender.networks import ranking
from models.recommender.prepare.pipeline import prepare
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import Schema


def prepared(tmp_path: Path, *, num_users: int = 300, length: int = 12) -> tuple[Prepared, Schema]:
    """User u has the items u, u + 1, ... of twenty, and 4 + u % length events."""
    lines = [
        f"u{user},i{(user + place) % 20:02d},{1_700_000_000 + place}"
        for user in range(num_users)
        for place in range(4 + user % length)
    ]
    raw, out = tmp_path / "log.csv", tmp_path / "data"
    raw.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n", encoding="utf-8")
    out.mkdir()
    with ThreadPoolExecutor(1) as executor:
        config = PrepareConfig(raw=str(raw), split="held-out-users")
        return Prepared(out), prepare(config, out, executor)


def users_by_split(data: Prepared) -> dict[str, dict[str, tuple[int, int]]]:
    """Split -> user -> (events, events of history)."""
    found: dict[str, dict[str, tuple[int, int]]] = {"train": {}, "val": {}, "test": {}}
    for shard in range(32):
        log = ShardLog.open(data, shard)
        users = pq.read_table(data.shard(shard) / "users.parquet")["user_id"].to_pylist()
        for user, length, (train_end, val_start, test_start) in zip(
            users, np.diff(log.offsets).tolist(), log.splits.tolist(), strict=True
        ):
            split = "train" if train_end else "val" if val_start < test_start else "test"
            found[split][user] = (length, val_start)
            assert train_end in (0, length)
    return found


def test_a_tenth_of_the_users_is_for_validation_and_a_tenth_for_test(tmp_path: Path) -> None:
    data, schema = prepared(tmp_path, num_users=2000)
    found = users_by_split(data)

    assert 0.07 < len(found["val"]) / 2000 < 0.13
    assert 0.07 < len(found["test"]) / 2000 < 0.13
    assert schema.num_examples["val"] == len(found["val"])
    assert sum(schema.item_counts) == sum(length for length, _ in found["train"].values())


def test_held_out_users_have_at_least_five_events_and_the_last_fifth_are_targets(tmp_path: Path) -> None:
    data, _ = prepared(tmp_path)
    found = users_by_split(data)

    for length, history in [*found["val"].values(), *found["test"].values()]:
        assert length >= 5
        assert history == length - length // 5


def test_the_targets_of_an_example_are_the_items_of_the_last_fifth(tmp_path: Path) -> None:
    data, schema = prepared(tmp_path)
    examples = dataset(data, "test", range(32), schema=schema, config=Config(), epoch=0)

    assert len(examples) == schema.num_examples["test"]
    for place in range(len(examples)):
        example = examples[place]
        assert isinstance(example, Example)
        assert len(example.targets) == max(1, (len(example.history) + len(example.targets)) // 5)
        assert example.target == example.targets[0]
        assert not set(example.targets) & set(example.history)


def test_a_log_with_too_few_users_is_rejected_with_an_explanation(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="held-out-users takes a tenth of the users"):
        prepared(tmp_path, num_users=3)


def test_data_with_an_old_layout_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    data, _ = prepared(tmp_path)
    path = data.shard(3) / "splits.npy"
    np.save(path, np.load(path)[:, 1:])

    with pytest.raises(ValueError, match=f"^{re.escape(str(data.path))} was prepared by .*; prepare it again"):
        ShardLog.open(data, 3)


def test_ndcg_and_recall_of_several_targets_equal_a_manual_calculation() -> None:
    scores = torch.tensor([[-torch.inf, 5.0, 4.0, 3.0, 2.0, 1.0]])
    targets = torch.tensor([[2, 4, 0, -1]])

    found = set_ranking(scores, targets, ndcg_cutoffs=(2, 5), recall_cutoffs=(2, 5))

    ideal = 1 + 1 / np.log2(3)
    values = {name: float(ratio.numerator / ratio.denominator) for name, ratio in found.items()}
    assert values["ndcg_at_2"] == pytest.approx((1 / np.log2(3)) / ideal)
    assert values["ndcg_at_5"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / (ideal + 0.5))
    assert values["recall_at_2"] == pytest.approx(1 / 2)
    assert values["recall_at_5"] == pytest.approx(2 / 3)


def test_ties_are_ordered_by_index() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 1.0, 1.0, 1.0]])

    first = set_ranking(scores, torch.tensor([[1]]), ndcg_cutoffs=(1,), recall_cutoffs=(1,))
    second = set_ranking(scores, torch.tensor([[2]]), ndcg_cutoffs=(1,), recall_cutoffs=(1,))

    assert (float(first["ndcg_at_1"].numerator), float(second["ndcg_at_1"].numerator)) == (1.0, 0.0)


def test_a_seen_target_counts_only_in_unfiltered_metrics() -> None:
    example = Example(history=[3], excluded=[3], target=3, targets=[3, 4], targets_seen=[True, False])
    only_seen = Example(history=[3], excluded=[3], target=3, targets=[3], targets_seen=[True])
    batch = collate([example, only_seen])
    assert isinstance(batch, Histories)

    found = ranking.evaluate(batch, torch.tensor([[-torch.inf, 0.0, 0.0, 9.0, 5.0]]).repeat(2, 1))

    assert found["ndcg_at_10"].numerator.tolist() == [1.0, 0.0]
    assert found["ndcg_at_10"].denominator.tolist() == [1.0, 0.0]
    assert found["ndcg_at_10_unfiltered"].numerator.tolist() == [1.0, 1.0]
