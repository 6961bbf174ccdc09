"""Next-item recommendation from behaviour logs."""

from __future__ import annotations

from models.family import Calibration, Family
from models.items.hook import LiveItems
from models.recommender.auto_settings import resolve
from models.recommender.config import BASELINES, SPACE, UNUSED_SETTINGS, Config
from models.recommender.data import collate, dataset
from models.recommender.endpoints import ENDPOINTS, FEATURES, golden_request
from models.recommender.erasure import ERASURE
from models.recommender.live.catalogue import FEATURE, open_catalogue
from models.recommender.networks.build import build, calibration, evaluate, initialise, loss
from models.recommender.networks.recommender import Recommender
from models.recommender.new_events import EVENTS
from models.recommender.prepare.pipeline import prepare
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.report.metrics import METRICS, NDCG_AT_10
from models.recommender.report.sections import report
from models.recommender.report.slices import ORDER, slices
from models.recommender.report.summary import summarise
from models.recommender.sample import sample
from models.recommender.schema import Schema

FAMILY = Family(
    name="recommender",
    metric=NDCG_AT_10,
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
    calibration=Calibration(calibration, Recommender.calibrate),
    endpoints=ENDPOINTS,
    golden_request=golden_request,
    features=FEATURES,
    erasure=ERASURE,
    events=EVENTS,
    items=LiveItems(FEATURE, open_catalogue),
    space=SPACE,
    unused_settings=UNUSED_SETTINGS,
    baselines=BASELINES,
    slices=slices,
    slice_order=ORDER,
    report=report,
    summarise=summarise,
    caveat="Past behaviour was shaped by what the shop showed then: a better score here is a reason to try a model, "
    "not proof of more sales.",
    sample=sample,
)

__all__ = ["FAMILY"]
