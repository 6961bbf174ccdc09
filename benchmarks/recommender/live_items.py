"""New items of the live catalogue: how well they are ranked without training, by the items most similar to them.

A random share of the items is held back: the log has none of their events, except that each is some users' last item,
the target; only their attributes are known. `live` is a model that was trained without these items, to which they are
put as the service does; `retrained` is the same model trained with the item table that has them (cold-start items, with
their calibrated offset). Popularity among the held-back items knows how often each of them occurs in the whole log,
which no service could know. All networks are the transitions. `among new` ranks only the held-back items; the other
columns rank all items, seen ones filtered. The model's own offset
is calibrated on validation for the few items of its table without events; fixed offsets are for models that have none.
`others` is what the new items cost the others: NDCG@10 of the last items
that are not held back, with the new items in the ranking, divided by that without them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.recommender.quality import item_table
from models import FAMILIES
from models.ask import Answerer
from models.features import write_store
from models.items.item import LiveItem, LiveValue
from models.prepared import Prepared
from models.recommender.endpoints import ENDPOINTS, RecommendationRequest
from models.recommender.live.catalogue import FEATURE, open_catalogue
from models.recommender.networks import new_items
from models.recommender.networks.recommender import Recommender

FAMILY = FAMILIES["recommender"]
OFFSETS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
NUM_OTHERS = 2000
BLOCK = 256
COLUMNS = ("among_hr10", "among_ndcg10", "hr10", "hr50", "ndcg10", "others")


def main() -> None:
    """Measure with every seed, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--attributes", required=True, help="S3Rec's item2attributes.json.gz of --data")
    parser.add_argument("--new", type=float, default=0.05, help="share of the items to hold back")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the draw")
    arguments = measure.read(parser)
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[Answer]] = {}
    for seed in arguments.seeds:
        with measure.workspace(arguments) as work:
            for system, answer in measured(arguments, work, seed).items():
                found.setdefault(system, []).append(answer)
    rows = [
        [
            system,
            *(Spread.of(one[name] for one in answers).text(".4f") if name in answers[0] else "-" for name in COLUMNS),
        ]
        for system, answers in found.items()
    ]
    heads = ["system", "among new HR@10", "among new NDCG@10", "HR@10", "HR@50", "NDCG@10", "others"]
    title = (
        f"{measure.label(arguments.data)}, {arguments.new:.0%} of the items held back, n = {len(arguments.seeds)} draws"
    )
    write_page("live-items", __doc__, arguments, [Table(title, heads, rows)], {"measured": found})


def measured(arguments: argparse.Namespace, work: Path, seed: int) -> dict[str, Answer]:
    """One draw of the held-back items: every system."""
    with gzip.open(arguments.data, "rt", encoding="utf-8") as lines:
        rows = [line.split() for line in lines]
    items = sorted({item for _, *events in rows for item in events})
    new = set(np.random.default_rng(seed).choice(items, round(arguments.new * len(items)), replace=False).tolist())
    counts = Counter(item for _, *events in rows for item in events if item in new)
    kept = {user: [item for item in events[:-1] if item not in new] for user, *events in rows}
    last = {user: events[-1] for user, *events in rows if len(kept[user]) >= 3}
    log = work / "log.txt"
    log.write_text("\n".join(" ".join([user, *kept[user]]) for user in last), encoding="utf-8")
    all_items = item_table(arguments.attributes, work)
    known = work / "known.jsonl"
    table = [json.loads(line) for line in Path(all_items["items"]).read_text(encoding="utf-8").splitlines()]
    known.write_text("\n".join(json.dumps(row) for row in table if row["item_id"] not in new), encoding="utf-8")
    put = {row["item_id"]: "|".join(row["attributes"]) for row in table if row["item_id"] in new}
    asked = [(kept[user], item) for user, item in last.items() if item in put]
    others = [(kept[user], item) for user, item in last.items() if item not in new and item not in kept[user]][
        :NUM_OTHERS
    ]

    answers: dict[str, Answer] = {"popularity among the new": popularity(asked, counts)}
    data = Prepared(measure.prepared(str(log), arguments, work, more={"items": str(known)}))
    live = Asked(data, work, put)
    bare = Asked(data, work, {})
    for offset in OFFSETS:
        live.offset_of_new = torch.tensor(offset)
        answers[f"live, offset {offset:g}"] = live.ranked(asked) | {"others": live.ndcg(others) / bare.ndcg(others)}
    live.offset_of_new = None
    calibrated = live.ranked(asked) | {"offset": live.offset, "others": live.ndcg(others) / bare.ndcg(others)}
    answers["live, offset of the model's cold-start items"] = calibrated
    retrained = Asked(Prepared(measure.prepared(str(log), arguments, work, more=all_items)), work, {}, among=set(put))
    with_offset = retrained.ranked(asked) | {
        "offset": retrained.offset,
        "others": retrained.ndcg(others) / bare.ndcg(others),
    }
    return {**answers, "retrained": with_offset}


