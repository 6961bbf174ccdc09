"""Scores a model on every example of a split, bit-identical on any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, UsageFailure
from jobs.cluster import connection
from jobs.training.placement import Nodes
from models import bundle
from models.bundle import Bundle
from models.evaluate import Model, Scores, evaluate_shard, join
from models.family import Family
from models.features import filled
from models.prepared import Prepared

MAX_THREADS = 8
"""Each holds the scores of a block in memory."""


def check_fits(context: Context, family: Family, schema: Any) -> None:
    """Raise UsageFailure if a model of this schema cannot be used with the features of the store's data."""
    if not filled(family.features):
        return
    try:
        family.check_data(schema, context.store.current_data(family.name).schema(family.Schema))
    except ValueError as error:
        raise UsageFailure(str(error)) from error


def load_model(directory: Path, family: Family) -> Bundle:
    """Load and verify a model directory; raises UsageFailure if it belongs to another family."""
    found = bundle.family_name(directory)
    if found != family.name:
        raise UsageFailure(f"{directory} holds a model of {found}, not of {family.name}; name another --model")
    return bundle.load(directory, family)


def score(context: Context, model: Model, *, data: Prepared, split: str, num_workers: int = 1) -> Scores:
    """Score a model on a split of prepared data; with several workers, as tasks on the cluster.

    Raises UsageFailure if the split has no examples.
    """
    num_shards = data.num_shards
    if num_workers <= 1:
        shards = score_shards(model, data, split, range(num_shards))
    else:
        shards = _score_on_cluster(context, model, data=data, split=split, num_workers=min(num_workers, num_shards))
    scores = join([shards[shard] for shard in sorted(shards)])
    if scores is None:
        raise UsageFailure(f"the {split} split of {data.name} has no examples; prepare more data, or another split")
    return scores


def undefined(family: Family, scores: Scores, split: str) -> str:
    """Why a model's metric is undefined on a split, and the remedy."""
    name = family.metric.name
    if family.metric.compute is None and name not in scores.numerators:
        return f"`evaluate` of {family.name} does not return its metric {name}; return a ratio of this name"
    if family.metric.compute is None:
        return f"{name} is undefined on the {split} split: no example counts; prepare more data"
    return f"{name} of the model is undefined on the {split} split, as for constant predictions; train another model"


def score_shards(model: Model, data: Prepared, split: str, shards: Sequence[int]) -> dict[int, Scores | None]:
    """Score some shards in parallel, in as many threads as torch may use; None for a shard without examples."""
    import torch

    from models.nn.memory import keep_freed_memory
    from models.nn.precision import use_fast_products

    model.network.eval()
    use_fast_products("cpu")
    keep_freed_memory()
    num_threads = min(torch.get_num_threads(), MAX_THREADS)
    with one_thread(), ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return dict(zip(shards, pool.map(lambda shard: evaluate_shard(model, data, split, shard), shards), strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one thread, as multi-threaded sums can differ in the last bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _score_on_cluster(
    context: Context, model: Model, *, data: Prepared, split: str, num_workers: int
) -> dict[int, Scores | None]:
    import ray

    connection.connect(context)
    if not Nodes.of_cluster().slots(1):
        raise UsageFailure("the cluster has no CPU to score with; use --workers 1 to score in this process")
    num_shards = data.num_shards
    task = ray.remote(num_cpus=1)(score_shards)
    shared = ray.put(model)
    parts = [task.remote(shared, data, split, range(rank, num_shards, num_workers)) for rank in range(num_workers)]
    found: dict[int, Scores | None] = {}
    for part in ray.get(parts):
        found |= part
    return found
