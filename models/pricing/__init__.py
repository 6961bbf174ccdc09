"""Prices: demand at any price, recommended prices under rules, and the check of what they claim to gain."""

from __future__ import annotations

from models.family import Calibration, Family, Gate
from models.pricing.config import BASELINES, SPACE, UNUSED_SETTINGS, Config
from models.pricing.data import check_data, collate, dataset
from models.pricing.endpoints import ENDPOINTS, FEATURES, golden_request
from models.pricing.networks.build import build, evaluate, initialise, loss, resolve, update_statistics
from models.pricing.networks.price_model import PriceModel
from models.pricing.prepare.pipeline import prepare
from models.pricing.prepare.settings import PrepareConfig
from models.pricing.report.metrics import METRICS, WAPE
from models.pricing.report.sections import report
from models.pricing.report.slices import ORDER, slices
from models.pricing.sample import sample
from models.pricing.schema import Schema

FAMILY = Family(
    name="pricing",
    metric=WAPE,
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
    update_statistics=update_statistics,
    loss=loss,
    evaluate=evaluate,
    calibration=Calibration(PriceModel.share_errors, PriceModel.choose_share),
    endpoints=ENDPOINTS,
    golden_request=golden_request,
    features=FEATURES,
    check_data=check_data,
    route_prefix="/v1/prices",
    space=SPACE,
    unused_settings=UNUSED_SETTINGS,
    baselines=BASELINES,
    slices=slices,
    slice_order=ORDER,
    report=report,
    gate=Gate(max_latency_ms=5_000.0),
    caveat="Prices were not set at random: what moved both prices and demand, and is in no column, is taken for an "
    "effect of prices. Only an experiment can tell.",
    sample=sample,
)

__all__ = ["FAMILY"]
