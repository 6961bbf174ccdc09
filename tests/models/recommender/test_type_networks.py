"""Event types in networks: as inputs and weights, in the transitions, in the metrics and in requests."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.cli.context import Store
from models.nn.layers import linear_cross_entropy
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import Histories, Rows, collate, dataset
from models.recommender.endpoints import RecommendationRequest, encode_recommendation, golden_request
from models.recommender.event_weights import default_weights, event_weights, loss_weights
from models.recommender.held_out import Example
from models.recommender.networks.bags import bags_of_histories
from models.recommender.networks.build import build, initialise
from models.recommender.networks.next_item import NextItem
from models.recommender.networks.ranking import evaluate
from models.recommender.networks.transitions import Transitions, count_pairs
from models.recommender.report.slices import slices
from models.recommender.schema import NUM_SHARDS, Schema
from tests.kit.logs import prepared, write_csv
from tests.kit.typed_log import name, partner, typed_log
from tests.models.recommender.test_networks import plain_schema

SEQUENTIAL = ("transformer", "gru", "two_tower")
SMALL = Config(dim=16, max_length=20, num_blocks=1, dropout=0.0, blend=False, spectral_start=False, precision="fp32")
TYPES = {"event_types": ["purchase", "view"], "event_type_counts": [0, 100, 900]}


def typed_schema(**changes: Any) -> Schema:
    """Twelve items, views and purchases; purchases are the targets and make an item seen."""
    fields = {**TYPES, "target_types": ["purchase"], "seen_types": ["purchase"], **changes}
    return plain_schema(num_items=12).model_copy(update=fields)


def batch_of(*examples: Any) -> Histories:
    batch = collate(examples)
    assert isinstance(batch, Histories)
    return batch


def learner(network: Any, schema: Schema, **changes: Any) -> NextItem:
    torch.manual_seed(0)
    built = build(dataclasses.replace(SMALL, network=network, **changes), schema).learner
    assert isinstance(built, NextItem)
    return built


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    directory = tmp_path_factory.mktemp("typed")
    return prepared(Store(directory / "store"), write_csv(directory / "log.csv", typed_log()))


@pytest.fixture(scope="module")
def without_types(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same data for a model that ignores types; what is evaluated stays the same."""
    path = tmp_path_factory.mktemp("without") / "data"
    shutil.copytree(data.path, path)
    schema = json.loads((path / "schema.json").read_text())
    (path / "schema.json").write_text(json.dumps({**schema, "event_type_counts": []}))
    return Prepared(path)


def transitions(data: Prepared, **changes: Any) -> tuple[Any, Transitions]:
    schema = data.schema(Schema)
    model = build(Config(network="transitions", precision="fp32", **changes), schema)
    initialise(model, data, schema)
    assert isinstance(model.prior, Transitions)
    return model.eval(), model.prior


def test_score(data: Prepared, model: Any) -> float:
    schema = data.schema(Schema)
    opened = dataset(data, "test", range(NUM_SHARDS), schema=schema, config=Config(), epoch=0)
    metrics = model.evaluate(collate([opened[place] for place in range(len(opened))]))
    ratio = metrics.ratios["ndcg_at_10"]
    return float(ratio.numerator.sum() / ratio.denominator.sum())


test_score.__test__ = False  # type: ignore[attr-defined]


def test_transitions_with_types_find_what_is_bought_and_without_them_what_is_viewed(
    data: Prepared, without_types: Prepared
) -> None:
    model, prior = transitions(data)
    other, _ = transitions(without_types)

    assert test_score(data, model) > 0.9
    assert test_score(without_types, other) < 0.5
    assert prior.type_factors is not None
    factors = dict(zip(["", *data.schema(Schema).event_types], prior.type_factors.tolist(), strict=True))
    assert factors["addtocart"] > factors["view"]


