"""Loads a registered model for `mlflow.pyfunc.load_model`: a table of requests to a table of answers.

Each answer equals that of the family's first endpoint. The names of this module and of `_load_pyfunc` are stored in the
registered models.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel

from jobs.prediction.answer_table import ERROR, MODEL_VERSION, Recipe, TableAnswerer
from jobs.prediction.input_table import Columns
from models import FAMILIES, bundle

BATCH_SIZE = 256
META = "registered_model_meta"
"""File that MLflow writes when it fetches a registered model: its name and version."""


class TableModel:
    """Answers tables of requests."""

    def __init__(self, directory: Path, features: Path | None) -> None:
        """Raises BundleRejected for a damaged model, FileNotFoundError for a missing feature store."""
        name = bundle.family_name(directory)
        if name not in FAMILIES:
            raise ValueError(f"{directory} is of the family {name!r}, which is not installed here; install its package")
        self._endpoint = FAMILIES[name].endpoints[0]
        recipe = Recipe(
            family=name,
            model=directory,
            model_version=_version(directory),
            features=features,
            live_features=None,
            fixed={},
            batch_size=BATCH_SIZE,
            columns=Columns({}, ()),
        )
        self._answerer = TableAnswerer(recipe, to_cells=_as_json)

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row of answer per row: the fields of the response, `model_version` and `error`.

        `error` is null for an answered row; a request that the endpoint would refuse has the reason there, and nulls
        elsewhere. Missing cells count as not given. The index is that of the input. Raises ValueError for a table
        without columns, which is what MLflow makes of one in which it knows none.
        """
        if not len(model_input.columns):
            fields = ", ".join(self._endpoint.Request.model_fields)
            raise ValueError(f"no column is a field of a request; the fields are {fields}")
        rows: list[dict[str, Any]] = [self._row(row) for row in model_input.to_dict("records")]
        answered: list[dict[str, Any]] = []
        for start in range(0, len(rows), BATCH_SIZE):
            answered += self._answerer.answer_rows(rows[start : start + BATCH_SIZE])
        columns = list(dict.fromkeys([*self._endpoint.Response.model_fields, MODEL_VERSION, ERROR]))
        table = {name: pd.Series([row.get(name) for row in answered], dtype=object) for name in columns}
        # Not by the argument `index`, which would look the rows up by their labels.
        return pd.DataFrame(table).set_axis(model_input.index, axis="index")

    def _row(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        given = {str(name): _plain(value) for name, value in row.items()}
        for name, field in self._endpoint.Request.model_fields.items():
            if field.annotation is bytes and isinstance(given.get(name), str):
                given[name] = _decoded(given[name])
        return given


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> TableModel:
    """Called by MLflow; `features` of the model config is the path of a feature store that `deploy` wrote."""
    features = (model_config or {}).get("features")
    return TableModel(Path(data_path), Path(features) if features else None)


def _version(directory: Path) -> str:
    meta = directory / META
    if not meta.is_file():
        return directory.name
    return str(yaml.safe_load(meta.read_text(encoding="utf-8"))["model_version"])


def _as_json(response: BaseModel) -> dict[str, Any]:
    return response.model_dump(mode="json")


def _plain(value: Any) -> Any:
    """A cell as Python's own types; None for a missing one."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    return value


def _decoded(text: str) -> bytes | str:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text  # is refused as what it is
