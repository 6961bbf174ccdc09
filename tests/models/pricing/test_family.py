"""The pricing family: what is learnt of known elasticities, that no demand rises, and what its endpoints answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from jobs.evaluation.baselines import fitted
from models.ask import Answerer
from models.evaluate import Model
from models.prepared import Prepared
from models.pricing import FAMILY
from models.pricing.asked import state_rows
from models.pricing.claims import classes_of
from models.pricing.config import Config
from models.pricing.data import collate, dataset, stored_offers
from models.pricing.demand import elasticities
from models.pricing.endpoints import ENDPOINTS, ExplainResponse, WhatIfResponse, golden_request
from models.pricing.networks.build import build, initialise, resolve
from models.pricing.networks.price_model import SHARES, PriceModel
from models.pricing.responses import RecommendResponse
from models.pricing.sample import ABOVE, ELASTICITIES, FIXED, Shop, write_sample
from models.pricing.states import design_of_offers
from tests.conftest import CHECKOUT
from tests.models.pricing.kit import prepared_shop, schema_of, scores_of, trained

GOLDEN = CHECKOUT / "tests" / "golden" / "losses"
SMALL: dict[str, Any] = {"hidden": 16, "trees": 40, "dropout": 0.0}
WITHIN = "ladder: {step: 0.05, most_points: 9}\nlargest_change: {share: 0.1}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return write_sample(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def data(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared_shop(shop, tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def model(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Model:
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 64, "learning_rate": 8e-3, "members": 2}
    return trained(data, tmp_path_factory.mktemp("run"), **SMALL, **settings)


@pytest.fixture(scope="module")
def states(data: Prepared) -> dict[str, Any]:
    return dict(state_rows(data))


def ask(model: Model, states: dict[str, Any], number: int = 0, **fields: Any) -> BaseModel:
    endpoint = ENDPOINTS[number]
    request = endpoint.Request(**fields)
    found = {key: states[key] for key in request.state_keys() if key in states}
    return Answerer(FAMILY, endpoint, model.network, model.schema, "7")(request, {"states": found})


def recommend(model: Model, states: dict[str, Any], **fields: Any) -> RecommendResponse:
    response = ask(model, states, **fields)
    assert isinstance(response, RecommendResponse)
    return response


@pytest.mark.parametrize("head", ["log", "count"])
def test_the_first_losses_equal_the_golden_ones(head: Any, data: Prepared) -> None:
    torch.manual_seed(0)
    schema = schema_of(data)
    config = Config(head=head, evaluators=0, blend=False, members=2, hidden=16, dropout=0.0)
    network = build(config, schema).train()
    rows = dataset(data, "train", range(data.num_shards), schema=schema, config=config, epoch=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for step in range(20):
        loss = network.loss(collate([rows[(64 * step + place) % len(rows)] for place in range(64)]))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    expected = np.loadtxt(GOLDEN / f"pricing_{head}.txt")
    assert np.allclose(losses, expected, rtol=5e-3), f"losses are now {[round(loss, 4) for loss in losses]}"


def test_no_row_has_a_demand_that_rises_with_its_own_price(model: Model, data: Prepared) -> None:
    network = model.network
    assert isinstance(network, PriceModel)
    rows = dataset(data, "train", range(data.num_shards), schema=model.schema, config=model.config, epoch=1)
    design = collate([rows[row] for row in range(len(rows))]).design(model.schema)

    for member in network.demand().members:
        before = member.log_units(design.at(design.own - 0.4))
        for change in np.linspace(-0.35, 0.3, 14):
            after = member.log_units(design.at(design.own + change))
            assert (after - before).max() < 1e-5
            before = after


def test_the_model_is_better_than_the_usual_units_and_none_of_its_rows_rises(model: Model, data: Prepared) -> None:
    scores = scores_of(model, data)
    usual = scores_of(fitted(FAMILY, FAMILY.baselines["usual"], data), data)

    assert scores.value(FAMILY.metric) < 0.7 * usual.value(FAMILY.metric)
    assert scores.ratio("rising") == usual.ratio("rising") == 0
    assert {"history", "demand"} == set(scores.slices)


def test_elasticities_are_near_those_of_the_shop(model: Model, data: Prepared, shop: Shop) -> None:
    offers = [offer for offer in stored_offers(data) if offer.product != FIXED]
    network = model.network
    assert isinstance(network, PriceModel)

    found = elasticities(
        network.demand().at(design_of_offers(offers, model.schema)), np.array([offer.price for offer in offers])
    ).mean(0)
    whole = network.elasticities()

    by_category = {
        name: float(np.mean([value for value, offer in zip(found, offers, strict=True) if offer.category == name]))
        for name in ELASTICITIES
    }
    assert by_category["tea"] < by_category["cocoa"] < by_category["coffee"]
    assert by_category == pytest.approx(ELASTICITIES, abs=1.0)
    assert whole is not None
    truth = dict(zip(shop.ids, shop.elasticity.tolist(), strict=True))
    errors = [
        abs(whole[0].value[place] - truth[each.id])
        for place, each in enumerate(model.schema.products)
        if each.id != FIXED
    ]
    assert np.mean(errors) < 0.35


def test_evaluators_are_of_another_class_and_half_than_what_they_judge(data: Prepared) -> None:
    schema = schema_of(data)
    for name in ("monotone", "loglog", "tree"):
        config = resolve(Config(network=name, members=2, trees=5, hidden=8), schema)
        fitted_models = build(config, schema).fitted()
        assert fitted_models is not None
        for half, evaluators in zip(fitted_models.halves, fitted_models.evaluators, strict=True):
            assert len(evaluators.members) == 10
            assert not classes_of(half.members) & classes_of(evaluators.members)


def test_a_blend_takes_the_share_with_the_least_error_that_harms_no_class_of_demand(data: Prepared) -> None:
    network = build(Config(**SMALL, members=2, evaluators=0), schema_of(data))
    errors = torch.full((5, len(SHARES)), 20.0)

    for changed, chosen in (({(0, 3): 19.5}, 0), ({(0, 3): 10.0}, 3), ({(0, 5): 2.0, (1, 5): 21.0}, 3)):
        for place, value in changed.items():
            errors[place] = value
        network.choose_share(errors)
        assert int(network.share) == chosen


def test_elastic_demand_gets_lower_prices_and_inelastic_demand_higher_ones(
    model: Model, states: dict[str, Any]
) -> None:
    tea = recommend(model, states, products=["tea-0", "tea-1", "tea-2", "tea-3"], rules=WITHIN)
    coffee = recommend(model, states, products=["coffee-0", "coffee-1", "coffee-2"], rules=WITHIN)

    assert tea.verdict != "none" and coffee.verdict != "none"
    assert np.mean([row.new / row.old for row in tea.prices]) < 0.97
    assert np.mean([row.new / row.old for row in coffee.prices]) > 1.03
    for found in (tea, coffee):
        assert found.claim is not None and found.claim.low > 0
        assert all(0.899 < row.new / row.old < 1.101 for row in found.prices)
    assert {row.product for row in tea.prices} == {"tea-0", "tea-1", "tea-2", "tea-3"} and len(tea.prices) == 8


def test_what_cannot_be_trusted_stays_with_its_reason(model: Model, states: dict[str, Any]) -> None:
    found = recommend(model, states, products=[FIXED, ABOVE])

    assert found.verdict == "none"
    reasons = {row.product: row.reason for row in found.prices}
    assert "never sold at two prices" in reasons[FIXED] and "not below its price" in reasons[ABOVE]
    assert all(row.new == row.old for row in found.prices)


def test_rules_that_conflict_are_an_answer_and_mistakes_in_rules_a_refusal(
    model: Model, states: dict[str, Any]
) -> None:
    conflict = {"ladder": {"step": 0.05}, "margin_floor": {"share": 0.9}, "largest_change": {"share": 0.01}}

    found = recommend(model, states, products=["tea-0"], rules=conflict)

    assert found.verdict == "none" and "margin_floor" in found.reason
    with pytest.raises(ValueError, match="laddr"):
        recommend(model, states, products=["tea-0"], rules="laddr: {step: 0.05}")


def test_what_is_different_today_changes_the_answer(model: Model, states: dict[str, Any]) -> None:
    today = [{"product_id": "tea-0", "store_id": "north", "price": 5.0, "cost": 4.99, "known": {"promotion": 1}}]

    found = recommend(model, states, products=["tea-0"], stores=["north"], today=today)
    plain = recommend(model, states, products=["tea-0"], stores=["north"])

    assert [row.old for row in found.prices] == [5.0]
    assert found.prices[0].units_today != plain.prices[0].units_today


def test_given_prices_are_compared_with_todays(model: Model, states: dict[str, Any]) -> None:
    found = ask(model, states, 1, products=["coffee-0"], prices=[{"product_id": "coffee-0", "price": 20.0}])

    assert isinstance(found, WhatIfResponse) and found.claim is not None
    rows = [row for row in found.offers if row.product == "coffee-0"]
    assert len(rows) == 2 and all(row.new == 20 and row.planned.units.mean < row.today.units.mean for row in rows)
    assert all(row.new == row.old for row in found.offers if row.product != "coffee-0")


def test_an_offer_is_explained_by_a_curve_that_falls(model: Model, states: dict[str, Any]) -> None:
    found = ask(model, states, 2, product_id="tea-0", store_id="north")

    assert isinstance(found, ExplainResponse)
    units = [point.expected.units.mean for point in found.curve]
    assert len(units) > 3 and (np.diff(units) < 1e-4).all()
    assert found.elasticity.mean < -1.5 and len(found.rivals) == 3
    with pytest.raises(ValueError, match="sold in 2 stores, such as north, south: name one"):
        ask(model, states, 2, product_id="tea-0")


def test_the_golden_request_needs_no_store(model: Model) -> None:
    found = recommend(model, {}, **golden_request(model.schema).model_dump())

    assert len(found.prices) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"products": ["nobody"]}, "product_id 'nobody' has no stored offers"),
        ({"stores": ["east"]}, "store_id 'east' has no stored offers"),
        ({"products": ["tea-0"], "stores": ["east"]}, "store_id 'east' has no offers"),
        (
            {"products": ["tea-0"], "today": [{"product_id": "coffee-0", "price": 1}]},
            "today names product_id 'coffee-0'",
        ),
        (
            {"products": ["tea-0"], "today": [{"product_id": "tea-0", "known": {"rain": 1}}]},
            "'rain' is not known ahead",
        ),
        ({"today": [{"product_id": "tea-0", "price": 1}] * 3}, "today names product_id 'tea-0' 3 times"),
        (
            {"current": [{"product_id": "tea-0", "store_id": "north", "price": one} for one in (2, 3)]},
            "current names product_id 'tea-0' .*2 times",
        ),
        ({"offers": [{"product_id": "nobody", "price": 1}]}, "'nobody' is not known to the model"),
        ({"offers": [{"product_id": "tea-0", "store_id": "east", "price": 1}]}, "store_id 'east' is not known"),
        ({"offers": [{"product_id": "tea-0", "store_id": "north", "price": 1}] * 2}, "'tea-0' twice"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    model: Model, states: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(model, states, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"products": []},
        {"offers": [{"product_id": "tea-0", "price": 0}]},
        {"today": [{"product_id": "tea-0", "price": -1}]},
        {"x": 1},
    ],
)
def test_a_malformed_request_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ENDPOINTS[0].Request(**fields)


def test_a_model_without_evaluators_recommends_nothing(data: Prepared, states: dict[str, Any]) -> None:
    schema = schema_of(data)
    network = build(Config(network="usual", members=1, evaluators=0), schema)
    initialise(network, data, schema)

    found = recommend(Model(FAMILY, Config(), schema, network.eval()), states, products=["tea-0"])

    assert found.verdict == "none" and "train with --evaluators 10" in found.reason


def test_settings_at_auto_are_chosen_by_the_data(data: Prepared) -> None:
    schema = schema_of(data)

    assert resolve(Config(), schema).head == "log"
    assert resolve(Config(), schema.model_copy(update={"unit": 2.0})).head == "count"
    assert resolve(Config(), schema.model_copy(update={"unit": 2.0, "is_count": False})).head == "log"
    with pytest.raises(ValueError, match="--members is 1"):
        resolve(Config(members=1), schema)
    with pytest.raises(ValueError, match="--evaluators is 5"):
        Config(evaluators=5)


def test_the_report_has_elasticities_the_check_of_the_claim_and_the_blend(model: Model, data: Prepared) -> None:
    assert FAMILY.report is not None

    sections = FAMILY.report(model.network, data, "test", schema=model.schema, config=model.config)

    assert [section.title for section in sections] == ["Elasticities", "The claim is checked", "Blend"]
    assert sections[1].numbers["claim_low"] < sections[1].numbers["reestimated_gain"]
    assert 0 < sections[0].numbers["flagged_share"] < 1


def test_a_request_about_some_products_leaves_their_rivals_alone(model: Model, states: dict[str, Any]) -> None:
    found = recommend(model, states, products=["tea-0"], stores=["north"], rules=WITHIN)

    assert [(row.product, row.store) for row in found.prices] == [("tea-0", "north")]


def test_the_state_of_the_shop_is_the_same_by_product_store_and_in_all(states: dict[str, Any], data: Prepared) -> None:
    everything = {(row["product"], row["store"]): row for row in states["all"]["offers"]}

    assert len(everything) == len(list(stored_offers(data))) == 24
    of_store = {(row["product"], row["store"]): row for row in states["store:north"]["offers"]}
    assert of_store == {place: row for place, row in everything.items() if place[1] == "north"}
    group = {row["product"] for row in states["product:tea-1"]["offers"]}
    assert group == {"tea-0", "tea-1", "tea-2", "tea-3"}
    assert all(replace(offer).as_row() == everything[offer.product, offer.store] for offer in stored_offers(data))


def test_equal_sales_have_equal_fingerprints_and_others_another(shop: Shop, data: Prepared, tmp_path: Path) -> None:
    again = prepared_shop(shop, tmp_path / "again")
    other = prepared_shop(shop, tmp_path / "other", cost_share=0.5)

    assert schema_of(again) == schema_of(data)
    assert schema_of(other).fingerprint != schema_of(data).fingerprint
