"""Reviews of products: their sentiment with evidence, in Chinese and English."""

from __future__ import annotations

from models.family import Calibration, Family
from models.reviews.aspects.reading import FILE
from models.reviews.config import BASELINES, SPACE, UNUSED_SETTINGS, Config, pretraining_epochs
from models.reviews.data import collate, dataset, lengths
from models.reviews.endpoints import ENDPOINTS, FEATURES, golden_request
from models.reviews.erasure import ERASURE
from models.reviews.networks.build import build, evaluate, initialise, loss, resolve
from models.reviews.networks.sentiment import Sentiment
from models.reviews.prepare.pipeline import prepare
from models.reviews.prepare.settings import PrepareConfig
from models.reviews.report.metrics import ACCURACY, METRICS
from models.reviews.report.sections import report
from models.reviews.report.slices import ORDER, slices
from models.reviews.sample import sample
from models.reviews.schema import Schema

FAMILY = Family(
    name="reviews",
    metric=ACCURACY,
    metrics=METRICS,
    PrepareConfig=PrepareConfig,
    Config=Config,
    Schema=Schema,
    prepare=prepare,
    dataset=dataset,
    collate=collate,
    lengths=lengths,
    build=build,
    resolve=resolve,
    pretraining_epochs=pretraining_epochs,
    initialise=initialise,
    loss=loss,
    evaluate=evaluate,
    calibration=Calibration(Sentiment.calibration, Sentiment.calibrate),
    optimizer=Sentiment.optimizer,
    endpoints=ENDPOINTS,
    golden_request=golden_request,
    features=FEATURES,
    erasure=ERASURE,
    files=(FILE,),
    route_prefix="/v1/reviews",
    space=SPACE,
    unused_settings=UNUSED_SETTINGS,
    baselines=BASELINES,
    slices=slices,
    slice_order=ORDER,
    report=report,
    caveat="Some reviews are labelled wrongly, also in the test split, which bounds the accuracy that can be reached.",
    sample=sample,
)

__all__ = ["FAMILY"]
