"""Checkpoints of a run: bundles plus optimizer state; the newest one that verifies is resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from jobs.cli.context import log
from models import bundle
from models.errors import BundleRejected
from models.files import write_text
from models.json_files import read_json

NUM_KEPT = 3
STATE = "state.json"
REPORTS = "reports.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True)
class Progress:
    """Training progress: what a resumed run needs in addition to weights and optimizer state."""

    epoch: int
    """Completed epochs; 0 is the model before training."""
    best_epoch: int
    best_score: float | None
    """None while the metric is undefined."""
    epochs_without_gain: int = 0
    step: int = 0
    """Completed optimizer steps of the learning-rate schedule."""
    total_steps: int = 0
    """Length of the learning-rate schedule in steps."""
    rate_scale: float = 1.0
    """Factor on the learning rate, halved each time training diverges."""
    reports: list[dict[str, float | int]] = field(default_factory=list)
    """The report of every completed epoch, from epoch 0."""


def path_of(directory: Path, epoch: int) -> Path:
    """Directory of an epoch's checkpoint."""
    return directory / "checkpoints" / f"epoch_{epoch:04d}"


def best_of(directory: Path) -> Path:
    """Directory of the best epoch's bundle."""
    return directory / "best"


def newest(directory: Path) -> int | None:
    """Epoch of the newest checkpoint that verifies, or None; damaged ones are logged and skipped."""
    for epoch in sorted(_epochs(directory), reverse=True):
        try:
            bundle.verify(path_of(directory, epoch), (*bundle.REQUIRED, STATE))
        except BundleRejected as error:
            log.warning("skipping a damaged checkpoint: %s", error)
        else:
            return epoch
    return None


def write(
    directory: Path,
    progress: Progress,
    files: Mapping[str, Any],
    network: nn.Module,
    optimizer: Optimizer | None,
) -> None:
    """Write the checkpoint of `progress.epoch`, update `best` if it is the best epoch, and delete old ones."""
    tensors: dict[str, Mapping[str, Tensor]] = {MODEL: network.state_dict()}
    if optimizer is not None:
        tensors[OPTIMIZER] = _flatten(optimizer)
    target = path_of(directory, progress.epoch)
    bundle.write_directory(target, {**files, STATE: dataclasses.asdict(progress)}, tensors)
    if progress.best_epoch == progress.epoch:
        _copy_bundle(target, best_of(directory))
    write_text(directory / REPORTS, json.dumps(progress.reports))
    _prune(directory, progress)


def read_progress(directory: Path, epoch: int) -> Progress:
    """The progress stored with a checkpoint."""
    return Progress(**read_json(path_of(directory, epoch) / STATE))


def read_reports(directory: Path) -> list[dict[str, float | int]]:
    """Every epoch's report, from epoch 0; written to disk before it is sent, so that none is lost.

    Raises BundleRejected for a damaged file.
    """
    path = directory / REPORTS
    try:
        found: list[dict[str, float | int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        raise BundleRejected(f"{path} is not JSON: {error}") from None
    return found


def load(directory: Path, epoch: int, network: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Load weights, and the optimizer state if the checkpoint has one."""
    source = path_of(directory, epoch)
    bundle.load_tensors(network, source / MODEL)
    if optimizer is not None:
        _unflatten(optimizer, load_file(source / OPTIMIZER) if (source / OPTIMIZER).exists() else {})


def restore_best(directory: Path, progress: Progress, metric: str) -> Progress:
    """Restore the `best` bundle that `progress` refers to, after an interruption or damage.

    If the best epoch's checkpoint is lost as well, the resumed epoch becomes the best.
    """
    best = best_of(directory)
    if _holds(best, progress.best_epoch):
        return progress
    kept = path_of(directory, progress.best_epoch)
    if _holds(kept, progress.best_epoch):
        _copy_bundle(kept, best)
        return progress
    log.warning("the bundle of the best epoch %d is lost; using epoch %d instead", progress.best_epoch, progress.epoch)
    _copy_bundle(path_of(directory, progress.epoch), best)
    return dataclasses.replace(progress, best_epoch=progress.epoch, best_score=progress.reports[-1].get(metric))


def remove(directory: Path) -> None:
    """Delete all checkpoints of a finished run; keep `best`."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _epochs(directory: Path) -> list[int]:
    found = (directory / "checkpoints").glob("epoch_*")
    return [int(path.name.removeprefix("epoch_")) for path in found if path.name.removeprefix("epoch_").isdigit()]


def _holds(path: Path, epoch: int) -> bool:
    try:
        bundle.verify(path)
    except BundleRejected:
        return False
    return read_json(path / "metrics.json").get("epoch") == epoch


def _copy_bundle(source: Path, target: Path) -> None:
    """Copy all files of a checkpoint but those that only a resumed run needs."""
    names = [path.name for path in source.iterdir() if path.name not in (bundle.MANIFEST, STATE, OPTIMIZER, MODEL)]
    files = {name: (source / name).read_bytes() for name in names}
    bundle.write_directory(target, files, {MODEL: load_file(source / MODEL)})


def _prune(directory: Path, progress: Progress) -> None:
    """Keep the newest epochs and the best one, from which `best` can be restored; delete incomplete checkpoints."""
    past = sorted(epoch for epoch in _epochs(directory) if epoch <= progress.epoch)
    for epoch in set(_epochs(directory)) - {*past[-NUM_KEPT:], progress.best_epoch}:
        shutil.rmtree(path_of(directory, epoch), ignore_errors=True)
    for leftover in (directory / "checkpoints").glob(".epoch_*." + "[0-9a-f]" * 8):
        shutil.rmtree(leftover, ignore_errors=True)


def _flatten(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by `parameter index/name`; the options of the groups come from the config."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}


def _unflatten(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
