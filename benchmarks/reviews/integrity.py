"""Planted near-duplicates and bursts in real reviews: how many are found, and how much that is flagged was planted.

Near-duplicates: a share of the reviews of each category is copied with edits of four kinds: up to 15 % of the
characters substituted by random ones, a phrase inserted, sentences reordered or dropped, or a template with another
beginning and end. Recall is that of planted copies which are paired with their original. The log has copies of its
own, with edits. A pair counts as right if it was planted, or if difflib's ratio of the two texts is at least 0.7
without blanks and punctuation; "strictly" counts a pair as wrong unless it was planted or its texts are the same, so
that the log's own edited copies are errors.

Bursts: reviews are dealt out to made-up products with rates of their own over 365 days. On one day each product gets 6
to 20 more reviews, two thirds of them edits of two texts, all with one label; on another day it gets as many plain
reviews more, as after a promotion, which must not be flagged.

Settings are chosen on half of the categories, and the tables are of the other half: the smallest similarity with a
precision of 0.95 in each category, as another category may be worse, and the highest recall of bursts at 0.9.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from models.reviews.integrity.bursts import bursts
from models.reviews.integrity.minhash import MIN_CHARACTERS, near_duplicates, normalised
from models.reviews.sentences import sentences

SHARE = 0.05
"""Copies for each review of a category."""
DAYS = 365
REVIEWS_A_PRODUCT = 150
KINDS = ("substituted", "inserted", "reordered", "template")
SIMILARITIES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
LEAST_PRECISION = 0.9
MARGIN = 0.05
LEAST_RATIO = 0.7
PLAIN = 0.15
"""Reviews that are kept for busy days without copies."""
PHRASES = ("总的来说", "说实话，", "买给家人的，", "昨天刚收到，", "朋友推荐的，", "用了几天，")
ENDINGS = ("。推荐大家购买", "！以后还会再来", "，给个好评", "。先用用看", "，有需要的可以看看", "。个人意见")


@dataclass(frozen=True)
class Planted:
    """Texts [N], and for each the place of the text that it was copied from, -1 for the real ones, and how."""

    texts: list[str]
    source: NDArray[np.int64]
    kind: list[str]


def main() -> None:
    """Choose on half of the categories, measure on the other half, and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the edits and of the products")
    arguments = measure.read(parser)
    rows = pq.read_table(arguments.data).to_pylist()
    categories = sorted({row["cat"] for row in rows})
    halves = {"chosen on": categories[::2], "measured on": categories[1::2]}
    parts = {half: [row for row in rows if row["cat"] in names] for half, names in halves.items()}
    if arguments.quick:
        parts = {half: part[::20] for half, part in parts.items()}
    seeds = arguments.seeds
    own = [[row for row in parts["chosen on"] if row["cat"] == name] for name in halves["chosen on"]]
    similarity = precise([[duplicates(rows, seed, SIMILARITIES) for seed in seeds] for rows in own])
    score = best([busy_days(parts["chosen on"], seed, similarity, SCORES) for seed in seeds])
    copies = [duplicates(parts["measured on"], seed, SIMILARITIES) for seed in seeds]
    days = [busy_days(parts["measured on"], seed, similarity, SCORES) for seed in seeds]
    tables = [tabulate("Near-duplicates, by similarity", copies, similarity), kinds(copies, similarity)]
    tables.append(tabulate("Bursts, by score", days, score))
    chosen = {"similarity": similarity, "score": score}
    write_page("reviews-integrity", __doc__, arguments, tables, {"chosen": chosen, "copies": copies, "days": days})


def edited(text: str, kind: str, draw: np.random.Generator) -> str:
    """A text with edits of one kind."""
    letters = list(text)
    if kind == "substituted":
        for place in draw.choice(len(letters), max(1, int(draw.uniform(0.02, 0.15) * len(letters))), replace=False):
            letters[place] = chr(int(draw.integers(0x4E00, 0x9FA5)))
        return "".join(letters)
    if kind == "inserted":
        place = int(draw.integers(0, len(letters) + 1))
        return "".join([*letters[:place], str(draw.choice(PHRASES)), *letters[place:]])
    if kind == "reordered":
        parts = [text[start:end] for start, end in sentences(text)]
        if len(parts) < 3:
            return text[1:] + text[:1]
        order = draw.permutation(len(parts))[: max(2, len(parts) - int(draw.integers(0, 2)))]
        return "".join(parts[place] for place in order)
    return str(draw.choice(PHRASES)) + text + str(draw.choice(ENDINGS))


def planted(rows: list[Answer], seed: int) -> Planted:
    """The reviews with copies of some of the longer ones at the end."""
    draw = np.random.default_rng(seed)
    texts = [row["review"] or "" for row in rows]
    long = [place for place, text in enumerate(texts) if len(normalised(text)) >= 2 * MIN_CHARACTERS]
    sources = draw.choice(long, int(SHARE * len(texts)), replace=False)
    named = [str(draw.choice(KINDS)) for _ in sources]
    copies = [edited(texts[place], kind, draw) for place, kind in zip(sources, named, strict=True)]
    source = np.concatenate([np.full(len(texts), -1), sources]).astype(np.int64)
    return Planted([*texts, *copies], source, [*([""] * len(texts)), *named])


