"""The training loop: plain torch, resumable, independent of the number of workers and of any cluster."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jobs.cli.context import log
from jobs.training import checkpoints
from jobs.training.batches import batches, collated, training_split
from jobs.training.checkpoints import Progress
from jobs.training.distributed import WorkerContext, all_gather, barrier, broadcast_buffers, seed_everything, wrap_ddp
from jobs.training.gradients import Gradients, gradients_of
from jobs.training.optimizer import make_optimizer
from jobs.training.task import TrainingTask
from jobs.training.validation import validate
from models import bundle
from models.family import Family
from models.golden import golden
from models.json_files import read_json
from models.nn.memory import keep_freed_memory
from models.nn.precision import use_fast_products
from models.prepared import Prepared

FINAL_RATE = 0.01
"""Final learning rate of the cosine schedule, relative to the peak."""
MIN_RATE_SCALE = 0.25
"""Two halvings; a run that diverges at this scale fails."""
STEPS_PER_CHECK = 100
"""Interval between checks of the accumulated gradient norm; each check synchronises with the device."""

Report = Callable[[dict[str, float | int]], None]


class TrainingDiverged(ValueError):
    """The loss was not finite, even after halving the learning rate twice."""


@dataclass(frozen=True)
class Result:
    """The result of a finished run."""

    best: Path
    """The bundle of the best epoch."""
    best_epoch: int
    epochs: int
    """Completed epochs; early stopping can make them fewer than the config's."""
    metrics: dict[str, float]
    """Validation metrics of the best epoch."""


class Loss(nn.Module):
    """A family's loss as a module, as DistributedDataParallel requires."""

    def __init__(self, loss: Callable[[Any, Any], Tensor], network: nn.Module) -> None:
        super().__init__()
        self._loss = loss
        self.network = network

    def forward(self, batch: Any) -> Tensor:
        """The scalar loss of a batch."""
        return self._loss(self.network, batch)


@dataclass(frozen=True)
class _Epoch:
    """Training statistics of one epoch over all workers."""

    loss: float
    examples: int
    steps: int
    seconds: float


def run_training(
    family: Family, *, config: Any, data: Prepared, directory: Path, worker: WorkerContext, report: Report
) -> Result:
    """Train a network on prepared data, resuming from the newest checkpoint in `directory` if there is one.

    `report` receives the metrics of each epoch on every worker; epoch 0 is the model before training. A resumed run
    reports its last epoch again; `checkpoints.read_reports` returns all of them. With more than one worker the default
    process group must be initialised. Raises ValueError for invalid settings, and TrainingDiverged when the loss does
    not stay finite.
    """
    schema = data.schema(family.Schema, family.files)
    config = family.resolve(config, schema)
    _check(config, schema, worker)
    task = TrainingTask(family, config, schema, data, directory, worker)
    use_fast_products(worker.device)
    keep_freed_memory()
    seed_everything(config.seed, 0, 0)
    network = family.build(config, schema)
    progress = _start(task, network)
    report(progress.reports[-1])
    if _is_trainable(network):
        if not progress.epoch and worker.rank == 0:
            log.info("%s", _line(progress.reports[-1], task.metric))
        progress = _train(task, network, progress, report)
        if progress.epoch and not progress.best_epoch and worker.rank == 0:
            log.warning("no epoch is better than the model before training (epoch 0), which is kept; train longer")
    metrics = read_json(checkpoints.best_of(directory) / "metrics.json")
    return Result(
        best=checkpoints.best_of(directory),
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        metrics={name: value for name, value in metrics.items() if name.startswith("val_")},
    )


def learning_rate(config: Any, step: int, total_steps: int) -> float:
    """The learning rate at `step` (from 0): linear warm-up, then cosine decay to a hundredth of the peak."""
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return float(config.learning_rate * (step + 1) / warmup)
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return float(config.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2))


def _start(task: TrainingTask, network: Any) -> Progress:
    """Load the newest intact checkpoint, or create that of epoch 0; every worker loads the same file."""
    is_first = task.worker.rank == 0
    epoch = all_gather(checkpoints.newest(task.directory) if is_first else None, task.worker)[0]
    if epoch is None:
        if is_first:
            _write_epoch_0(task, network)
        barrier(task.worker)
        epoch = 0
    _check_same_run(task, epoch)
    checkpoints.load(task.directory, epoch, network)
    network.to(task.worker.device)
    progress = checkpoints.read_progress(task.directory, epoch)
    if epoch:
        log.info("resuming after epoch %d", epoch)
    restored = checkpoints.restore_best(task.directory, progress, task.metric) if is_first else progress
    return all_gather(restored, task.worker)[0]


