"""implicit (ALS, BPR) under measurement, on the events of an .npz file: its evaluation timed, or its quality.

Run in implicit's environment. The models are fitted on the training and validation events together, which favours them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import implicit  # type: ignore[import-not-found]
import implicit.evaluation  # type: ignore[import-not-found]
import numpy as np
import scipy.sparse as sp

from benchmarks.peers import protocol

MODELS = {
    "als": implicit.als.AlternatingLeastSquares,
    "bpr": implicit.bpr.BayesianPersonalizedRanking,
}
CUTOFF = 10
BLOCK_USERS = 1024


def main() -> None:
    """Fit and evaluate once for each request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("evaluate", "quality"))
    parser.add_argument("--data", type=Path, required=True, help="what benchmarks.kit.measure.export wrote")
    parser.add_argument("--model", choices=sorted(MODELS), default="als")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: arguments of the model")
    arguments = parser.parse_args()
    stored = np.load(arguments.data)
    seen, target = split(stored["items"], stored["offsets"], stored["test_start"])
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    settings = {"factors": 64, "num_threads": threads, **arguments.settings}
    protocol.say({"versions": protocol.versions("implicit", "numpy", "scipy"), "settings": settings})
    if arguments.role == "evaluate":
        measure_evaluation(MODELS[arguments.model](**{**settings, "iterations": 1}), seen, target, threads=threads)
    else:
        measure_quality(MODELS[arguments.model], settings, seen, target)


def split(items: Any, offsets: Any, test_start: Any) -> tuple[sp.csr_matrix, Any]:
    """What each user had before the test event [U, V], and the test event [U], -1 where there is none."""
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets))
    before = place < test_start[user]
    shape = (len(offsets) - 1, int(items.max()) + 1)
    seen = sp.csr_matrix((np.ones(int(before.sum()), np.float32), (user[before], items[before])), shape=shape)
    target = np.full(shape[0], -1, np.int64)
    at_test = place == test_start[user]
    target[user[at_test]] = items[at_test]
    return seen, target


def measure_evaluation(model: Any, seen: sp.csr_matrix, target: Any, *, threads: int) -> None:
    """Time implicit's own full ranking of the test events; how well the model is fitted does not matter for that."""
    model.fit(seen, show_progress=False)
    users = np.flatnonzero(target >= 0)
    test = sp.csr_matrix((np.ones(len(users), np.float32), (users, target[users])), shape=seen.shape)
    for _ in protocol.asked():
        started = protocol.start()
        found = implicit.evaluation.ranking_metrics_at_k(
            model, seen, test, K=CUTOFF, show_progress=False, num_threads=threads
        )
        metrics = {name: float(value) for name, value in found.items()}
        protocol.say({**started.so_far(), "users": len(users), "metrics": metrics})


def measure_quality(kind: Any, settings: dict[str, Any], seen: sp.csr_matrix, target: Any) -> None:
    """Fit with the seed of each request and rank all items for every test event."""
    for request in protocol.asked():
        model = kind(**{**settings, "random_state": request["seed"]})
        started = protocol.start()
        model.fit(seen, show_progress=False)
        protocol.say({"fit": started.so_far(), "metrics": ranking(model, seen, target)})


def ranking(model: Any, seen: sp.csr_matrix, target: Any) -> dict[str, float]:
    """NDCG and hit rate over the full ranking, seen items filtered and not; equal scores rank by index."""
    ranks: dict[str, list[Any]] = {"": [], "_unfiltered": []}
    users = np.flatnonzero(target >= 0)
    for block in np.array_split(users, max(1, len(users) // BLOCK_USERS)):
        scores = model.user_factors[block] @ model.item_factors.T
        scores[:, 0] = -np.inf  # 0 is no item
        ranks["_unfiltered"].append(rank_of(scores, target[block]))
        rows, columns = seen[block].nonzero()
        repeated = np.asarray(seen[block, target[block]]).ravel() > 0
        scores[rows, columns] = -np.inf
        # A target that was seen before cannot be recommended: it takes no part where seen items are filtered.
        ranks[""].append(rank_of(scores, target[block])[~repeated])
    found = {}
    for suffix, parts in ranks.items():
        rank = np.concatenate(parts)
        hit = rank <= CUTOFF
        found[f"ndcg_at_10{suffix}"] = float((hit / np.log2(rank + 1)).mean())
        found[f"hit_rate_at_10{suffix}"] = float(hit.mean())
    return found


def rank_of(scores: Any, target: Any) -> Any:
    """Place [B] of each target in the full ranking, from 1."""
    own = scores[np.arange(len(target)), target][:, None]
    earlier = np.arange(scores.shape[1]) < target[:, None]
    return 1 + ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


if __name__ == "__main__":
    main()