def test_a_pair_counts_as_much_as_the_type_of_its_second_event(tmp_path: Path, store: Store) -> None:
    events = [("a", "view"), ("b", "view"), ("c", "purchase"), ("a", "view"), ("b", "view")]
    rows = [
        {"user_id": f"u{user}", "item_id": item, "timestamp": 1_700_000_000 + 60 * place, "event_type": kind}
        for user in range(6)
        for place, (item, kind) in enumerate(events)
    ]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")
    schema = data.schema(Schema)

    counts = count_pairs(data, schema, window=8, weights=event_weights("view=1,purchase=10", schema)).toarray()

    # The first three events are trained on; a, b and c are the items 1, 2 and 3.
    assert counts[1:, 1:].tolist() == [[0, 6, 6 * 10 / 2], [0, 0, 6 * 10], [0, 0, 0]]


def test_a_network_with_types_starts_where_one_without_would() -> None:
    typed, plain = typed_schema(), plain_schema(num_items=12)
    batch = batch_of(Example(history=[3, 5, 2], types=[2, 2, 1]), Example(history=[7], types=[2]))

    for network in SEQUENTIAL:
        with torch.no_grad():
            scores = [learner(network, schema).eval().log_scores(batch) for schema in (typed, plain)]
        assert torch.equal(*scores)


@pytest.mark.parametrize("network", SEQUENTIAL)
def test_a_network_learns_what_follows_an_event_by_its_type_and_answers_with_targets(network: str) -> None:
    draw = torch.Generator().manual_seed(0)
    types = torch.randint(1, 3, (256, 12), generator=draw)
    items = torch.randint(1, 13, (256, 12), generator=draw)
    # A purchase (1) is of item 1 after a purchase and of item 2 after a view; views (2) are of any item.
    items[:, 1:] = torch.where(types[:, 1:] == 1, torch.where(types[:, :-1] == 1, 1, 2), items[:, 1:])
    rows = Rows(items[:, :-1], items[:, 1:], torch.ones_like(items[:, 1:]), types[:, :-1], types[:, 1:])
    model = learner(network, typed_schema()).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    for _ in range(80):
        optimizer.zero_grad()
        model.loss(rows).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    batch = batch_of(*(Example(history=[5, 8, 2], types=[2, 2, last]) for last in (1, 2)))
    with torch.no_grad():
        best = model.eval().log_scores(batch).argmax(1) + 1

    assert best.tolist() == [1, 2]


def test_the_loss_of_a_batch_is_weighted_by_the_types_of_the_next_events() -> None:
    schema = typed_schema()
    rows = Rows(*(torch.tensor([values]) for values in ([3, 4], [4, 6], [1, 1], [2, 2], [1, 2])))
    losses = []
    for weights in ("purchase=1", "purchase=9", "purchase=0"):
        losses.append(float(learner("transformer", schema, weights=weights).loss(rows).detach()))
    plain, heavy, views = losses

    # A tenth of the events are purchases, so that the mean weights are 1, 1.8 and 0.9. One next event is a purchase.
    of_view = 0.9 * views
    of_purchase = plain - of_view
    assert 0.1 < of_purchase < plain
    assert heavy == pytest.approx((9 * of_purchase + of_view) / 1.8, rel=1e-4)


def test_weighted_cross_entropy_has_the_value_and_the_gradients_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=draw) for shape in ((300, 8), (40, 8)))
    targets, importance = torch.randint(0, 40, (300,), generator=draw), torch.rand(300, generator=draw)
    found = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if fused:
            loss = linear_cross_entropy(h, w, targets, importance_T=importance)
        else:
            loss = (importance * F.cross_entropy(h @ w.T, targets, reduction="none")).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss.detach(), h.grad, w.grad))
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None and theirs is not None and torch.allclose(ours, theirs, atol=1e-6)


def test_the_default_weight_of_targets_is_the_root_of_their_rarity_at_most_10() -> None:
    assert default_weights(typed_schema()) == [1.0, 3.0, 1.0]
    assert default_weights(typed_schema(event_type_counts=[0, 1, 10_000])) == [1.0, 10.0, 1.0]
    assert default_weights(typed_schema(event_type_counts=[0, 900, 100])) == [1.0, 1.0, 1.0]
    assert event_weights("", typed_schema(target_types=[])) is None


