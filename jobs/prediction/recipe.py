"""What is needed to ask a model in batches: its bundle, and the feature stores of the prepared data."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, is_writable, log
from jobs.evaluation.scoring import check_fits
from jobs.prediction.answer_table import Recipe
from jobs.prediction.input_table import Columns
from jobs.tracking.model_uri import LocatedModel
from models.erasure.features import silenced
from models.erasure.tombstones import Tombstones
from models.family import Family
from models.features import filled, live, write_store
from models.json_files import read_json


def recipe_of(
    context: Context,
    family: Family,
    located: LocatedModel,
    *,
    columns: Columns,
    fixed: Mapping[str, Any] | None = None,
    batch_size: int = 1,
) -> Recipe:
    """What is needed to ask a model; builds the feature store of the prepared data once per fingerprint."""
    schema = read_json(located.directory / "schema.json")
    if schema.get("family") == family.name:  # else the model is refused when it is loaded
        check_fits(context, family, family.Schema.model_validate(schema))
    return Recipe(
        family=family.name,
        model=located.directory,
        model_version=located.name,
        features=_filled_features(context, family) if filled(family.features) else None,
        live_features=live_features(context, family),
        fixed=dict(fixed or {}),
        batch_size=batch_size,
        columns=columns,
        erased=context.store.tombstones,
    )


def live_features(context: Context, family: Family) -> Path | None:
    """The store of features that endpoints write, if a deployment has created one."""
    path = context.store.live_feature_store(family.name)
    return path if live(family.features) and path.is_file() else None


def _filled_features(context: Context, family: Family) -> Path:
    """The feature store of the current data, built once per fingerprint."""
    data = context.store.current_data(family.name)
    names = ",".join(each.name for each in filled(family.features))
    digest = hashlib.sha256(names.encode()).hexdigest()[:8]  # a release may add features
    directory = context.store.root / family.name
    features = directory / f"features-{data.name}-{digest}.sqlite"
    if not features.is_file() and not is_writable(directory):
        directory = Path(tempfile.mkdtemp(prefix="shop-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        features = directory / features.name
    if not features.is_file():
        log.info("filling %s from the prepared data", features.name)
        write_store(features, silenced(family.features, Tombstones(context.store.tombstones)), data)
    return features
