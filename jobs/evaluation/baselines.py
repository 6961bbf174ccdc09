"""Scores of a family's baselines: computed once for each data set and release, and kept in the store.

A baseline is what `train` makes of its Config: initialised on the training split, calibrated on validation. Its file is
safe to delete. It is ignored when it is damaged, and when data, settings, code or torch have changed since.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.cli.context import Context, log
from jobs.evaluation.scoring import score
from jobs.training.distributed import WorkerContext, seed_everything
from jobs.training.task import TrainingTask
from jobs.training.validation import calibrate
from models.evaluate import Model, Scores
from models.family import Family
from models.files import replace_file
from models.prepared import Prepared

DIGEST_BYTES = 32
"""A file begins with the sha256 of its key and of the rest of it, a NumPy archive."""
PARTS = ("numerators", "denominators", "slices", "accumulators", "kept")


def baseline_scores(
    context: Context, family: Family, data: Prepared, *, split: str, num_workers: int = 1
) -> Iterator[tuple[str, Scores]]:
    """Each baseline's name and scores on a split, in the family's order, one at a time."""
    directory = context.store.baselines(family.name) / data.name
    for name, config in family.baselines.items():
        path, key = directory / f"{split}-{name}.scores", _key(family, config, data, split)
        scores = _read(path, key)
        if scores is None:
            log.info("scoring the baseline %s on the %s split", name, split)
            model = fitted(family, config, data)
            scores = score(context, model, data=data, split=split, num_workers=num_workers)
            _write(path, key, scores)
        yield name, scores


def fitted(family: Family, config: Any, data: Prepared) -> Model:
    """A network without training, initialised and calibrated as `train` does."""
    schema = data.schema(family.Schema, family.files)
    config = family.resolve(config, schema)
    seed_everything(config.seed, 0, 0)
    network = family.build(config, schema)
    with torch.inference_mode():
        family.initialise(network, data, schema)
        network.eval()
        calibrate(TrainingTask(family, config, schema, data, data.path, WorkerContext()), network)
    return Model(family, config, schema, network)


def _key(family: Family, config: Any, data: Prepared, split: str) -> str:
    """Identifies everything that the scores depend on."""
    functions = (family.build, family.initialise, family.dataset, family.collate, family.evaluate, family.slices)
    content = {
        "data": data.fingerprint,
        "split": split,
        "config": dataclasses.asdict(config),
        "functions": [getattr(each, "__qualname__", "") for each in functions],
        "code": [_digest(name) for name in sorted({"jobs", "models", *map(_package, (family.Config, *functions))})],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _package(of: Any) -> str:
    """The outermost package of a class or function."""
    return str(of.__module__).partition(".")[0]


@functools.cache
def _digest(package: str) -> str:
    """sha256 of the Python files of an imported package, or of a module outside of packages."""
    module = sys.modules[package]
    # A namespace package has folders and no file.
    paths = [path for folder in getattr(module, "__path__", ()) for path in Path(folder).rglob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(paths) or [Path(str(module.__file__))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _write(path: Path, key: str, scores: Scores) -> None:
    """Write scores; a store without room or permission only means that they are computed again."""
    arrays: dict[str, NDArray[Any]] = {"num_examples": np.array(scores.num_examples)}
    for part in PARTS:
        found: Mapping[str, Any] = getattr(scores, part)
        arrays |= {f"{part}/{name}": np.asarray(values) for name, values in found.items()}
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]
    content = archive.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary:
            temporary.write_bytes(_checksum(key, content) + content)
    except OSError as error:
        log.info("the scores of a baseline are not kept: %s", error)


def _read(path: Path, key: str) -> Scores | None:
    """The scores of a file, or None if there is none, or a damaged one, or one of other data, settings or code."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    content = found[DIGEST_BYTES:]
    if found[:DIGEST_BYTES] != _checksum(key, content):
        return None
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        num_examples = int(stored["num_examples"])
        for each in stored.files:
            part, _, name = each.partition("/")
            if name:
                parts[part][name] = stored[each]
    accumulators = {name: torch.from_numpy(values) for name, values in parts.pop("accumulators").items()}
    return Scores(**parts, accumulators=accumulators, num_examples=num_examples)


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()