def test_weights_have_a_mean_of_1_over_the_training_events() -> None:
    schema = typed_schema()
    weights = loss_weights(event_weights("view=2, Purchase = 8", schema), schema)

    assert weights is not None
    assert float((weights * torch.tensor(TYPES["event_type_counts"])).sum()) == pytest.approx(1000)
    assert float(weights[1] / weights[2]) == pytest.approx(4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("view", "'view' is not TYPE=WEIGHT"),
        ("buy=3", "no event type 'buy'; they have: purchase, view"),
        ("view=much", "'much' is not a number"),
        ("view=-1", "-1 is not a weight"),
        ("view=inf", "inf is not a weight"),
        ("view=1,view=2", "names 'view' twice"),
        ("view=0,purchase=0", "leaves no event to train on"),
    ],
)
def test_weights_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(SMALL, weights=text), typed_schema())


def test_a_bag_weights_each_item_by_its_heaviest_event() -> None:
    batch = batch_of(Example(history=[3, 5, 3], types=[2, 2, 1]))
    bags = bags_of_histories(batch, 13, torch.tensor([1.0, 4.0, 0.5]))

    assert bags.weights is not None
    assert (bags.items.tolist(), bags.weights.tolist()) == ([3, 5], [4.0, 0.5])
    table = torch.eye(13)
    assert bags.embed(table)[0, [3, 5]].tolist() == pytest.approx([4 / 16.25**0.5, 0.5 / 16.25**0.5])


@pytest.mark.parametrize("network", ["autoencoder", "gan"])
def test_bag_networks_train_on_weighted_types(network: str) -> None:
    torch.manual_seed(0)
    model = build(dataclasses.replace(SMALL, network=network), typed_schema())
    rows = Rows(*(torch.tensor([values]) for values in ([3, 4], [4, 6], [1, 1], [2, 2], [2, 1])))

    loss = model.forward(rows)
    loss.backward()  # type: ignore[no-untyped-call]

    assert torch.isfinite(loss)


def test_revenue_is_the_share_of_the_amounts_whose_item_is_in_the_top_ten() -> None:
    scores = torch.arange(13.0).neg().expand(4, 13).clone()
    scores[:, 0] = -torch.inf
    batch = batch_of(
        Example(history=[], target=1, amount=30.0),
        Example(history=[], target=12, amount=60.0),
        Example(history=[], target=2, amount=float("nan")),
        Example(history=[2], excluded=[2], target=2, target_seen=True, amount=10.0),
    )

    ratios = evaluate(batch, scores)

    value = {name: ratio.numerator.sum() / ratio.denominator.sum() for name, ratio in ratios.items()}
    assert float(value["revenue_at_10"]) == pytest.approx(30 / 90)
    assert float(value["revenue_at_10_unfiltered"]) == pytest.approx(40 / 100)


def test_metrics_are_sliced_by_the_type_of_the_target_where_there_are_several(
    data: Prepared, tmp_path: Path, store: Store
) -> None:
    every = prepared(store, write_csv(tmp_path / "log.csv", typed_log(num_users=100)), target=("all",))
    labels = []
    for one in (data, every):
        schema = one.schema(Schema)
        opened = dataset(one, "test", range(NUM_SHARDS), schema=schema, config=Config(), epoch=0)
        batch = collate([opened[place] for place in range(len(opened))])
        labels.append(slices(batch, schema).get("event_type"))

    assert labels[0] is None
    assert labels[1] is not None and set(labels[1]) == {"view", "addtocart", "purchase"}


def encoded(schema: Schema, stored: list[Any] | None = None, **request: Any) -> Example:
    features = {"history": {"u1": stored}} if stored is not None else {}
    fields = {"user_id": "u1", **request} if stored is not None else request
    (example,) = encode_recommendation(RecommendationRequest(**fields), schema, features)
    return example


BOUGHT = {"item_id": "i000", "event_type": "Purchase"}
VIEWED = {"item_id": "i001", "event_type": "view"}


