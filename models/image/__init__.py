"""The image family: attributes, titles and descriptions of product images, and visually similar products."""

from __future__ import annotations

from models.family import Calibration, Family, Index
from models.image.config import BASELINES, SPACE, UNUSED_SETTINGS, Config
from models.image.data import collate, dataset
from models.image.endpoints import ENDPOINTS, golden_request
from models.image.networks.build import (
    build,
    calibrate,
    calibration,
    evaluate,
    initialise,
    loss,
    optimizer,
    update_statistics,
)
from models.image.prepare.pipeline import PrepareConfig, prepare
from models.image.report.contents import report
from models.image.report.metrics import ACCURACY, METRICS
from models.image.report.slices import ORDER, slices
from models.image.report.summary import summarise
from models.image.sample import sample
from models.image.schema import Schema
from models.image.similarity_index import attach_index, write_index

FAMILY = Family(
    name="image",
    metric=ACCURACY,
    metrics=METRICS,
    PrepareConfig=PrepareConfig,
    Config=Config,
    Schema=Schema,
    prepare=prepare,
    dataset=dataset,
    collate=collate,
    build=build,
    initialise=initialise,
    loss=loss,
    evaluate=evaluate,
    update_statistics=update_statistics,
    calibration=Calibration(calibration, calibrate),
    optimizer=optimizer,
    endpoints=ENDPOINTS,
    golden_request=golden_request,
    route_prefix="/v1/images",
    index=Index(write_index, attach_index),
    space=SPACE,
    unused_settings=UNUSED_SETTINGS,
    baselines=BASELINES,
    slices=slices,
    slice_order=ORDER,
    summarise=summarise,
    report=report,
    sample=sample,
)

__all__ = ["FAMILY"]
