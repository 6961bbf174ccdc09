"""Replicas of the extended toy family, in this process or another."""

from __future__ import annotations

import asyncio
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from models import FAMILIES
from serve.problems import RequestRefused
from serve.service import Service, Settings
from tests.kit import toy_extras
from tests.kit.toy_extras import VISITS, Visit


def replica(model: Path, live_store: Path, *, sizes: list[int] | None = None) -> Service:
    """A service of the family registered as toy; appends its batch sizes to `sizes`."""
    noted = [] if sizes is None else sizes
    service = Service("toy", observe=lambda path, version, size: noted.append(size))
    asyncio.run(service.load(Settings(version="1", bundle=model, live_feature_store=live_store)))
    return service


async def visit_until_answered(service: Service, note: str) -> int:
    """Record a visit of ann despite concurrent updates; returns its number."""
    while True:
        try:
            answer = await service.answer(VISITS, Visit(visitor_id="ann", note=note))
        except RequestRefused as refused:
            assert refused.status == 409
        else:
            return int(answer.model_dump()["number"])


def visit_in_a_process(rank: int, together: Barrier, model: Path, live_store: Path, num_visits: int) -> None:
    """Record visits in this process one after the other, as RANK-0, RANK-1 and so on."""
    torch.set_num_threads(1)
    FAMILIES["toy"] = toy_extras.FAMILY
    service = replica(model, live_store)
    together.wait(120)

    async def visit() -> None:
        for number in range(num_visits):
            await visit_until_answered(service, f"{rank}-{number}")

    asyncio.run(visit())
