"""Cold-start items: how well the next item of a user is ranked if no user has interacted with it before.

A random share of the items is removed from the log except as a user's last event, the target: only the attributes of
these items are known. All items are ranked, with seen items filtered. Ours ranks cold-start items as high as costs the
other items a hundredth of their NDCG@10 on validation; the same models without cold-start items show what it costs
them on the test split. The comparison is a ranking by attributes alone: cosine similarity to the user's last item,
with attributes weighted by their inverse document frequency; its cost for the other items is not measured. Systems
that know items only by their events, such as popularity, find none.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer, Worker
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.recommender.quality import item_table
from jobs.cli.context import Context, Store
from jobs.evaluation.scoring import load_model, score
from jobs.training import checkpoints
from models import FAMILIES
from models.evaluate import Scores
from models.metrics import rank_of, rank_without
from models.prepared import Prepared
from models.recommender.item_features import ItemFeatures, tf_idf

FAMILY = FAMILIES["recommender"]
NEW = "never trained on"
"""Label of cold-start items in the slices by popularity."""
CUTOFFS = (10, 50)
NETWORKS = ("transitions", "transformer")
ATTRIBUTES = "attributes of the last item"


def main() -> None:
    """Train with every seed, evaluate cold-start items and the others separately, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--attributes", required=True, help="S3Rec's item2attributes.json.gz of --data")
    parser.add_argument("--new", type=float, default=0.05, help="share of the items to remove")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the draw and of the training")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.seeds, arguments.config = [0], [*arguments.config, "epochs=1"]
    found: dict[str, list[Answer]] = {}
    for seed in arguments.seeds:
        with measure.workspace(arguments) as work:
            log = without_new_items(Path(arguments.data), work / "raw" / "log.txt", share=arguments.new, seed=seed)
            data = measure.prepared(str(log), arguments, work, more=item_table(arguments.attributes, work))
            for network in NETWORKS:
                for system, answer in evaluated(data, network, seed, arguments, work).items():
                    found.setdefault(system, []).append(answer)
            found.setdefault(ATTRIBUTES, []).append(by_attributes(Prepared(data)))
        # After each seed, so that a long run that ends early has results.
        write_page("cold-items", __doc__, arguments, [tabulate(found, arguments)], {"measured": found})


def without_new_items(raw: Path, out: Path, *, share: float, seed: int) -> Path:
    """The log without some items, except as the last of at least three events."""
    with gzip.open(raw, "rt", encoding="utf-8") as lines:
        rows = [line.split() for line in lines]
    items = sorted({item for _, *events in rows for item in events})
    new = set(np.random.default_rng(seed).choice(items, round(share * len(items)), replace=False).tolist())
    out.parent.mkdir()
    with out.open("w", encoding="utf-8") as file:
        for user, *events in rows:
            kept = [item for item in events[:-1] if item not in new]
            if events[-1] not in new or len(kept) >= 2:
                file.write(" ".join([user, *kept, events[-1]]) + "\n")
    return out


def evaluated(data: Path, network: str, seed: int, arguments: argparse.Namespace, work: Path) -> dict[str, Answer]:
    """Train one network and evaluate its best epoch, with and without cold-start items."""
    config = [f"network={network}", *arguments.config, f"seed={seed}"]
    worker = Worker(network, measure.shopkeeper("fit", data, work / network, config=config), threads=arguments.threads)
    if not any(answer.get("done") for answer in worker.answers()):
        raise RuntimeError(f"the training of {network} failed; its messages are above")
    worker.close()
    model = load_model(checkpoints.best_of(work / network / "run"), FAMILY)
    answers = {}
    for system in (f"ours {network}", f"ours {network}, without cold-start items"):
        scores = score(Context(store=Store(work)), model, data=Prepared(data), split="test")
        new = scores.slices["popularity"] == NEW
        answers[system] = metrics_of(scores, new, "new") | metrics_of(scores, ~new, "others")
        model.network.cold_start.offset.fill_(-torch.inf)
    return answers


def metrics_of(scores: Scores, among: NDArray[np.bool_], name: str) -> Answer:
    """Metrics of some examples, and their number."""
    metrics = ["ndcg_at_10", *(f"hit_rate_at_{cutoff}" for cutoff in CUTOFFS)]
    return {"num_" + name: int(among.sum())} | {f"{name}_{metric}": scores.ratio(metric, among) for metric in metrics}


def by_attributes(data: Prepared) -> Answer:
    """The same, ranked by the attributes that an item shares with the last item of the history."""
    schema = data.schema(FAMILY.Schema)
    shards = range(schema.num_shards)
    dataset: Any = FAMILY.dataset(data, "test", shards, schema=schema, config=FAMILY.Config(), epoch=0)
    examples = [dataset[place] for place in range(len(dataset))]
    is_new = np.asarray([1, *schema.item_counts]) == 0
    chosen = [example for example in examples if is_new[example.target] and len(example.history)]
    features = tf_idf(ItemFeatures.open(data).matrix())
    ranks = []
    for start in range(0, len(chosen), 256):
        batch = FAMILY.collate(chosen[start : start + 256])
        last = [int(example.history[-1]) for example in batch.examples]
        scores = torch.from_numpy((features[last] @ features.T).toarray())
        scores[:, 0] = -torch.inf
        ranks.append(rank_without(batch.excluded, batch.targets, scores, rank_of(batch.targets, scores)))
    rank = torch.cat(ranks)
    hits = {f"new_hit_rate_at_{cutoff}": float((rank <= cutoff).double().mean()) for cutoff in CUTOFFS}
    gains = (rank <= 10).double() / torch.log2(rank + 1)
    return {"num_new": len(rank), "new_ndcg_at_10": float(gains.mean()), **hits}


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each system."""
    names = ["new_ndcg_at_10", "new_hit_rate_at_10", "new_hit_rate_at_50", "others_ndcg_at_10", "others_hit_rate_at_10"]
    rows = []
    for system, answers in found.items():
        cells = [
            Spread.of(answer[name] for answer in answers).text(".4f") if name in answers[0] else "-" for name in names
        ]
        rows.append([system, *cells, str(len(answers))])
    counts = Spread.of(answer["num_new"] for answer in found[ATTRIBUTES]).text()
    title = f"{measure.label(arguments.data)}, {arguments.new:.0%} of the items cold-start, {counts} targets"
    return Table(title, ["system", "NDCG@10", "HR@10", "HR@50", "others NDCG@10", "others HR@10", "n"], rows)


if __name__ == "__main__":
    main()
