"""Demand by product and period: forecasts with quantiles, for stock and for prices."""

from __future__ import annotations

from models.family import Calibration, Family, Gate
from models.forecast.config import BASELINES, SPACE, UNUSED_SETTINGS, Config
from models.forecast.data import check_data, collate, dataset
from models.forecast.endpoints import ENDPOINTS, FEATURES, golden_request
from models.forecast.networks.build import build, evaluate, initialise, loss, resolve
from models.forecast.networks.forecaster import Forecaster
from models.forecast.prepare.pipeline import prepare
from models.forecast.prepare.settings import PrepareConfig
from models.forecast.report.metrics import METRICS, QUANTILE_LOSS
from models.forecast.report.sections import report
from models.forecast.report.slices import ORDER, slices
from models.forecast.sample import sample
from models.forecast.schema import Schema

FAMILY = Family(
    name="forecast",
    metric=QUANTILE_LOSS,
    metrics=METRICS,
    PrepareConfig=PrepareConfig,
    Config=Config,
    Schema=Schema,
    prepare=prepare,
    resolve=resolve,
    dataset=dataset,
    collate=collate,
    build=build,
    initialise=initialise,
    loss=loss,
    evaluate=evaluate,
    calibration=Calibration(Forecaster.calibration, Forecaster.calibrate),
    endpoints=ENDPOINTS,
    golden_request=golden_request,
    features=FEATURES,
    check_data=check_data,
    route_prefix="/v1/forecasts",
    space=SPACE,
    unused_settings=UNUSED_SETTINGS,
    baselines=BASELINES,
    slices=slices,
    slice_order=ORDER,
    report=report,
    gate=Gate(max_latency_ms=100.0),
    caveat="Where stock ran out demand is not known, so these periods are neither counted here nor taken as zero.",
    sample=sample,
)

__all__ = ["FAMILY"]
