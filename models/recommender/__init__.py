"""Next-item recommendation from behaviour logs."""

from __future__ import annotations

from models.family import Gate, Metric
from models.recommender.config import BASELINES, SPACE, Config
from models.recommender.data import collate, dataset
from models.recommender.endpoints import ENDPOINTS, FEATURES, RecommendationRequest
from models.recommender.networks.build import build, initialise
from models.recommender.prepare.pipeline import PrepareConfig, prepare
from models.recommender.report.slices import slices
from models.recommender.report.summary import summarise
from models.recommender.sample import sample
from models.recommender.schema import Schema

NAME = "recommender"
METRIC = Metric("ndcg_at_10", "max")
GATE = Gate()
ROUTE_PREFIX = "/"


def golden_request(schema: Schema) -> RecommendationRequest:
    """A shopper with the first and the last item of the vocabulary in their history."""
    return RecommendationRequest(history=[schema.items[0], schema.items[-1]], count=5)


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
    "build",
    "collate",
    "dataset",
    "golden_request",
    "initialise",
    "prepare",
    "sample",
    "slices",
    "summarise",
]
