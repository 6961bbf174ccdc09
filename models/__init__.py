"""Families of models, in torch, numpy, scipy, pyarrow and pydantic; without Ray, MLflow or FastAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from models.family import Family

FAMILIES: MutableMapping[str, Family]
"""Families by name, also of other packages; made when it is first asked for, and ours are imported one by one."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> MutableMapping[str, Family]:
        if name != "FAMILIES":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from models.extras import PACKAGES, PARTS, Families
        from models.plugins import other_families

        own = [name for name in PACKAGES if name not in PARTS]
        families = Families(own, other_families(own))
        # Two threads may ask at once: what one of them has registered must not be lost to the other's.
        return globals().setdefault("FAMILIES", families)