def test_a_request_may_name_the_types_of_its_history_and_only_seen_types_are_excluded() -> None:
    example = encoded(typed_schema(), history=[BOUGHT, VIEWED, "i002"])

    assert (list(example.history), example.types) == ([1, 2, 3], [1, 2, 2])
    # The purchase, and the item without a type, which may have been bought.
    assert example.excluded == [1, 3]


def test_stored_histories_have_types_and_those_of_an_earlier_release_have_none() -> None:
    typed = encoded(typed_schema(), [["i000", "purchase"], ["i001", "view"], ["gone", "view"]])
    plain = encoded(typed_schema(), ["i000", "i001"])
    old_model = encoded(plain_schema(num_items=12), [["i000", "purchase"], ["i001", "view"]])

    assert (typed.history, typed.types, typed.excluded) == ([1, 2], [1, 2], [1])
    assert (plain.history, plain.types, plain.excluded) == ([1, 2], [2, 2], [1, 2])
    assert (old_model.history, old_model.types, old_model.excluded) == ([1, 2], None, [1, 2])


def test_where_repeats_count_nothing_is_excluded_unless_the_request_says_so() -> None:
    schema = typed_schema(seen_types=[])

    assert encoded(schema, history=[BOUGHT, VIEWED]).excluded == []
    assert encoded(schema, history=[BOUGHT, VIEWED], exclude_seen=True).excluded == [1, 2]
    assert encoded(typed_schema(), history=[BOUGHT], exclude_seen=False).excluded == []


def test_the_golden_request_has_types_where_the_log_has_them() -> None:
    assert golden_request(plain_schema(num_items=12)).history == ["i000", "i011"]
    assert encoded(typed_schema(), **golden_request(typed_schema()).model_dump()).types == [1, 2]


def test_an_explanation_names_the_event_that_counts_most_by_its_type(data: Prepared) -> None:
    model, _ = transitions(data)
    schema = data.schema(Schema)
    codes = schema.type_codes
    cart, view = schema.index[name(10)], schema.index[name(30)]
    example = Example(history=[cart, view], types=[codes["addtocart"], codes["view"]], count=1)

    (prediction,) = model.predict(batch_of(example))

    assert prediction.items == [schema.index[name(partner(10))]]
    assert prediction.explanations == [cart]
    assert np.isfinite(prediction.scores).all()


def test_repeat_purchases_count_and_are_found_where_no_type_makes_an_item_seen(tmp_path: Path, store: Store) -> None:
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": name(7 * user % 60),
            "timestamp": 1_700_000_000 + 60 * place,
            "event_type": kind,
        }
        for user in range(120)
        for place, kind in enumerate(["view", "buy", "view", "buy", "view", "buy"])
    ]
    raw = write_csv(tmp_path / "log.csv", rows)
    found = {}
    for seen in ("buy", "none"):
        data = prepared(store, raw, split="leave-one-out", target=("buy",), seen=(seen,))
        schema = data.schema(Schema)
        model = build(Config(network="transitions", precision="fp32"), schema)
        initialise(model, data, schema)
        opened = dataset(data, "test", range(NUM_SHARDS), schema=schema, config=Config(), epoch=0)
        ratio = model.evaluate(batch_of(*(opened[place] for place in range(len(opened))))).ratios["ndcg_at_10"]
        found[seen] = (float(ratio.numerator.sum()), float(ratio.denominator.sum()))

    assert found == {"buy": (0.0, 0.0), "none": (120.0, 120.0)}


def test_a_history_of_the_least_useful_type_alone_still_counts(data: Prepared) -> None:
    model, prior = transitions(data)
    schema = data.schema(Schema)
    assert prior.type_factors is not None
    example = Example(history=[schema.index[name(10)]], types=[schema.type_codes["view"]], count=1)

    (prediction,) = model.predict(batch_of(example))

    assert prior.type_factors[schema.type_codes["view"]] < 1
    assert prediction.explanations == [schema.index[name(10)]]
