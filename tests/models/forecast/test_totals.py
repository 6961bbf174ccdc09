"""Totals over series: they add up, their intervals hold what they say, and models without them still load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.ask import Answerer
from models.evaluate import Model
from models.forecast import FAMILY
from models.forecast.config import Config
from models.forecast.data import Window, Windows, collate
from models.forecast.endpoints import FEATURES, ForecastRequest, ForecastResponse
from models.forecast.groups import all_groups, calibrated_groups
from models.forecast.networks.answers import COVERAGE, QUANTILES, total_of
from models.forecast.networks.build import build, resolve
from models.forecast.networks.forecaster import Forecaster
from models.forecast.schema import KNOWN, Schema
from models.prepared import Prepared
from models.report import Table
from tests.models.forecast.kit import DAILY, prepared, schema_of

DAYS, HORIZON, NUM_SERIES = 60, 5, 40
WORLD = DAILY.model_copy(
    update={
        "num_periods": 900,
        "horizon": HORIZON,
        "val_origins": [100 + 10 * number for number in range(60)],
        "test_origins": [800],
        "static": {"category": ["", "tea", "cups"]},
        "has_stores": True,
        "stores": ["1", "2"],
    }
)


def world(seed: int, *, shock: float) -> Windows:
    """Windows of 40 series at 60 origins, whose demand is moved by a common factor of each period."""
    draw = np.random.default_rng(seed)
    windows = []
    for origin in WORLD.val_origins:
        factor = np.exp(draw.normal(0, shock, HORIZON) - shock**2 / 2) if shock else np.ones(HORIZON)
        for number in range(NUM_SERIES):
            mean = 5.0 + number % 7
            windows.append(
                Window(
                    units=draw.poisson(mean, 200).astype(np.float32),
                    status=np.full(200, KNOWN, np.uint8),
                    known=np.zeros((200 + HORIZON, WORLD.num_known), np.float32),
                    static=np.array([number % 3], np.int64),
                    target=draw.poisson(mean * factor).astype(np.float32),
                    target_status=np.full(HORIZON, KNOWN, np.uint8),
                    naive_scale=10.0,
                    start=origin,
                    store=number % 2,
                )
            )
    return collate(windows)


def network(**settings: Any) -> Forecaster:
    config = Config(network="ets", context=200, blend=False)
    found = build(config, WORLD.model_copy(update=settings)).eval()
    assert isinstance(found, Forecaster)
    return found


def coverage(model: Forecaster, batch: Windows) -> float:
    """The share of periods in which the total of everything is in its 90 % interval."""
    forecasts = model.predict(batch)
    inside = []
    for start in range(0, len(forecasts), NUM_SERIES):
        whole = total_of(forecasts[start : start + NUM_SERIES], "all")
        units = batch.target[start : start + NUM_SERIES].sum(0).numpy()
        inside.append((units >= whole.interval[:, 0]) & (units <= whole.interval[:, 1]))
    return float(np.mean(inside))


def test_intervals_of_totals_hold_nine_in_ten_although_errors_go_together() -> None:
    before, after = [], []
    for seed in range(3):
        model, fresh = network(), world(100 + seed, shock=0.25)
        before.append(coverage(model, fresh))
        model.calibrate(model.calibration(world(10 + seed, shock=0.25)))
        after.append(coverage(model, fresh))
        assert 0.18 < model.totals.of("all").common < 0.32

    assert np.mean(before) < 0.5
    assert abs(np.mean(after) - 0.9) < 0.03


def test_intervals_of_totals_of_independent_series_stay_far_below_the_sum_of_the_quantiles() -> None:
    model, fresh = network(), world(2, shock=0.0)

    model.calibrate(model.calibration(world(1, shock=0.0)))

    assert abs(coverage(model, fresh) - 0.9) < 0.05
    forecasts = model.predict(fresh)[:NUM_SERIES]
    whole = total_of(forecasts, "all")
    width = whole.interval[:, 1] - whole.interval[:, 0]
    assert (width < 0.4 * sum(each.interval[:, 1] - each.interval[:, 0] for each in forecasts)).all()
    assert (np.diff(whole.quantiles, axis=1) >= 0).all()
    assert len(whole.quantiles[0]) == len(QUANTILES) and COVERAGE == 0.9


def test_a_kind_with_few_totals_on_validation_shares_those_of_all_and_without_any_says_so() -> None:
    one = network(val_origins=WORLD.val_origins[:3])
    whole = world(1, shock=0.25)
    batch = replace(whole, **{name: getattr(whole, name)[: 3 * NUM_SERIES] for name in whole.__dataclass_fields__})

    one.calibrate(one.calibration(batch))

    assert not one.totals.of("all").is_own and one.totals.of("all").num_totals == 3 * HORIZON * 6
    nothing = network().totals.of("store")
    assert nothing.num_totals == 0 and nothing.common == 0


def test_sums_of_parts_of_validation_are_those_of_the_whole() -> None:
    model, batch = network(), world(1, shock=0.1)
    halves = [
        replace(batch, **{name: getattr(batch, name)[part] for name in batch.__dataclass_fields__})
        for part in (slice(0, 1000), slice(1000, None))
    ]

    whole, parts = model.calibration(batch), [model.calibration(half) for half in halves]

    assert torch.allclose(whole, parts[0] + parts[1], rtol=1e-5, atol=1e-6)


def test_weights_of_a_model_from_before_there_were_totals_load() -> None:
    model = network()
    old = {name: value for name, value in model.state_dict().items() if not name.startswith("totals.")}

    loaded = network()
    loaded.load_state_dict(old, strict=True)

    assert loaded.totals.of("all").num_totals == 0
    with pytest.raises(RuntimeError, match=r"totals\.levels"):
        loaded.load_state_dict({**old, "totals.common": model.totals.common}, strict=True)


def test_schemas_from_before_there_were_totals_have_no_stores_to_calibrate() -> None:
    old = Schema.model_validate({key: value for key, value in WORLD.model_dump().items() if key != "stores"})

    assert {kind for kind, _ in all_groups(old)} == {"all", "category"}
    assert calibrated_groups(old.model_copy(update={"horizon": 400, "val_origins": [*range(20)]})) == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Three products in two stores; cups have no category."""
    folder = tmp_path_factory.mktemp("shop")
    lines = ["store_id,product_id,date,units"]
    for place, product in enumerate(("green", "black", "cups")):
        for store in (1, 2):
            for day in range(DAYS):
                date = np.datetime64("2024-01-01") + day
                lines.append(f"{store},{product},{date},{(place + 1) * store * (1 + day % 7)}")
    (folder / "sales.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "products.csv").write_text("product_id,category\ngreen,tea\nblack,tea\ncups,\n", encoding="utf-8")
    settings = {"raw": str(folder / "sales.csv"), "products": str(folder / "products.csv")}
    return prepared(folder / "data", **settings, horizon=5, windows=2)


@pytest.fixture(scope="module")
def model(data: Prepared) -> Model:
    schema = schema_of(data)
    config = resolve(Config(network="ets", blend=False), schema)
    return Model(FAMILY, config, schema, build(config, schema).eval())


@pytest.fixture(scope="module")
def features(data: Prepared) -> dict[str, Any]:
    return {each.name: dict(each.rows(data)) for each in FEATURES if each.rows is not None}


def ask(model: Model, features: dict[str, Any], **fields: Any) -> ForecastResponse:
    request = ForecastRequest(**fields)
    asked = {feature.name: feature.keys(request) for feature in FEATURES}
    found = {name: {key: value[key] for key in asked[name] if key in value} for name, value in features.items()}
    response = Answerer(FAMILY, FAMILY.endpoints[0], model.network, model.schema, "7")(request, found)
    assert isinstance(response, ForecastResponse)
    return response


def test_totals_add_up_by_category_by_store_and_by_product(model: Model, features: dict[str, Any]) -> None:
    def means(**fields: Any) -> Any:
        return np.array([period.mean for period in ask(model, features, **fields).periods])

    whole = means(total="all")

    assert np.allclose(whole, means(total="category", total_of="tea") + means(total="category"))
    assert np.allclose(whole, means(total="store", total_of="1") + means(total="store", total_of=2))
    assert np.allclose(whole, sum(means(product_id=product) for product in ("green", "black", "cups")))
    found = ask(model, features, total="category", total_of="tea", horizon=2)
    assert (found.num_series, len(found.periods), found.source) == (4, 2, "stored")
    assert found.note is not None and "too few totals" in found.note
    assert ask(model, features, product_id="green").num_series is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"total": "store"}, "`total` is 'store': send the store as `total_of`"),
        ({"total": "category", "total_of": "coffee"}, "no histories of the category 'coffee' are stored"),
        ({"total": "store", "total_of": "9"}, "no histories of the store '9' are stored; check the spelling"),
        ({"total": "all", "total_of": "1"}, "leave it out, or name its kind"),
        ({"total": "all", "product_id": "green"}, "`product_id` is of a single product"),
        ({"total": "store", "store_id": "1"}, "`store_id` is of a single product"),
        ({"total": "all", "lead_time": 2}, "`lead_time` is of a single product"),
        ({"total_of": "tea"}, "`total_of` names a category or store; send `total`"),
    ],
)
def test_totals_that_cannot_be_answered_are_refused(
    model: Model, features: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(model, features, **fields)


def test_a_total_of_too_many_series_is_refused_with_the_way_out(model: Model, features: dict[str, Any]) -> None:
    large = {**features, "totals": {"all:": {"num_series": 7_000, "series": []}}}

    with pytest.raises(ValueError, match="7,000 series, and a total here sums 5,000 at most; ask for smaller"):
        ask(model, large, total="all")


def test_the_report_compares_totals_with_their_seasonal_naive(model: Model, data: Prepared) -> None:
    assert FAMILY.report is not None

    sections = FAMILY.report(model.network, data, "test", schema=model.schema, config=model.config)

    totals = next(section for section in sections if section.title == "Totals")
    rows = {str(row[0]): row[1:] for row in next(each for each in totals.content if isinstance(each, Table)).rows}
    assert [rows[kind][0] for kind in ("category", "store", "all")] == [2, 2, 1]
    # Demand repeats itself by the week, so the naive total is right.
    assert totals.numbers["naive_total_wape_all"] == 0
    assert rows["all"][1] == 2 * 5


def test_the_fingerprint_of_sales_is_the_one_before_there_were_totals(data: Prepared) -> None:
    assert schema_of(data).stores == ["1", "2"]
    assert schema_of(data).fingerprint.startswith("93ed6eefa8f5c386")
