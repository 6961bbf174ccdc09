"""Pictures of products: what they show, how it is said in words, and which products look alike."""

from __future__ import annotations

from models.family import Gate, Metric
from models.image.codec import colour_card, encode_png
from models.image.config import BASELINES, SPACE, Config
from models.image.data import collate, dataset
from models.image.endpoints import ENDPOINTS, FEATURES, RecognitionRequest
from models.image.networks.build import build, initialise, settle
from models.image.prepare.pipeline import PrepareConfig, prepare
from models.image.report.contents import sections
from models.image.report.slices import slices
from models.image.report.summary import summarise
from models.image.sample import sample
from models.image.schema import Schema
from models.image.similarity_index import attach_index, write_index

NAME = "image"
METRIC = Metric("accuracy", "max")
GATE = Gate()
ROUTE_PREFIX = "/v1/images"


def golden_request(schema: Schema) -> RecognitionRequest:
    """A picture of stripes and shades, of the size that the model takes."""
    return RecognitionRequest(image=encode_png(colour_card(schema.size, channels=schema.channels)))


__all__ = [
    "BASELINES",
    "ENDPOINTS",
    "FEATURES",
    "GATE",
    "METRIC",
    "NAME",
    "ROUTE_PREFIX",
    "SPACE",
    "Config",
    "PrepareConfig",
    "Schema",
    "attach_index",
    "build",
    "collate",
    "dataset",
    "golden_request",
    "initialise",
    "prepare",
    "sample",
    "sections",
    "settle",
    "slices",
    "summarise",
    "write_index",
]
