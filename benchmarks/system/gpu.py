"""Training on one GPU: what a step costs, how busy the device is, and how near the training loop comes to that.

For each network, on real batches: the time to collate one on a core of the host; the time of a step (transfer,
forward, backward, clipping, update) on batches that are ready; the device time of its kernels; their ratio is the busy
share of the device; how often a step makes the host wait for it. Then the rate of the training loop itself, in its
second and later epochs, against the rate of the ready batches.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Table, write_page
from jobs.training.batches import batches, training_split
from jobs.training.distributed import WorkerContext, seed_everything, wrap_ddp
from jobs.training.gradients import gradients_of
from jobs.training.loop import Loss, run_training
from jobs.training.optimizer import make_optimizer
from jobs.training.task import TrainingTask
from models import FAMILIES
from models.bundle import config_from_dict
from models.nn.precision import use_fast_products
from models.prepared import Prepared

WARM_UP_STEPS, STEPS = 10, 40


def main() -> None:
    """Measure each network and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--networks", nargs="+", required=True, help="FAMILY:PREPARED:NAME=VALUE,NAME=VALUE; PREPARED is a directory"
    )
    arguments = parser.parse_args()
    use_fast_products(arguments.device)
    found: dict[str, Answer] = {}
    for words in arguments.networks:
        family, data, settings = words.split(":")
        try:
            found[f"{family} {settings}"] = measured(family, Path(data), settings, arguments)
        except torch.OutOfMemoryError as error:
            found[f"{family} {settings}"] = {"error": str(error)}
        print(words, found[f"{family} {settings}"], flush=True)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "the processor"
    write_page("gpu", __doc__, arguments, [tabulate(found, device)], {"device": device, "measured": found})


def measured(family_name: str, data: Path, settings: str, arguments: argparse.Namespace) -> Answer:
    """All figures of one network."""
    family = FAMILIES[family_name]
    pairs = [*settings.split(","), f"epochs={arguments.epochs}", "patience=0"]
    config = config_from_dict(family.Config, measure.overrides(pairs))
    with tempfile.TemporaryDirectory() as directory:
        return steps(family, config, Prepared(data), Path(directory), arguments.device) | loop(
            family, config, Prepared(data), Path(directory), arguments.device
        )


def loop(family: Any, config: Any, data: Prepared, directory: Path, device: str) -> Answer:
    """Examples per second of the training loop, and seconds of an epoch with its validation, after the first epoch."""
    reports: list[dict[str, float | int]] = []
    run_training(
        family,
        config=config,
        data=data,
        directory=directory / "run",
        worker=WorkerContext(device=device),
        report=reports.append,
    )
    later = reports[2:]
    return {
        "loop_examples_per_s": max(each["examples_per_s"] for each in later),
        "epoch_s": min(each["seconds"] for each in later),
        "start_s": reports[0]["seconds"],
    }


def steps(family: Any, config: Any, data: Prepared, directory: Path, device_name: str) -> Answer:
    """The parts of a step, on batches that are ready."""
    schema = data.schema(family.Schema, family.files)
    config = family.resolve(config, schema)
    task = TrainingTask(family, config, schema, data, directory, WorkerContext(device=device_name))
    seed_everything(config.seed, 0, 0)
    network = family.build(config, schema)
    family.initialise(network, data, schema)
    network.to(device_name)
    module = wrap_ddp(Loss(family.loss, network), task.worker)
    optimizer = make_optimizer(family, network, config)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    gradients = gradients_of(module, parameters, task)
    split = training_split(task, 1)
    order = list(itertools.islice(itertools.cycle(batches(task, split)), WARM_UP_STEPS + STEPS))
    started = time.perf_counter()
    ready = [family.collate([split.dataset[row] for row in rows]) for rows in order]
    collate_ms = (time.perf_counter() - started) / len(ready) * 1e3
    examples = sum(map(len, order[WARM_UP_STEPS:]))
    device = torch.device(device_name)
    module.train()

    def run(part: list[Any]) -> None:
        for host in part:
            gradients(host.to(device))
            optimizer.step()

    run(ready[:WARM_UP_STEPS])
    synchronize(device)
    started = time.perf_counter()
    run(ready[WARM_UP_STEPS:])
    synchronize(device)
    step_s = (time.perf_counter() - started) / STEPS
    found = {
        "collate_ms": collate_ms,
        "step_ms": step_s * 1e3,
        "ready_examples_per_s": examples / STEPS / step_s,
        "batch_examples": examples / STEPS,
        "parameters": sum(each.numel() for each in network.parameters()),
    }
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            run(ready[WARM_UP_STEPS:])
            synchronize(device)
        kernels = sum(each.self_device_time_total for each in trace.key_averages())
        found["kernel_ms"] = kernels / 1e3 / STEPS
        found["host_waits"] = host_waits(lambda: run(ready[:1]))
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return found


def host_waits(work: Any) -> int:
    """How often `work` makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in caught)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def tabulate(found: dict[str, Answer], device: str) -> Table:
    """A row per network."""
    header = ["network", "examples a step", "collate ms", "step ms", "kernels ms", "busy", "waits a step"]
    header += ["examples/s, batches ready", "examples/s, training loop", "of that", "epoch s", "peak GB"]
    rows = []
    for name, each in found.items():
        if "error" in each:
            rows.append([name, each["error"], *[""] * (len(header) - 2)])
            continue
        kernels, peak = each.get("kernel_ms", float("nan")), each.get("peak_gb", float("nan"))
        ready, own = each["ready_examples_per_s"], each["loop_examples_per_s"]
        rows.append(
            [
                name,
                f"{each['batch_examples']:.0f}",
                f"{each['collate_ms']:.2f}",
                f"{each['step_ms']:.2f}",
                f"{kernels:.2f}",
                f"{kernels / each['step_ms']:.0%}",
                str(each.get("host_waits", "")),
                f"{ready:,.0f}",
                f"{own:,.0f}",
                f"{own / ready:.2f}",
                f"{each['epoch_s']:.2f}",
                f"{peak:.2f}",
            ]
        )
    return Table(f"On {device}", header, rows)


if __name__ == "__main__":
    main()
