"""`build(args)`: the Ray Serve application of a family, with one deployment class for all families."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Any, cast

import ray.serve
import torch
from fastapi import FastAPI
from ray.serve import Application, Deployment

from models import FAMILIES
from models.nn.memory import keep_freed_memory
from serve.routes import make_app
from serve.service import Service, Settings

ARGUMENTS = {"family", "num_threads"}
SWITCH_INTERVAL_S = 0.001
"""How long another thread may keep the interpreter while the event loop waits for it; a fifth of Python's default."""


def build(args: dict[str, Any]) -> Application:
    """The application of one family; args: `family`, and `num_threads` of torch in each replica (default 1)."""
    unknown = sorted(set(args) - ARGUMENTS)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; there are {', '.join(sorted(ARGUMENTS))}")
    if args.get("family") not in FAMILIES:
        raise ValueError(f"unknown family {args.get('family')!r}; there are {', '.join(sorted(FAMILIES))}")
    # Ray annotates its decorator as if it returned a function.
    return cast("Deployment", Model).bind(args["family"], int(args.get("num_threads", 1)))


@ray.serve.deployment
@ray.serve.ingress()
class Model:
    """A replica: HTTP, batching and the model in one process, as a hop between processes costs more than the model."""

    def __init__(self, family_name: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        keep_freed_memory()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._service = Service(family_name, device=device)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the replica is created."""
        return make_app(self._service)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Serve before the first request and when `user_config` changes; requests are served meanwhile."""
        await self._service.load(Settings.model_validate(user_config))
        self._service.share_metrics()
        _shorten_collections()

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        self._service.guard.refresh()
        if not self._service.is_ready:
            raise RuntimeError("no model is loaded")


def _shorten_collections() -> None:
    """Leave what is loaded out of later garbage collections, which large requests start and all requests wait for."""
    gc.unfreeze()  # what was replaced since the last time
    gc.collect()
    gc.freeze()
