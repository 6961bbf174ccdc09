"""The endpoint of forecasts: what is known of a product, what a request brings, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.ask import Answerer
from models.evaluate import Model
from models.family import Features
from models.forecast import FAMILY
from models.forecast.config import Config
from models.forecast.data import series_rows, store_rows
from models.forecast.endpoints import FEATURES, ForecastRequest, ForecastResponse, golden_request
from models.forecast.networks.build import build, resolve
from models.forecast.sample import Shop, write_sample
from models.prepared import Prepared
from tests.models.forecast.kit import prepared, schema_of


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return write_sample(tmp_path_factory.mktemp("shop"), num_days=150)


@pytest.fixture(scope="module")
def data(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    settings = {"raw": str(shop.sales), "products": str(shop.products), "calendar": str(shop.calendar)}
    return prepared(tmp_path_factory.mktemp("data") / "data", **settings, horizon=14)


@pytest.fixture(scope="module")
def model(data: Prepared) -> Model:
    schema = schema_of(data)
    config = resolve(Config(dim=16, blend=False), schema)
    return Model(FAMILY, config, schema, build(config, schema).eval())


@pytest.fixture(scope="module")
def stored(data: Prepared) -> dict[str, Any]:
    return dict(series_rows(data))


def ask(model: Model, features: Features | None = None, **fields: Any) -> ForecastResponse:
    request = ForecastRequest(**fields)
    answerer = Answerer(FAMILY, FAMILY.endpoints[0], model.network, model.schema, "7")
    asked = {feature.name: feature.keys(request) for feature in FEATURES}
    found = {name: {key: value[key] for key in asked[name] if key in value} for name, value in (features or {}).items()}
    response = answerer(request, found)
    assert isinstance(response, ForecastResponse)
    return response


def test_a_known_product_is_forecast_from_the_day_after_the_sales(
    model: Model, stored: dict[str, Any], shop: Shop
) -> None:
    found = ask(model, {"series": stored}, product_id=shop.ids[0], horizon=3)

    assert [period.date for period in found.periods] == ["2024-05-30", "2024-05-31", "2024-06-01"]
    assert found.source == "stored" and found.order is None
    for period in found.periods:
        assert 0 <= period.lower <= period.q25 <= period.q50 <= period.q75 <= period.upper <= period.q99
        assert period.mean > 0


def test_a_history_of_the_request_gives_the_forecast_of_the_stored_one(
    model: Model, stored: dict[str, Any], shop: Shop
) -> None:
    product = shop.ids[1]
    value = stored[product]
    promotion = value["ahead"]["promotion"]
    sent = {
        "history": [
            None if status == "0" else unit for unit, status in zip(value["units"], value["status"], strict=True)
        ],
        "sold_out": [place for place, status in enumerate(value["status"]) if status == "2"],
        "attributes": value["static"],
        "known": {"promotion": promotion[len(value["units"]) :]},
    }

    ours, theirs = ask(model, {"series": stored}, product_id=product), ask(model, **sent)

    # Past promotions are not sent, and may matter a little.
    assert [period.date for period in ours.periods] == [period.date for period in theirs.periods]
    for one, other in zip(ours.periods, theirs.periods, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=0.2)


def test_more_stock_orders_less_and_a_higher_service_level_more(
    model: Model, stored: dict[str, Any], shop: Shop
) -> None:
    def order(**fields: Any) -> ForecastResponse:
        return ask(model, {"series": stored}, product_id=shop.ids[0], lead_time=5, **fields)

    plain, stocked, safe = order(), order(stock=20), order(service_level=0.99)

    assert plain.order is not None and plain.needed_stock is not None and plain.expected_demand is not None
    assert plain.needed_stock > plain.expected_demand > 0
    assert stocked.order == max(0, plain.order - 20)
    assert safe.order is not None and safe.order > plain.order
    assert order(stock=1e6).order == 0


def test_the_golden_request_needs_no_store(model: Model) -> None:
    found = ask(model, **golden_request(model.schema).model_dump())

    assert len(found.periods) == 14 and found.source == "request" and found.order is not None


def test_a_forecast_may_start_at_another_date(model: Model) -> None:
    found = ask(model, history=[1, 2, 3], start="2025-12-24", horizon=2)

    assert [period.date for period in found.periods] == ["2025-12-24", "2025-12-25"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "send a product_id"),
        ({"product_id": "nobody"}, "'nobody' has no stored history; send a `history`"),
        ({"product_id": "tea-00", "horizon": 15}, "the model forecasts 14 days at most"),
        ({"product_id": "tea-00", "lead_time": 15}, "lead_time is 15"),
        ({"history": [None, None]}, "no known period"),
        ({"history": [1], "sold_out": [1]}, "sold_out has 1"),
        ({"history": [1], "known": {"weather": [1]}}, "'weather' is not known ahead; the model knows promotion"),
        ({"history": [1], "known": {"promotion": [1] * 15}}, "has 15 values"),
        ({"history": [1], "start": "tomorrow"}, "'tomorrow' is not a date"),
        ({"history": [1], "start": "9999-12-31"}, "start '9999-12-31' is too late"),
        ({"history": [1, 2], "sold_out": [0, 1]}, "stock ran out in every known period of the history"),
        ({"history": [1], "attributes": {"weight": "5"}}, "no attribute 'weight'"),
        ({"product_id": "tea-00", "start": "2030-01-01"}, "`start` is for a history of the request"),
        ({"product_id": "tea-00", "sold_out": [0]}, "`sold_out` is for a history of the request"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    model: Model, stored: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(model, {"series": stored}, **fields)


def test_stored_histories_of_other_periods_are_refused(model: Model, stored: dict[str, Any]) -> None:
    monthly = {key: {**value, "period": "month"} for key, value in stored.items()}

    with pytest.raises(ValueError, match="forecasts days and the stored histories are by month"):
        ask(model, {"series": monthly}, product_id="tea-00")


@pytest.mark.parametrize(
    "fields",
    [
        {"history": []},
        {"history": [-1]},
        {"history": [1], "horizon": 0},
        {"history": [1], "service_level": 2},
        {"x": 1},
    ],
)
def test_a_malformed_request_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ForecastRequest(**fields)


def test_the_forecast_of_all_stores_is_the_sum_of_theirs(tmp_path: Path) -> None:
    raw = tmp_path / "sales.csv"
    lines = [f"{store},a,2024-01-{day:02d},{store * (day % 4)}" for store in (1, 2, 10) for day in range(1, 31)]
    raw.write_text("\n".join(["store_id,product_id,date,units", *lines]), encoding="utf-8")
    data = prepared(tmp_path / "data", raw=str(raw), horizon=4)
    schema = schema_of(data)
    config = resolve(Config(dim=16, blend=False), schema)
    of_stores = Model(FAMILY, config, schema, build(config, schema).eval())
    features = {"series": dict(series_rows(data)), "stores": dict(store_rows(data))}

    whole = ask(of_stores, features, product_id="a", lead_time=3)
    parts = [ask(of_stores, features, product_id="a", store_id=store, lead_time=3) for store in ("1", "2", "10")]

    for step, period in enumerate(whole.periods):
        assert period.mean == pytest.approx(sum(part.periods[step].mean for part in parts))
        assert period.q95 < sum(part.periods[step].q95 for part in parts)
    assert whole.expected_demand == pytest.approx(sum(part.expected_demand or 0 for part in parts))
    with pytest.raises(ValueError, match="in the store '3' has no stored history"):
        ask(of_stores, features, product_id="a", store_id="3")


def test_the_report_has_coverage_service_levels_and_blends(model: Model, data: Prepared, tmp_path: Path) -> None:
    assert FAMILY.report is not None

    sections = FAMILY.report(model.network, data, "test", schema=model.schema, config=model.config)

    assert [section.title for section in sections] == [
        "Intervals and quantiles",
        "Stock at service levels",
        "Periods ahead",
        "Totals",
        "Chosen by class of demand",
    ]
    assert 0 < sections[0].numbers["coverage_90"] <= 1
    assert abs(sections[0].numbers["bias"]) < 1
