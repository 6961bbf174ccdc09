"""Writes model directories with chosen networks, as training would."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from models import bundle, golden
from models.family import Family


def write_bundle(family: Family, directory: Path, *, network: Any, schema: Any, config: Any) -> Path:
    """A model directory with a network and its golden answer."""
    files = {
        "config.json": dataclasses.asdict(config),
        "schema.json": schema.model_dump(mode="json"),
        "metrics.json": {},
        "golden.json": golden.golden(family, network, schema),
        **schema.files,
    }
    bundle.write_directory(directory, files, {"model.safetensors": network.state_dict()})
    return directory
