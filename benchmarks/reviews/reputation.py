"""Coverage of the 90 % interval of reputations in simulation, and its cost for many products.

Products of one category have true shares of positive reviews that are drawn from a beta distribution with mean 0.8 and
some strength; each gets n reviews, with times over two years. Nothing is known of the prior but what the reviews show.
"Constant" qualities do not change; the logit of "drifting" ones moves by 0.6 in a year (standard deviation), and the
interval is to hold the share of today. "Soft" reviews are probabilities of a calibrated classifier, not labels.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Table, write_page
from models.reviews.reputation.score import reputations, weights_of

STRENGTHS = (2.0, 8.0, 30.0)
COUNTS = (3, 20, 100)
MEAN = 0.8
SPAN_DAYS = 720.0
DRIFT_A_YEAR = 0.6
SHARPNESS = 2.0
"""Of the classifier: the standard deviation of its logits around the truth's sign."""


def main() -> None:
    """Simulate every setting and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--products", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    found: list[Answer] = []
    for kind in ("soft", "constant", "drifting"):
        for strength in STRENGTHS:
            for count in COUNTS:
                found.append(
                    {"kind": kind, "strength": strength, "n": count} | coverage(kind, strength, count, arguments)
                )
                print(found[-1], flush=True)
    rows = [
        [
            one["kind"],
            f"{one['strength']:g}",
            str(one["n"]),
            f"{one['held']:.3f}",
            f"{one['lowest']:.3f}",
            f"{one['width']:.3f}",
        ]
        for one in found
    ]
    header = ["quality", "prior strength", "reviews", "coverage", "lowest of a repeat", "mean width"]
    cost = many_products()
    table = Table("20,000 products, 200,000 reviews", ["core-seconds"], [[f"{cost:.1f}"]])
    title = f"Coverage, {arguments.products} products x {arguments.repeats} repeats"
    tables = [Table(title, header, rows), table]
    write_page("reviews-reputation", __doc__, arguments, tables, {"measured": found, "core_seconds": cost})


def coverage(kind: str, strength: float, count: int, arguments: argparse.Namespace) -> Answer:
    """How often the interval holds the truth of today."""
    held, widths = [], []
    for repeat in range(arguments.repeats):
        draw = np.random.default_rng(repeat)
        truth = draw.beta(MEAN * strength, (1 - MEAN) * strength, arguments.products).clip(1e-6, 1 - 1e-6)
        product = np.repeat(np.arange(arguments.products), count)
        ages = draw.uniform(0, SPAN_DAYS, len(product))
        logit = np.log(truth / (1 - truth))[product]
        if kind == "drifting":
            logit = logit + draw.normal(0, DRIFT_A_YEAR, arguments.products)[product] * np.sqrt(ages / 365)
        positive = (draw.random(len(product)) < 1 / (1 + np.exp(-logit))).astype(float)
        if kind == "soft":
            positive = softened(positive, draw)
        found = reputations(product, positive, weights_of(ages), num_products=arguments.products)
        held.append(float(((found.low <= truth) & (truth <= found.high)).mean()))
        widths.append(float((found.high - found.low).mean()))
    return {"held": float(np.mean(held)), "lowest": min(held), "width": float(np.mean(widths))}


def softened(positive: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Calibrated probabilities of a classifier that sees a normal signal of the labels."""
    signal = np.where(positive > 0.5, 1.0, -1.0) * SHARPNESS + draw.normal(0, 1, len(positive)) * np.sqrt(SHARPNESS)
    share = positive.mean()
    logit = 2 * signal + np.log(share / (1 - share))
    return np.asarray(1 / (1 + np.exp(-logit)))


def many_products() -> float:
    """Core-seconds for many products."""
    draw = np.random.default_rng(0)
    product = draw.integers(0, 20_000, 200_000)
    positive = (draw.random(200_000) < 0.8).astype(float)
    started = time.process_time()
    reputations(product, positive, weights_of(draw.uniform(0, 720, 200_000)), num_products=20_000)
    return time.process_time() - started


if __name__ == "__main__":
    main()