def _write_epoch_0(task: TrainingTask, network: Any) -> None:
    started = time.monotonic()
    task.family.initialise(network, task.data, task.schema)
    network.to(task.worker.device)
    single_worker = dataclasses.replace(task, worker=WorkerContext(device=task.worker.device))
    metrics = validate(single_worker, network)
    if not _finite(metrics):
        raise TrainingDiverged(f"the metrics are not finite before training: {metrics}; check the prepared data")
    score = metrics.get(task.metric)
    report = {**metrics, **_best(task, score), "epoch": 0, "learning_rate": 0.0, "steps": 0}
    report |= {"seconds": time.monotonic() - started, "examples_per_s": 0.0}
    _write(task, Progress(epoch=0, best_epoch=0, best_score=score, reports=[report]), network, None)


def _train(task: TrainingTask, network: Any, progress: Progress, report: Report) -> Progress:
    """Train until the last epoch, or until patience runs out."""
    config, optimizer = task.config, make_optimizer(task.family, network, task.config)
    checkpoints.load(task.directory, progress.epoch, network, optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = gradients_of(wrap_ddp(Loss(task.family.loss, network), task.worker), parameters, task)
    while progress.epoch < config.epochs and not 0 < config.patience <= progress.epochs_without_gain:
        started = time.monotonic()
        progress = _schedule(task, progress)
        trained = _train_epoch(task, gradients, optimizer, progress)
        if task.worker.rank == 0 and task.family.update_statistics is not None:
            task.family.update_statistics(network, task.data, task.schema)
        broadcast_buffers(network, task.worker)
        metrics = validate(task, network) if math.isfinite(trained.loss) else {}
        if not metrics or not _finite(metrics):
            progress = _roll_back(task, network, optimizer, progress)
            continue
        progress = _advance(task, progress, trained, metrics, time.monotonic() - started)
        if task.worker.rank == 0:
            _write(task, progress, network, optimizer)
            log.info("%s", _line(progress.reports[-1], task.metric))
        barrier(task.worker)
        report(progress.reports[-1])
    return progress


def _train_epoch(task: TrainingTask, gradients: Gradients, optimizer: Optimizer, progress: Progress) -> _Epoch:
    """One pass over this worker's training examples, in the same number of steps on every worker."""
    config, worker, epoch = task.config, task.worker, progress.epoch + 1
    started = time.monotonic()
    split = training_split(task, epoch)
    seed_everything(config.seed, epoch, worker.rank)
    order = batches(task, split)
    device = torch.device(worker.device)
    loss_sum, norm_sum = torch.zeros((), device=device), torch.zeros((), device=device)
    # A worker with fewer examples than steps repeats some, and still weighs as much as the examples it has.
    share = len(split.dataset) / sum(map(len, order))
    gradients.module.train()
    for step, batch in enumerate(collated(task, split, order)):
        rate = progress.rate_scale * learning_rate(config, progress.step + step, progress.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate_scale", 1.0)
        step_loss, norm = gradients(batch.to(device), weight=split.weight)
        optimizer.step()
        loss_sum += step_loss * len(order[step])
        norm_sum += norm
        # All workers have the same gradients, so they all break at the same step.
        if step % STEPS_PER_CHECK == STEPS_PER_CHECK - 1 and not math.isfinite(norm_sum.item()):
            break
    finite = math.isfinite(norm_sum.item())
    loss = sum(all_gather(loss_sum.item() * share if finite else math.nan, worker)) / split.num_examples
    return _Epoch(loss=loss, examples=split.num_examples, steps=split.steps, seconds=time.monotonic() - started)


def _schedule(task: TrainingTask, progress: Progress) -> Progress:
    """Set the length of the learning-rate schedule before its first step: of training, and of pretraining before."""
    pretraining = task.family.pretraining_epochs(task.config)
    if progress.epoch not in (0, pretraining):
        return progress
    end = pretraining if progress.epoch < pretraining else task.config.epochs
    steps = training_split(task, progress.epoch + 1).steps
    return dataclasses.replace(progress, step=0, total_steps=steps * (end - progress.epoch))


def _advance(
    task: TrainingTask, progress: Progress, trained: _Epoch, metrics: dict[str, float], seconds: float
) -> Progress:
    """The progress after a finite epoch, with its report."""
    epoch, step, score = progress.epoch + 1, progress.step + trained.steps, metrics.get(task.metric)
    better = _better(task, score, progress.best_score)
    counts = not better and epoch > task.family.pretraining_epochs(task.config)
    worse = _better(task, progress.best_score, score)
    best_score = score if better else progress.best_score
    rate = progress.rate_scale * learning_rate(task.config, step - 1, progress.total_steps)
    report = {**metrics, **_best(task, best_score), "epoch": epoch, "train_loss": trained.loss}
    report |= {"learning_rate": rate, "steps": trained.steps, "seconds": seconds}
    report |= {"examples_per_s": trained.examples / trained.seconds}
    return dataclasses.replace(
        progress,
        epoch=epoch,
        best_epoch=progress.best_epoch if worse else epoch,
        best_score=best_score,
        epochs_without_gain=progress.epochs_without_gain + 1 if counts else 0,
        step=step,
        reports=[*progress.reports, report],
    )


def _best(task: TrainingTask, score: float | None) -> dict[str, float]:
    """The best score for a report; none while the metric was undefined in every epoch."""
    return {} if score is None else {f"best_{task.metric}": score}


def _better(task: TrainingTask, score: float | None, than: float | None) -> bool:
    return task.family.metric.better(*(math.nan if value is None else value for value in (score, than)))


def _roll_back(task: TrainingTask, network: Any, optimizer: Optimizer, progress: Progress) -> Progress:
    """Roll back to the last checkpoint at half the learning rate; raises TrainingDiverged the third time."""
    failed = progress.epoch + 1
    if progress.rate_scale <= MIN_RATE_SCALE:
        raise TrainingDiverged(
            f"the loss was not finite in epoch {failed}, even after two halvings of the learning rate "
            f"{task.config.learning_rate:g}; lower --learning-rate or --max-grad-norm, or use --precision fp32"
        )
    scale = progress.rate_scale / 2
    log.warning("epoch %d diverged; rolling back to epoch %d at %g of the rate", failed, failed - 1, scale)
    checkpoints.load(task.directory, progress.epoch, network, optimizer)
    network.to(task.worker.device)
    return dataclasses.replace(progress, rate_scale=scale)


def _write(task: TrainingTask, progress: Progress, network: Any, optimizer: Optimizer | None) -> None:
    # Computed on the CPU, as by a server without an accelerator.
    on_cpu = network if task.worker.device == "cpu" else copy.deepcopy(network).to("cpu")
    scores = {name: value for name, value in progress.reports[-1].items() if name.startswith("val_")}
    files = {
        "config.json": dataclasses.asdict(task.config),
        "schema.json": task.schema.model_dump(mode="json"),
        "metrics.json": {"epoch": progress.epoch, **scores},
        "golden.json": golden(task.family, on_cpu, task.schema),
        **task.schema.files,
    }
    checkpoints.write(task.directory, progress, files, network, optimizer)


def _check(config: Any, schema: Any, worker: WorkerContext) -> None:
    if config.batch_size < worker.world_size:
        raise ValueError(f"batch_size {config.batch_size} is less than {worker.world_size} workers; raise --batch-size")
    if schema.num_shards < worker.world_size:
        raise ValueError(
            f"{schema.num_shards} shards of data are less than {worker.world_size} workers; lower --workers"
        )


def _check_same_run(task: TrainingTask, epoch: int) -> None:
    source = checkpoints.path_of(task.directory, epoch)
    if bundle.config_from_dict(task.family.Config, read_json(source / "config.json")) != task.config:
        raise ValueError(f"{task.directory} holds checkpoints of another configuration; use an empty directory")
    if read_json(source / "schema.json")["fingerprint"] != task.schema.fingerprint:
        raise ValueError(f"{task.directory} holds checkpoints of other data; use an empty directory")


def _is_trainable(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


def _finite(metrics: dict[str, float]) -> bool:
    return all(math.isfinite(value) for value in metrics.values())


def _line(report: dict[str, float | int], metric: str) -> str:
    score = f"{report[metric]:.4f}" if metric in report else "undefined"
    if not report["epoch"]:
        return f"epoch 0, before training: {metric} {score}"
    head = f"epoch {report['epoch']}: train_loss {report['train_loss']:.4f} {metric} {score}"
    return f"{head} ({report['examples_per_s']:.0f} examples/s, {report['seconds']:.1f} s)"
