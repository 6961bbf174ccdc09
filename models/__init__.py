"""The science: families of models. Torch, numpy, scipy, pyarrow and pydantic; no Ray, no MLflow, no FastAPI."""

from __future__ import annotations

from models import image, recommender
from models.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (recommender.FAMILY, image.FAMILY)}
