"""The files that make a registered model loadable by `mlflow.pyfunc`: MLmodel, requirements and an input example."""

from __future__ import annotations

import importlib.metadata
import json
import re
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.prediction.annotations import bare
from models.bundle import MANIFEST
from models.family import Family
from models.json_files import read_json

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOADER = "jobs.prediction.pyfunc"
"""Module that MLflow loads a model with; stored in every registered version, so it must not be renamed."""
NOT_NEEDED = (
    "ray",
    "optuna",
    "cyclopts",
    "docstring-parser",
    "rich",
    "fastapi",
    "matplotlib",
    "captum",
    "scikit-learn",
)
"""Requirements of other verbs."""
DISTRIBUTION = "shopkeeper"


def write_mlmodel(family: Family, bundle: Path, target: Path) -> None:
    """Write MLmodel and what belongs to it into a directory; the files of the model itself lie next to them later."""
    import mlflow.pyfunc
    import pandas as pd

    endpoint = family.endpoints[0]
    request = endpoint.Request.model_validate(read_json(bundle / "golden.json")["request"])
    example = {name: value for name, value in request.model_dump().items() if value is not None}
    with warnings.catch_warnings(action="ignore"):
        mlflow.pyfunc.save_model(
            path=str(target),
            loader_module=LOADER,
            signature=signature_of(family),
            input_example=pd.DataFrame([example]),
            pip_requirements=requirements(bundle),
            # Only the keys given here can be set when the model is loaded.
            model_config={"features": ""},
            metadata={"family": family.name, DISTRIBUTION: importlib.metadata.version(DISTRIBUTION)},
        )


def signature_of(family: Family) -> ModelSignature:
    """The columns of a request to the family's first endpoint, and of its answers."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    endpoint = family.endpoints[0]
    answered = [_column(name, each.annotation, True) for name, each in endpoint.Response.model_fields.items()]
    added = [
        _column(name, str, False) for name in ("model_version", "error") if name not in endpoint.Response.model_fields
    ]
    asked = [_column(name, each.annotation, each.is_required()) for name, each in endpoint.Request.model_fields.items()]
    return ModelSignature(inputs=Schema(asked), outputs=Schema([*answered, *added]))


def requirements(bundle: Path) -> list[str]:
    """The installed versions of what a model needs to answer, and of the package that its network comes from.

    This package itself is named only where it was installed from a repository: an index may have another of its name.
    """
    family = read_json(bundle / "schema.json").get("family")
    needed = [
        re.split(r"[^A-Za-z0-9._-]", line)[0]
        for line in importlib.metadata.requires(DISTRIBUTION) or ()
        if "extra ==" not in line or f'extra == "{family}"' in line
    ]
    plugins = read_json(bundle / MANIFEST).get("packages", {}).values()
    pinned = [
        f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
        for name in (*needed, *plugins)
        if name not in NOT_NEEDED
    ]
    return [*pinned, *_own_repository()]


def _own_repository() -> list[str]:
    text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    if "vcs_info" not in origin:
        return []
    vcs = origin["vcs_info"]
    return [f"{DISTRIBUTION} @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"]


def _column(name: str, annotation: Any, required: bool) -> Any:
    from mlflow.types import ColSpec

    return ColSpec(type=_mlflow_type(annotation), name=name, required=required)


def _mlflow_type(annotation: Any) -> Any:
    """MLflow's type of a pydantic field; any where it has none, such as for nested objects."""
    from mlflow.types import DataType
    from mlflow.types.schema import AnyType, Array

    plain: dict[Any, DataType] = {
        str: DataType.string,
        bool: DataType.boolean,
        int: DataType.long,
        float: DataType.double,
        bytes: DataType.binary,
    }
    kind = bare(annotation)
    if kind in plain:
        return plain[kind]
    if typing.get_origin(kind) in (list, Sequence):
        return Array(_mlflow_type(typing.get_args(kind)[0]))
    return AnyType()  # type: ignore[no-untyped-call]
