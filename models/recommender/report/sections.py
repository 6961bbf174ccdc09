"""The recommender's sections of the report: the kind of log, and example lists."""

from __future__ import annotations

from collections.abc import Sequence

from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.networks.recommender import Recommender
from models.recommender.report import examples, log_diagnosis
from models.recommender.schema import Schema
from models.report import Section


def report(network: Recommender, data: Prepared, split: str, *, schema: Schema, config: Config) -> Sequence[Section]:
    """All sections, in order."""
    sections = [each.report(network, data, split, schema=schema, config=config) for each in (log_diagnosis, examples)]
    return [section for found in sections for section in found]