class Asked:
    """The transitions on prepared data, with live items put to them, asked like the service."""

    def __init__(self, data: Prepared, work: Path, put: dict[str, str], *, among: set[str] | None = None) -> None:
        schema = data.schema(FAMILY.Schema)
        config = FAMILY.resolve(FAMILY.Config(network="transitions"), schema)
        network: Recommender = FAMILY.build(config, schema)
        FAMILY.initialise(network, data, schema)
        network.eval()
        assert network.cold_start is not None, "the item table of the data has items without events"
        calibrate(network, data, schema, config)
        store = work / f"{data.name}.sqlite"
        write_store(store, FAMILY.features, data)
        rows = [LiveItem(item, {"attributes": LiveValue(text, 1e12)}, False, 1) for item, text in sorted(put.items())]
        view: Any = open_catalogue(schema, store)
        self.view = view.after(rows, kinds={})
        self.network, self.schema = network, schema
        self.offset_of_new: torch.Tensor | None = None
        """In place of that of the model's own cold-start items: a model without any takes a fixed one."""
        self.answerer = Answerer(FAMILY, ENDPOINTS[0], network, schema, "1", live=lambda: {FEATURE: {"*": self.view}})
        listed = sorted(put if among is None else among)
        self.among = torch.tensor([self.view.place(item) for item in listed], dtype=torch.int64)

    @property
    def offset(self) -> float:
        """The calibrated offset of cold-start items."""
        assert self.network.cold_start is not None
        return float(self.network.cold_start.offset)

    def ranks(self, asked: list[tuple[list[str], str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranks of the targets, from 1, among all items and among the new ones; seen items filtered."""
        overall, among = [], []
        for start in range(0, len(asked), BLOCK):
            block = asked[start : start + BLOCK]
            examples = [
                self.answerer.encode(RecommendationRequest(history=list(history), exclude_seen=True))[0]
                for history, _ in block
            ]
            batch = FAMILY.collate(examples)
            with torch.inference_mode():
                # The data has cold-start items, so that scores are log-probabilities and an offset is always given.
                offset = self.network.cold_start.offset if self.offset_of_new is None else self.offset_of_new
                scores = new_items.with_new_items(self.network.scores(batch), batch, offset=offset)
                scores.scatter_(1, batch.excluded, -torch.inf)
            target = torch.tensor([self.view.place(item) or 0 for _, item in block])
            own = scores.gather(1, target[:, None])
            overall.append(1 + (scores > own).sum(1))
            among.append(1 + (scores[:, self.among] > own).sum(1))
        return torch.cat(overall), torch.cat(among)

    def ranked(self, asked: list[tuple[list[str], str]]) -> Answer:
        """Metrics of targets that are new."""
        overall, among = self.ranks(asked)
        return {
            "num": len(asked),
            "among_hr10": hits(among, 10),
            "among_ndcg10": gains(among),
            "hr10": hits(overall, 10),
            "hr50": hits(overall, 50),
            "ndcg10": gains(overall),
        }

    def ndcg(self, asked: list[tuple[list[str], str]]) -> float:
        """NDCG@10 of targets."""
        return gains(self.ranks(asked)[0])


def calibrate(network: Recommender, data: Prepared, schema: Any, config: Any) -> None:
    """Choose the offset of cold-start items on validation, as training does."""
    dataset: Any = FAMILY.dataset(data, "val", range(schema.num_shards), schema=schema, config=config, epoch=0)
    total = None
    for start in range(0, len(dataset), BLOCK):
        batch = FAMILY.collate([dataset[place] for place in range(start, min(start + BLOCK, len(dataset)))])
        with torch.inference_mode():
            sums = network.calibration(batch)
        assert sums is not None
        total = sums if total is None else total + sums
    assert total is not None
    network.calibrate(total)


def popularity(asked: list[tuple[list[str], str]], counts: Counter[str]) -> Answer:
    """The held-back items in the order of their events in the whole log."""
    order = {item: place for place, (item, _) in enumerate(counts.most_common(), 1)}
    rank = torch.tensor([order[item] for _, item in asked])
    return {"num": len(asked), "among_hr10": hits(rank, 10), "among_ndcg10": gains(rank)}


def hits(rank: torch.Tensor, cutoff: int) -> float:
    """Hit rate at a cutoff."""
    return float((rank <= cutoff).double().mean())


def gains(rank: torch.Tensor) -> float:
    """NDCG@10."""
    return float(((rank <= 10).double() / torch.log2(rank + 1.0)).mean())


if __name__ == "__main__":
    main()
