"""Families of models, in torch, numpy, scipy, pyarrow and pydantic; without Ray, MLflow or FastAPI."""

from __future__ import annotations

from models import image, recommender
from models.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (recommender.FAMILY, image.FAMILY)}