def duplicates(rows: list[Answer], seed: int, thresholds: tuple[float, ...]) -> Answer:
    """Recall and precision of planted copies for every least similarity."""
    plant = planted(rows, seed)
    found = near_duplicates(plant.texts, least_similarity=min(thresholds))
    clean = [normalised(text) for text in plant.texts]
    origin = np.where(plant.source < 0, np.arange(len(clean)), plant.source)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    is_same = np.array([origin[one] == origin[two] or clean[one] == clean[two] for one, two in pairs])
    is_alike = np.array(
        [same or alike(clean[one], clean[two]) for (one, two), same in zip(pairs, is_same, strict=True)]
    )
    is_planted = plant.source[found.second] == found.first
    number = int((plant.source >= 0).sum())
    answers: Answer = {}
    for least in thresholds:
        kept = found.similarity >= least
        caught = [plant.kind[place] for place in found.second[kept & is_planted]]
        answers[str(least)] = {
            "recall": len(caught) / number,
            "precision": float(is_alike[kept].mean()),
            "strictly": float(is_same[kept].mean()),
            "kinds": {kind: caught.count(kind) / max(plant.kind.count(kind), 1) for kind in KINDS},
        }
    return answers


def alike(first: str, second: str) -> bool:
    """Whether two texts share most of their characters in order."""
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= LEAST_RATIO and matcher.ratio() >= LEAST_RATIO


def busy_days(rows: list[Answer], seed: int, similarity: float, thresholds: tuple[float, ...]) -> Answer:
    """Recall and precision of planted bursts for every least score."""
    draw = np.random.default_rng(seed + 100)
    order = draw.permutation(len(rows))
    texts = [rows[place]["review"] or "" for place in order]
    positive = np.array([float(rows[place]["label"]) for place in order])
    num_plain = int(PLAIN * len(texts))
    spare = list(zip(texts[:num_plain], positive[:num_plain].tolist(), strict=True))
    texts, positive = texts[num_plain:], positive[num_plain:]
    num_products = max(len(texts) // REVIEWS_A_PRODUCT, 2)
    rates = draw.gamma(2.0, 1.0, num_products)
    product = draw.choice(num_products, len(texts), p=rates / rates.sum())
    day = draw.integers(0, DAYS, len(texts))
    bad, plain = set[tuple[int, int]](), set[tuple[int, int]]()
    extra: list[tuple[int, int, str, float]] = []
    for one in range(num_products):
        for events, is_bad in ((bad, True), (plain, False)):
            when, count = int(draw.integers(0, DAYS)), int(draw.integers(6, 21))
            if (one, when) in bad | plain:
                continue
            events.add((one, when))
            extra += [
                (one, when, *said)
                for said in (burst(texts, count, draw) if is_bad else [spare.pop() for _ in range(count)])
            ]
    product = np.concatenate([product, [one for one, *_ in extra]]).astype(np.int64)
    day = np.concatenate([day, [when for _, when, *_ in extra]]).astype(np.int64)
    everything = [*texts, *(text for *_, text, _ in extra)]
    positive = np.concatenate([positive, [value for *_, value in extra]])
    pairs = near_duplicates(everything, least_similarity=similarity)
    found = bursts(product, day, positive, pairs)
    is_bad = np.array([key in bad for key in zip(found.product.tolist(), found.day.tolist(), strict=True)])
    answers: Answer = {}
    for least in thresholds:
        kept = found.score >= least
        precision = float(is_bad[kept].mean()) if kept.any() else 1.0
        answers[str(least)] = {"recall": int((kept & is_bad).sum()) / len(bad), "precision": precision}
    return answers


def burst(texts: list[str], count: int, draw: np.random.Generator) -> list[tuple[str, float]]:
    """The reviews of a planted burst: edits of two texts and others, all with one label."""
    chosen = draw.choice(len(texts), count, replace=False)
    long = [place for place in draw.choice(len(texts), 60, replace=False) if len(texts[place]) >= 25][:2]
    label = float(draw.integers(0, 2))
    found = []
    for number, place in enumerate(chosen):
        is_copy = number < round(2 * count / 3)
        found.append(
            (edited(texts[long[number % 2]], str(draw.choice(KINDS)), draw) if is_copy else texts[place], label)
        )
    return found


def precise(categories: list[list[Answer]]) -> float:
    """The smallest setting that is precise enough in each category, with a margin, as a new one may be worse."""
    for name in categories[0][0]:
        means = [float(np.mean([one[name]["precision"] for one in answers])) for answers in categories]
        if min(means) >= LEAST_PRECISION + MARGIN:
            return float(name)
    return float(max(categories[0][0], key=float))


def best(answers: list[Answer]) -> float:
    """The largest setting with the highest recall among those of enough precision."""
    mean = {
        name: [float(np.mean([one[name][what] for one in answers])) for what in ("recall", "precision")]
        for name in answers[0]
    }
    enough = {name: recall for name, (recall, precision) in mean.items() if precision >= LEAST_PRECISION} or {
        name: precision for name, (_, precision) in mean.items()
    }
    return max(float(name) for name, recall in enough.items() if recall == max(enough.values()))


def tabulate(title: str, answers: list[Answer], chosen: float) -> Table:
    """A row for each setting."""
    names = [name for name in ("recall", "precision", "strictly") if name in answers[0][str(chosen)]]
    rows = []
    for least in answers[0]:
        cells = [Spread.of(one[least][name] for one in answers).text(".3f") for name in names]
        rows.append([f"**{least}** (chosen)" if float(least) == chosen else least, *cells])
    return Table(title, ["least", *names], rows)


def kinds(answers: list[Answer], chosen: float) -> Table:
    """Recall by kind of edit at the chosen setting."""
    found = [one[str(chosen)]["kinds"] for one in answers]
    rows = [[kind, Spread.of(one[kind] for one in found).text(".3f")] for kind in KINDS]
    return Table("Near-duplicates, by kind of edit", ["kind", "recall"], rows)


if __name__ == "__main__":
    main()
