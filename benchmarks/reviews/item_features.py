"""Whether the reputation of items helps the recommender: a made-up log in which quality drives purchases.

400 items of 8 categories have a quality that shoppers go by; each shopper buys 3 to 10 items, by the fit of the
category and by quality. A tenth of the items appears in no history, only as a shopper's last purchase: of these only
the item table is known. Each item has 0 to 30 reviews by its quality, from which `reputation_table` computes its
reputation. The recommender is trained with an item table of the category alone, and with mean, lower bound and number
of reviews of the reputation beside it; "true quality" shows what a perfect reputation would give. All items are ranked
for the last purchase.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.recommender.cold_items import evaluated
from models.reviews.reputation.table import reputation_table

NUM_ITEMS, NUM_CATEGORIES, NEW_SHARE = 400, 8, 0.1
TABLES = ("category", "with reputation", "with true quality")
METRICS = ("new_ndcg_at_10", "new_hit_rate_at_50", "others_ndcg_at_10", "others_hit_rate_at_50")
GOOD, BAD = (
    ("great quality", "works well", "价格实惠，质量很好"),
    ("poor quality", "broke at once", "质量太差，服务不好"),
)


@dataclass(frozen=True)
class Shop:
    """Items with their category and quality."""

    category: NDArray[np.int64]
    quality: NDArray[np.float64]


def main() -> None:
    """Train with each item table and seed, and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the shop and of the training")
    parser.add_argument("--shoppers", type=int, default=4000)
    parser.add_argument("--pull", type=float, default=1.0, help="how much quality drives purchases; 0 is not at all")
    parser.add_argument("--network", default="two_tower")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.shoppers, arguments.config = [0], 600, ["epochs=1"]
    found: dict[str, list[Answer]] = {}
    for seed in arguments.seeds:
        draw = np.random.default_rng(seed)
        quality = draw.normal(0, 1, NUM_ITEMS)
        shop = Shop(draw.integers(0, NUM_CATEGORIES, NUM_ITEMS), quality)
        reputation = {row["product"]: row for row in reputation_table(reviews_of(shop, draw)).to_pylist()}
        with measure.workspace(arguments) as work:
            (work / "raw").mkdir()
            write_log(work / "raw" / "log.txt", shop, arguments, draw)
            for table in TABLES:
                place = work / table.replace(" ", "-")
                place.mkdir()
                items = write_items(place / "items.jsonl", shop, reputation, table)
                data = measure.prepared(str(work / "raw" / "log.txt"), arguments, place, more={"items": str(items)})
                answers = evaluated(data, arguments.network, seed, arguments, place)
                found.setdefault(table, []).append(answers[f"ours {arguments.network}"])
                print(table, found[table][-1], flush=True)
        write_page("reviews-item-features", __doc__, arguments, [tabulate(found)], {"measured": found})


def reviews_of(shop: Shop, draw: np.random.Generator) -> pa.Table:
    """Reviews of most items, the more positive the better an item is."""
    rows = []
    for item, quality in enumerate(shop.quality):
        for _ in range(int(draw.integers(0, 31))):
            is_good = draw.random() < 1 / (1 + np.exp(-1.0 - 1.2 * quality))
            text = str(draw.choice(GOOD if is_good else BAD))
            rating = int(draw.integers(4, 6)) if is_good else int(draw.integers(1, 3))
            category = f"c{shop.category[item]}"
            rows.append({"product": f"i{item}", "category": category, "text": text, "rating": rating})
    return pa.Table.from_pylist(rows)


def write_log(path: Path, shop: Shop, arguments: argparse.Namespace, draw: np.random.Generator) -> None:
    """A line for each shopper: the items in order, new ones only last."""
    is_new = draw.permutation(NUM_ITEMS) < NEW_SHARE * NUM_ITEMS
    lines = []
    for shopper in range(arguments.shoppers):
        taste = draw.normal(0, 1.5, NUM_CATEGORIES)
        appeal = taste[shop.category] + arguments.pull * shop.quality + draw.gumbel(0, 1, NUM_ITEMS)
        chosen = np.argsort(-appeal)[: int(draw.integers(3, 11))]
        last = int(draw.choice(chosen))
        before = [item for item in draw.permutation(chosen).tolist() if item != last and not is_new[item]]
        if len(before) >= 2:
            lines.append(" ".join([f"u{shopper}", *(f"i{item}" for item in [*before, last])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_items(path: Path, shop: Shop, reputation: dict[str, Answer], table: str) -> Path:
    """The item table: category, and what is known of the quality."""
    usual = {name: float(np.median([row[name] for row in reputation.values()])) for name in ("mean", "low")}
    rows = []
    for item in range(NUM_ITEMS):
        row: Answer = {"item_id": f"i{item}", "category": f"c{shop.category[item]}"}
        known = reputation.get(f"i{item}", {**usual, "effective_reviews": 0.0})
        if table == "with reputation":
            row |= {
                "reputation": known["mean"],
                "lower_bound": known["low"],
                "reviews": known["effective_reviews"] + 0.5,
            }
        elif table == "with true quality":
            row["quality"] = float(shop.quality[item])
        rows.append(row)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def tabulate(found: dict[str, list[Answer]]) -> Table:
    """A row for each item table, and differences to the first by seed."""
    rows = []
    first = found[TABLES[0]]
    for table, answers in found.items():
        cells = [Spread.of(one[name] for one in answers).text(".4f") for name in METRICS]
        pairs = list(zip(answers, first, strict=False))
        gains = [Spread.of(one[name] - two[name] for one, two in pairs).text("+.4f") for name in METRICS[::2]]
        rows.append([table, *cells, *gains, str(len(answers))])
    header = [
        "item table",
        "new NDCG@10",
        "new HR@50",
        "others NDCG@10",
        "others HR@50",
        "new gain",
        "others gain",
        "n",
    ]
    return Table("Last purchases, seen items filtered", header, rows)


if __name__ == "__main__":
    main()
