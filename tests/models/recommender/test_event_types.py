"""Event types in prepared data: stored with each event, and the rule of what is evaluated and of what is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Store
from models.errors import DataRejected
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import dataset, history_rows
from models.recommender.held_out import Example
from models.recommender.prepare.event_types import is_cart, is_purchase
from models.recommender.schema import NUM_SHARDS, Schema
from tests.kit.logs import prepared, write_csv
from tests.kit.typed_log import typed_log

Event = tuple[str, str | None]
START = 1_700_006_400


def write_log(path: Path, events: dict[str, list[tuple[str, str]]], **columns: Any) -> Path:
    """A log of (item, type) pairs by user, an hour apart."""
    rows = [
        {"user_id": user, "item_id": item, "timestamp": START + 3600 * place, "event_type": kind, **columns}
        for user, pairs in events.items()
        for place, (item, kind) in enumerate(pairs)
    ]
    return write_csv(path, rows)


def typed_histories(data: Prepared) -> dict[str, list[Event]]:
    """user -> (item, type) in order, read back from the shards."""
    items, types = pq.read_table(data.path / "items.parquet")["item_id"].to_pylist(), data.schema(Schema).event_types
    found = {}
    for shard in data.shards():
        indices, codes, offsets = (np.load(shard / f"{name}.npy") for name in ("items", "types", "offsets"))
        for place, user in enumerate(pq.read_table(shard / "users.parquet")["user_id"].to_pylist()):
            span = slice(offsets[place], offsets[place + 1])
            pairs = zip(indices[span].tolist(), codes[span].tolist(), strict=True)
            found[user] = [(items[item - 1], types[code - 1] if code else None) for item, code in pairs]
    return found


def examples_of(data: Prepared, split: str) -> list[Example]:
    opened = dataset(data, split, range(NUM_SHARDS), schema=data.schema(Schema), config=Config(), epoch=0)
    return [example for place in range(len(opened)) if isinstance(example := opened[place], Example)]


def item_ids(data: Prepared, indices: Any) -> list[str]:
    return [data.schema(Schema).items[index - 1] for index in indices]


USERS = {
    f"u{user}": [("a", "view"), ("b", "view"), ("c", "Purchase "), ("a", "purchase"), ("d", "VIEW")]
    for user in range(9)
} | {"late": [("a", "view"), ("b", ""), ("c", "view"), ("d", "view"), ("e", "view")]}


def test_types_are_stored_without_regard_to_case_and_surrounding_blanks(tmp_path: Path, store: Store) -> None:
    data = prepared(store, write_log(tmp_path / "log.csv", USERS), split="leave-one-out")

    schema = data.schema(Schema)
    assert schema.event_types == ["purchase", "view"]
    found = typed_histories(data)
    assert found["u0"] == [(item, kind.strip().lower()) for item, kind in USERS["u0"]]
    assert found["late"][1] == ("b", None)


def test_amounts_are_price_times_quantity_and_nan_without_a_price(tmp_path: Path, store: Store) -> None:
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"i{place}",
            "timestamp": START + 60 * place,
            "price": price,
            "quantity": count,
        }
        for user in range(4)
        for place, (price, count) in enumerate([("2.5", "4"), ("3", ""), ("", "2")])
    ]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")

    amounts = np.concatenate([np.load(shard / "amounts.npy") for shard in data.shards()])
    assert amounts.dtype == np.float32
    assert np.array_equal(np.sort(amounts)[:8], [3.0] * 4 + [10.0] * 4) and np.isnan(np.sort(amounts)[8:]).all()


def test_a_log_without_types_and_prices_has_no_files_of_them(tmp_path: Path, store: Store) -> None:
    rows = [{"user_id": f"u{n}", "item_id": f"i{k}", "timestamp": START + 60 * k} for n in range(4) for k in range(4)]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")

    assert not list(data.path.rglob("types.npy")) and not list(data.path.rglob("amounts.npy"))
    schema = data.schema(Schema)
    assert (schema.event_types, schema.target_types, schema.seen_types) == ([], [], None)
    assert "event_types" not in data.card()


def test_the_fingerprint_depends_on_the_types_and_on_what_is_evaluated(tmp_path: Path, store: Store) -> None:
    typed = write_log(tmp_path / "typed.csv", USERS)
    other = write_log(tmp_path / "other.csv", {user: [(i, "view") for i, _ in pairs] for user, pairs in USERS.items()})

    found = {
        prepared(store, raw, split="leave-one-out", **flags).fingerprint
        for raw, flags in (
            (typed, {}),
            (typed, {"target": ("purchase",)}),
            (typed, {"target": ("purchase",), "seen": ("none",)}),
            (other, {}),
        )
    }
    assert len(found) == 4


def test_purchases_are_the_targets_by_default_if_there_are_enough(tmp_path: Path, store: Store) -> None:
    many = prepared(store, write_csv(tmp_path / "many.csv", typed_log()))
    few = prepared(store, write_csv(tmp_path / "few.csv", typed_log(num_users=60)))

    schema, card = many.schema(Schema), many.card()
    assert (schema.target_types, schema.seen_types) == (["purchase"], ["purchase"])
    assert (card["target"], card["seen"], card["target_reason"]) == ("purchase", "purchase", "purchases, by name")
    assert "--target purchase" in card["notes"][0] and "1,978 purchase" in card["notes"][0]
    assert card["examples"] == {name: schema.num_examples[name] for name in ("val", "test")}
    assert all(card["users_without_target"][name] > 0 for name in ("val", "test"))
    assert (few.schema(Schema).target_types, few.schema(Schema).seen_types) == ([], None)
    assert "under 100" in few.card()["target_reason"]


@pytest.mark.parametrize(
    "word", ["purchase", "transaction", "order_placed", "reorder", "buy", "checkout", "product sold", "paid"]
)
def test_these_types_are_named_like_a_purchase(word: str) -> None:
    assert is_purchase(word) and not is_cart(word)


@pytest.mark.parametrize(
    "word",
    [
        "view",
        "begin_checkout",
        "abandoned_checkout",
        "checkout_progress",
        "order_cancelled",
        "order_history",
        "add_to_cart",
        "refund",
        "click",
        "remove",
        "not_purchased",
        "no_purchase",
        "non-purchase",
        "notpurchased",
        "unpaid",
        "unsold",
        "purchase_declined",
        "purchase_intent",
        "buyer_signup",
        "wishlist_order",
    ],
)
def test_these_types_are_not(word: str) -> None:
    assert not is_purchase(word)


@pytest.mark.parametrize("word", ["add_to_cart", "addtocart", "cart", "add to basket", "add_to_bag", "addtobag"])
def test_these_types_are_named_like_an_addition_to_a_cart(word: str) -> None:
    assert is_cart(word) and not is_purchase(word)


@pytest.mark.parametrize(
    "word",
    [
        "remove_from_cart",
        "cart_removed",
        "removal_from_cart",
        "cart_removal",
        "delete_from_basket",
        "empty_cart",
        "clear_cart",
        "update_cart",
        "view_cart",
        "cart_page",
        "cart_abandoned",
        "not_added_to_cart",
        "cart_checkout",
        "handbag",
    ],
)
def test_these_types_are_no_addition_to_a_cart(word: str) -> None:
    assert not is_cart(word)


def test_an_unknown_target_lists_the_types_with_their_counts(tmp_path: Path, store: Store) -> None:
    raw = write_log(tmp_path / "log.csv", USERS)
    with pytest.raises(DataRejected, match=r"no event type 'buy' as --target says.*purchase \(18\), view \(31\)"):
        prepared(store, raw, split="leave-one-out", target=("Buy",))


def test_more_than_255_types_are_rejected_with_a_remedy(tmp_path: Path, store: Store) -> None:
    raw = write_log(tmp_path / "log.csv", {f"u{n}": [(f"i{n}", f"title {n} {k}") for k in range(3)] for n in range(99)})
    with pytest.raises(DataRejected, match=r"more than 255 event types, e\.g\. 'title 0 0'.*--columns event_type="):
        prepared(store, raw, split="leave-one-out")


def test_leave_one_out_holds_out_the_last_two_targets_after_all_events_before_them(
    tmp_path: Path, store: Store
) -> None:
    raw = write_log(tmp_path / "log.csv", USERS)
    data = prepared(store, raw, split="leave-one-out", target=("purchase",))

    val, test = examples_of(data, "val"), examples_of(data, "test")
    assert len(val) == len(test) == 9
    assert {(*item_ids(data, e.history), "->", *item_ids(data, [e.target])) for e in val} == {("a", "b", "->", "c")}
    assert {(*item_ids(data, e.history), "->", *item_ids(data, [e.target])) for e in test} == {
        ("a", "b", "c", "->", "a")
    }
    assert data.schema(Schema).num_examples == {"train": 9 * 2 + 5, "val": 9, "test": 9}


def test_a_time_split_draws_the_target_among_target_events_and_shows_all_events_before_it(
    tmp_path: Path, store: Store
) -> None:
    data = prepared(store, write_csv(tmp_path / "log.csv", typed_log()), target=("purchase",))
    types = typed_histories(data)

    examples = examples_of(data, "test")
    assert len(examples) == data.schema(Schema).num_examples["test"] > 100
    known = {
        tuple(item for item, _ in pairs[:place]): pairs[place]
        for pairs in types.values()
        for place in range(len(pairs))
    }
    for example in examples:
        item, kind = known[tuple(item_ids(data, example.history))]
        assert (item, kind) == (*item_ids(data, [example.target]), "purchase")


def test_held_out_users_have_the_targets_among_their_last_fifth(tmp_path: Path, store: Store) -> None:
    early = [("v", "view"), ("w", "buy"), *[("v", "view")] * 5]
    users = {f"u{n}": [*early, ("x", "view"), ("y", "buy" if n % 2 else "view"), ("z", "view")] for n in range(200)}
    data = prepared(store, write_log(tmp_path / "log.csv", users), split="held-out-users", target=("buy",))

    examples, schema = examples_of(data, "test"), data.schema(Schema)
    assert 3 <= len(examples) == schema.num_examples["test"] < 20
    assert {(*item_ids(data, e.history), "->", *item_ids(data, e.targets)) for e in examples} == {
        ("v", "w", *["v"] * 5, "x", "->", "y")
    }
    # Those whose last fifth has no target are trained on.
    assert schema.num_examples["train"] == 10 * (200 - len(examples) - schema.num_examples["val"])


def test_only_events_of_seen_types_make_an_item_seen(tmp_path: Path, store: Store) -> None:
    raw = write_log(tmp_path / "log.csv", USERS)

    seen = {}
    for flag in ("purchase", "all", "none"):
        data = prepared(store, raw, split="leave-one-out", target=("purchase",), seen=(flag,))
        (found,) = {(*item_ids(data, example.excluded), example.target_seen) for example in examples_of(data, "test")}
        seen[flag] = found
    # The history is: view a, view b, purchase c; the target is a.
    assert seen == {"purchase": ("c", False), "all": ("a", "b", "c", True), "none": (False,)}


def test_the_feature_store_keeps_the_types_of_histories(tmp_path: Path, store: Store) -> None:
    data = prepared(store, write_log(tmp_path / "log.csv", USERS), split="leave-one-out")

    assert dict(history_rows(data))["late"] == [["a", "view"], ["b", None], ["c", "view"], ["d", "view"], ["e", "view"]]


def test_the_card_is_plain_json(tmp_path: Path, store: Store) -> None:
    data = prepared(store, write_log(tmp_path / "log.csv", USERS), split="leave-one-out")

    assert json.loads((data.path / "card.json").read_text())["event_types"] == {"purchase": 18, "view": 31}
