"""Scores a model on every example of a split, once each and bit for bit the same on any number of workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.cli.context import Context, UsageFailure
from jobs.cluster import connection
from models import FAMILIES, bundle
from models.family import Family
from models.nn.memory import keep_freed_memory
from models.nn.precision import use_fast_products

BLOCK_SIZE = 512
"""Examples scored together; a block never crosses a shard, so it is the same on any number of workers."""

MAX_THREADS = 8
"""Each holds the scores of a block in memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What scoring needs of a model, whether it was trained or only counted."""

    family: str
    config: Any
    schema: Any
    network: Any


@dataclass(frozen=True)
class Scores:
    """Every example's share in every metric, in the order of the data; N examples."""

    numerators: dict[str, Floats]
    """Metric -> [N]."""
    denominators: dict[str, Floats]
    """Metric -> [N]; 0 where the example does not take part."""
    slices: dict[str, NDArray[np.str_]]
    """Slice dimension -> label of each example [N]."""
    tallies: dict[str, Tensor]
    """What adds up for metrics of the whole."""

    @property
    def num_examples(self) -> int:
        """Examples in the split."""
        return len(next(iter(self.numerators.values()), ()))

    def metric(self, name: str, among: NDArray[np.bool_] | None = None) -> float:
        """A metric over all examples or `among` some; NaN when none takes part."""
        chosen = slice(None) if among is None else among
        # fsum rounds once, so the value does not depend on the order of the examples either.
        below = math.fsum(self.denominators[name][chosen])
        return math.fsum(self.numerators[name][chosen]) / below if below else math.nan

    def metrics(self) -> dict[str, float]:
        """Every metric that at least one example takes part in."""
        values = {name: self.metric(name) for name in self.numerators}
        return {name: value for name, value in values.items() if not math.isnan(value)}


def load_model(directory: Path, family: Family) -> Model:
    """Load and verify a model directory; raises UsageFailure when it is another family's."""
    loaded = bundle.load(directory)
    if loaded.family != family.NAME:
        raise UsageFailure(f"{directory} holds a model of {loaded.family}, not of {family.NAME}; name another --model")
    return Model(loaded.family, loaded.config, loaded.schema, loaded.network)


def baselines(family: Family, data: Path, schema: Any) -> Iterator[tuple[str, Model]]:
    """The family's baselines by name, made from the training split of `data`, one at a time."""
    for name, fields in family.BASELINES.items():
        config = family.Config(**fields)
        network = family.build(config, schema)
        with torch.inference_mode():
            family.initialise(network, data, schema)
        yield name, Model(family.NAME, config, schema, network)


def score(context: Context, model: Model, *, data: Path, split: str, num_workers: int = 1) -> Scores:
    """Score a model on a split of prepared data; more than one worker are tasks on the cluster.

    Raises UsageFailure when the split has no examples.
    """
    num_shards = int(bundle.read_json(data / "schema.json")["num_shards"])
    if num_workers <= 1:
        shards = score_shards(model, data, split, range(num_shards))
    else:
        shards = _score_on_cluster(context, model, data=data, split=split, num_workers=min(num_workers, num_shards))
    scores = _join([shards[shard] for shard in sorted(shards)])
    if scores is None:
        raise UsageFailure(f"the {split} split of {data.name} has no examples; prepare more data, or another split")
    return scores


def score_shards(model: Model, data: Path, split: str, shards: Sequence[int]) -> dict[int, Scores | None]:
    """Score some shards, side by side in as many threads as torch may use; None for one without examples."""
    model.network.eval()
    use_fast_products("cpu")
    keep_freed_memory()
    num_threads = min(torch.get_num_threads(), MAX_THREADS)
    with one_thread(), ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return dict(zip(shards, pool.map(lambda shard: _score_shard(model, data, split, shard), shards), strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of several threads can differ in the last bit from those of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _score_shard(model: Model, data: Path, split: str, shard: int) -> Scores | None:
    family = FAMILIES[model.family]
    dataset = family.dataset(data, split, [shard], schema=model.schema, config=model.config, epoch=0)
    starts = range(0, len(dataset), BLOCK_SIZE)
    blocks = [range(start, min(start + BLOCK_SIZE, len(dataset))) for start in starts]
    return _join([_score_block(family, model, [dataset[row] for row in block]) for block in blocks])


def _score_block(family: Family, model: Model, examples: Sequence[Any]) -> Scores:
    batch = family.collate(examples)
    # Slices first: a network may write into its batch.
    slices = {name: np.asarray(labels, dtype=np.str_) for name, labels in family.slices(batch, model.schema).items()}
    judgement = model.network.judge(batch)
    ratios = judgement.metrics
    return Scores(
        numerators={name: ratio.numerator.double().numpy() for name, ratio in ratios.items()},
        denominators={name: ratio.denominator.double().numpy() for name, ratio in ratios.items()},
        slices=slices,
        tallies=dict(judgement.tallies),
    )


def _join(parts: Sequence[Scores | None]) -> Scores | None:
    full = [part for part in parts if part is not None]
    if not full:
        return None
    return Scores(
        numerators=_concatenated([part.numerators for part in full]),
        denominators=_concatenated([part.denominators for part in full]),
        slices=_concatenated([part.slices for part in full]),
        tallies=reduce(_added, [part.tallies for part in full]),
    )


def _concatenated(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    assert all(part.keys() == parts[0].keys() for part in parts), "every batch must give the same metrics and slices"
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _added(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: first[name] + second[name] for name in first}


def _score_on_cluster(
    context: Context, model: Model, *, data: Path, split: str, num_workers: int
) -> dict[int, Scores | None]:
    import ray

    connection.connect(context)
    if connection.resources().get("CPU", 0) < 1:
        raise UsageFailure("the cluster has no CPU to score with; use --workers 1 to score in this process")
    num_shards = int(bundle.read_json(data / "schema.json")["num_shards"])
    task = ray.remote(num_cpus=1)(score_shards)
    shared = ray.put(model)
    parts = [task.remote(shared, data, split, range(rank, num_shards, num_workers)) for rank in range(num_workers)]
    found: dict[int, Scores | None] = {}
    for part in ray.get(parts):
        found |= part
    return found
