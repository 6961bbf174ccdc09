"""Families of models, in torch, numpy, scipy, pyarrow and pydantic; without Ray, MLflow or FastAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.family import Family

FAMILIES: dict[str, Family]
"""Families by name, also of other packages; made when it is first asked for, since those import parts of this one."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> dict[str, Family]:
        if name != "FAMILIES":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from models.extras import Families, own_families
        from models.plugins import with_plugins

        own, missing = own_families(["recommender", "image", "forecast", "pricing", "reviews"])
        families = Families(with_plugins(own), missing)
        # Two threads may ask at once: what one of them has registered must not be lost to the other's.
        return globals().setdefault("FAMILIES", families)
