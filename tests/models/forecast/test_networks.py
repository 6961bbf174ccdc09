"""The forecast family's networks and baselines: what they learn, and that their numbers are those of the methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from jobs.evaluation.baselines import fitted
from models.evaluate import Model
from models.forecast import FAMILY
from models.forecast.config import Config
from models.forecast.data import Window, Windows, collate, dataset
from models.forecast.networks.build import build, resolve
from models.forecast.networks.distributions import LEVELS, Distribution, quantile_losses
from models.forecast.networks.forecaster import OPTIONS, SUMS, Forecaster
from models.forecast.networks.simple import NAMES, exponential_smoothing, seasonal_naive, simple_forecasts, tsb_level
from models.forecast.networks.tree import SETTINGS, Trees
from models.forecast.sample import LIFT, Shop, write_sample
from models.forecast.schema import CENSORED, KNOWN
from models.metrics import BatchMetrics
from models.prepared import Prepared
from models.raw.demand import CLASSES
from tests.conftest import CHECKOUT
from tests.models.forecast.kit import DAILY, prepared, scores_of, trained

GOLDEN = CHECKOUT / "tests" / "golden" / "losses"
HORIZON = DAILY.horizon
SCHEMA = DAILY.model_copy(update={"ahead": ["promotion"], "ahead_scale": [1.0]})
SMALL = Config(context=28, dim=16, num_blocks=1, dropout=0.0, blend=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return write_sample(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def data(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    settings = {"raw": str(shop.sales), "products": str(shop.products), "calendar": str(shop.calendar)}
    return prepared(tmp_path_factory.mktemp("data") / "data", **settings, horizon=14, windows=2)


@pytest.fixture(scope="module")
def tide(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Model:
    settings: dict[str, Any] = {"epochs": 8, "learning_rate": 4e-3, "dropout": 0.0, "dim": 32, "num_blocks": 1}
    return trained(data, tmp_path_factory.mktemp("run"), **settings, windows_per_epoch=4000, blend=False)


def drawn(count: int, *, seed: int, length: int = 28, horizon: int = HORIZON, mean: float = 6.0) -> Windows:
    """Windows of Poisson demand with a strong week and promotions."""
    draw = np.random.default_rng(seed)
    windows = []
    for _ in range(count):
        start = int(draw.integers(100, 150))
        promoted = draw.random(length + horizon) < 0.2
        time = SCHEMA.time_features(start - length, start + horizon)
        level = mean * np.array([1, 1, 1, 1, 2, 3, 0.5])[time[:, :7].argmax(1)] * np.where(promoted, LIFT, 1)
        units = draw.poisson(level * draw.lognormal(0, 0.3)).astype(np.float32)
        status = np.full(length, KNOWN, np.uint8)
        windows.append(
            Window(
                units=units[:length],
                status=status,
                known=np.concatenate([time, promoted[:, None]], 1).astype(np.float32),
                static=np.array([1], np.int64),
                target=units[length:],
                target_status=np.full(horizon, KNOWN, np.uint8),
                naive_scale=20.0,
                start=start,
            )
        )
    return collate(windows)


def history(units: list[float], *, horizon: int = HORIZON) -> Windows:
    """One window with this history."""
    length = len(units)
    return collate(
        [
            Window(
                units=np.array(units, np.float32),
                status=np.full(length, KNOWN, np.uint8),
                known=np.zeros((length + horizon, SCHEMA.num_known), np.float32),
                static=np.zeros(1, np.int64),
                target=np.zeros(horizon, np.float32),
                target_status=np.zeros(horizon, np.uint8),
            )
        ]
    )


@pytest.mark.parametrize("network", ["tide", "rnn"])
@pytest.mark.parametrize("head", ["count", "quantile"])
def test_the_first_losses_equal_the_golden_ones(network: Any, head: Any) -> None:
    torch.manual_seed(0)
    model = build(replace(SMALL, network=network, head=head), SCHEMA).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(20):
        loss = model.loss(drawn(32, seed=step))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    expected = np.loadtxt(GOLDEN / f"forecast_{network}_{head}.txt")
    assert np.allclose(losses, expected, rtol=5e-3), f"losses are now {[round(loss, 4) for loss in losses]}"


def test_a_trained_network_is_close_to_the_best_possible_forecast_and_baselines_are_not(
    tide: Model, data: Prepared
) -> None:
    network = scores_of(tide, data)
    average = scores_of(fitted(FAMILY, FAMILY.baselines["moving average"], data), data)

    # The mean demand itself has 0.70: nothing can be clearly better.
    assert network.ratio("rmsse") < 0.8 < 1.0 < average.ratio("rmsse")
    loss = FAMILY.metric
    assert network.value(loss) < 0.6 * average.value(loss)
    assert network.num_counted(loss) == network.num_examples  # also windows in which nothing was sold


def test_a_promotion_that_is_known_ahead_lifts_the_forecast_as_it_lifted_demand(tide: Model, data: Prepared) -> None:
    windows = dataset(data, "test", range(8), schema=tide.schema, config=tide.config, epoch=0)
    batch = collate([windows[row] for row in range(len(windows))])
    known = {value: batch.known.clone() for value in (0.0, 1.0)}
    for value, each in known.items():
        each[:, -tide.schema.horizon :, -1] = value

    plain, promoted = (
        tide.network.answers(replace(batch, known=known[value])).distribution.mean for value in (0.0, 1.0)
    )

    is_frequent = plain.mean(1) > 2
    assert 0.75 * LIFT < np.median((promoted / plain)[is_frequent]) < 1.25 * LIFT


def test_intervals_hold_nine_in_ten_periods(tide: Model, data: Prepared) -> None:
    kept = scores_of(tide, data).kept

    assert 0.84 < kept["num_inside"].sum() / kept["num_known"].sum() < 0.96


def test_conformal_levels_mend_a_forecast_that_is_too_sure() -> None:
    draw = np.random.default_rng(0)
    model = build(replace(SMALL, network="moving-average"), SCHEMA).eval()

    def noisy(seed: int) -> Windows:
        batch = drawn(400, seed=seed)
        noise = torch.from_numpy(draw.lognormal(0, 1, batch.target.shape).astype(np.float32))
        return replace(batch, target=(batch.target * noise).round())

    def coverage() -> float:
        kept = model.evaluate(noisy(2)).kept
        return float(kept["num_inside"].sum() / kept["num_known"].sum())

    before = coverage()
    model.calibrate(model.calibration(noisy(1)))

    assert before < 0.85
    assert abs(coverage() - 0.9) < 0.03


def test_a_class_of_demand_is_blended_as_validation_says() -> None:
    model = build(replace(SMALL, blend=True), SCHEMA).eval()
    sums = torch.zeros(len(CLASSES), len(OPTIONS), SUMS + model.totals.size, dtype=torch.float64)
    sums[:, :, 0], sums[:, :, 1] = 100.0, 1000.0
    sums[0, 1, 0], sums[2, 1, 0] = 50.0, 99.5
    sums[3, :, 1], sums[3, 4, 0] = 10.0, 60.0

    model.calibrate(sums)

    # Half the error is chosen, half a per cent is not, and a class of few periods follows all.
    assert model.option.tolist() == [1, 0, 0, 1, 0]


def test_the_blended_mean_is_made_of_the_shares() -> None:
    model = build(replace(SMALL, blend=True), SCHEMA).eval()
    batch = drawn(5, seed=3)
    option = next(row for row, shares in enumerate(OPTIONS) if shares[1 + NAMES.index("tsb")] == 1)
    model.option.fill_(option)

    found = model.answers(batch).distribution.mean

    expected = tsb_level(batch.units, torch.ones_like(batch.units))
    assert np.allclose(found, expected[:, None].expand(-1, HORIZON), rtol=1e-5)


def test_training_that_knows_of_stock_outs_does_not_learn_the_sales_as_demand() -> None:
    found = {}
    for name in ("censored", "as sales"):
        torch.manual_seed(0)
        model = build(replace(SMALL, head="count"), SCHEMA).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(60):
            batch = drawn(64, seed=step)
            is_out = torch.rand(batch.target.shape, generator=torch.Generator().manual_seed(step)) < 0.5
            sold = torch.where(is_out, (batch.target * 0.3).round(), batch.target)
            status = torch.where(is_out & (name == "censored"), CENSORED, KNOWN).to(torch.uint8)
            loss = model.loss(replace(batch, target=sold, target_status=status))
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        batch = drawn(300, seed=1000)
        found[name] = float(model.eval().answers(batch).distribution.mean.sum() / batch.target.sum())

    assert found["as sales"] < 0.75
    assert 0.88 < found["censored"] < 1.12


def test_above_a_censored_target_no_quantile_loses() -> None:
    quantiles, levels = torch.tensor([[[1.0, 9.0]]]), torch.tensor([0.5, 0.9])

    found = quantile_losses(quantiles, torch.tensor([[4.0]]), torch.tensor([[True]]), levels)

    assert found.flatten().tolist() == pytest.approx([1.5, 0.0])


def test_quantiles_of_a_distribution_are_those_it_counts_below() -> None:
    mean = np.array([[0.3, 5.0, 80.0]])
    counts = Distribution(mean, dispersion=np.array([[0.5, 2.0, 10.0]]))
    level = np.full((1, 3, 1), 0.8)

    units = counts.quantile(level)[..., 0]

    assert (counts.below(units) < 0.8).all() and (counts.at_most(units) >= 0.8).all()
    assert np.allclose(counts.variance(), mean + mean**2 / [[0.5, 2.0, 10.0]])
    learned = Distribution(mean, quantiles=np.linspace(0, 14, len(LEVELS))[None, None].repeat(3, 1), step=0.0)
    assert np.allclose(learned.below(learned.quantile(level)[..., 0]), 0.8)


def test_simple_forecasts_are_those_of_their_methods() -> None:
    week = [1.0, 2, 3, 4, 5, 6, 14]
    batch = history(week * 8)

    found = dict(zip(NAMES, simple_forecasts(batch, 7)[0].unbind(-1), strict=True))

    assert torch.allclose(found["mean"], torch.full((HORIZON,), 5.0))
    assert torch.allclose(found["last season"], torch.full((HORIZON,), 5.0))
    shrunk = [(8 * unit + 5) / 9 for unit in week[:HORIZON]]
    assert found["same season"].tolist() == pytest.approx(shrunk, rel=1e-5)
    assert seasonal_naive(batch, 7)[0].tolist() == week[:HORIZON]
    assert exponential_smoothing(history((week * 8)[:-2]), 7)[0].tolist() == pytest.approx([6, 14, 1, 2], abs=0.8)


def test_tsb_lets_the_level_fall_while_nothing_is_sold() -> None:
    sold = [0.0, 0, 6, 0, 0, 6] * 5

    busy, quiet = (
        tsb_level(batch.units, torch.ones_like(batch.units)) for batch in (history(sold), history(sold + [0] * 40))
    )

    assert 1.2 < float(busy) < 3.5
    assert float(quiet) < 0.5 * float(busy)


def test_stored_trees_answer_as_those_of_scikit_learn() -> None:
    batch = drawn(300, seed=4)
    trees = Trees(SCHEMA)
    trees.fit([batch])
    simple = simple_forecasts(batch, SCHEMA.season)
    level = trees(batch, simple) / torch.from_numpy(_levels(batch))[:, None]

    rows = trees.rows(batch, simple).flatten(0, 1).double().numpy()
    targets = (batch.target / torch.from_numpy(_levels(batch))[:, None]).double().flatten().numpy()
    model = HistGradientBoostingRegressor(**SETTINGS).fit(rows, targets)

    assert np.allclose(level.flatten().numpy(), model.predict(rows), rtol=1e-4)


def test_a_series_of_zeros_is_forecast_as_almost_nothing() -> None:
    for network in ("tide", "rnn", *(config.network for config in FAMILY.baselines.values())):
        model = build(replace(SMALL, network=network), SCHEMA).eval()
        assert isinstance(model, Forecaster)

        found = model.answers(history([0.0] * 28))

        assert np.isfinite(found.distribution.mean).all()
        assert (found.quantiles[..., :4] == 0).all(), network


def test_settings_at_auto_are_chosen_by_the_data() -> None:
    counted = resolve(Config(), SCHEMA)
    weighed = resolve(Config(), SCHEMA.model_copy(update={"is_count": False, "period": "month", "val_origins": [20]}))

    assert (counted.head, counted.context) == ("count", 84)
    assert (weighed.head, weighed.context) == ("quantile", 16)


def _levels(batch: Windows) -> np.typing.NDArray[np.float32]:
    from models.forecast.networks.simple import levels

    found: np.typing.NDArray[np.float32] = levels(batch, SCHEMA.unit).numpy()
    return found


def test_metrics_are_those_of_their_definitions() -> None:
    model = build(replace(SMALL, network="moving-average"), SCHEMA).eval()
    target = torch.tensor([[4.0, 6.0, 0.0, 9.0]])
    status = torch.tensor([[KNOWN, KNOWN, KNOWN, CENSORED]], dtype=torch.uint8)
    batch = replace(history([5.0] * 28), target=target, target_status=status, naive_scale=torch.tensor([4.0]))

    found = model.evaluate(batch)
    values = {metric.name: metric.computed(_kept(found)) for metric in FAMILY.all_metrics if metric.compute}
    values |= {name: float(ratio.numerator.sum() / ratio.denominator.sum()) for name, ratio in found.ratios.items()}

    # The mean is 5 in each period; the last one, in which stock ran out, does not count.
    assert values["rmsse"] == values["pooled_rmsse"] == pytest.approx(((1 + 1 + 25) / 3 / 4) ** 0.5)
    assert values["wape"] == pytest.approx(7 / 10) and values["absolute_bias"] == pytest.approx(5 / 10)
    assert values["rmse_of_sales"] == pytest.approx(1.0)
    assert values["median_loss"] == pytest.approx(0.5 * (1 + 1 + 5) / 3)
    assert values["coverage_gap"] == pytest.approx(abs(2 / 3 - 0.9))


def _kept(found: BatchMetrics) -> dict[str, np.typing.NDArray[np.float64]]:
    return {name: value.numpy() for name, value in found.kept.items()}
