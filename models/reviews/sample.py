"""A made-up shop whose reviews have a known sentiment: Chinese and English, with negations and wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.sample import Question, Sample

NUM_REVIEWS, NUM_PRODUCTS, NUM_USERS, NUM_DAYS = 3000, 30, 400, 360
WRONG_SHARE = 0.03
"""Share of reviews whose rating says the opposite of their text."""
BAD_SHARE = 0.004
CATEGORIES = ("kitchen", "clothes", "books")
FIRST_DAY = date(2025, 1, 1)
ASPECTS = {
    "price": ("价格", "the price"),
    "delivery": ("物流", "delivery"),
    "quality": ("质量", "the quality"),
    "service": ("客服", "the service"),
    "size": ("尺寸", "the size"),
}
GOOD = {"zh": ("很好", "满意", "不错", "让人喜欢"), "en": ("good", "excellent", "just right", "better than expected")}
BAD = {"zh": ("很差", "失望", "糟糕", "让人生气"), "en": ("bad", "terrible", "a disappointment", "worse than expected")}
OPENINGS = {
    "zh": ("第一次买,", "用了几天,", "给家人买的,", "对比了很久,", "朋友推荐的,", "活动时买的,"),
    "en": ("bought it for my home:", "after a week of use:", "a gift for my sister:", "ordered twice:", "in the end,"),
}
CLOSINGS = {
    "zh": ("以后再说", "就这样", "仅供参考", "已经拆开"),
    "en": ("that is all.", "as far as I can tell.", "so far."),
}
NOT = {"zh": "一点也不", "en": "not at all "}


@dataclass(frozen=True)
class Shop:
    """Where the made-up reviews are, and what they really say."""

    reviews: Path
    texts: tuple[str, ...]
    is_positive: tuple[bool, ...]
    """Of each text, whatever its rating says."""
    is_wrong: tuple[bool, ...]
    """Whether the rating contradicts the text."""
    aspects: tuple[str, ...]
    """The aspect that each text is about."""


def sample(directory: Path) -> Sample:
    """A small made-up shop for the demo, with questions whose right answers are known."""
    shop = write_sample(directory)
    return Sample(
        prepare={"raw": str(shop.reviews), "max_bad_fraction": 0.05},
        train={"network": "wide-deep", "epochs": 4, "dim": 32, "num_buckets": 1 << 15, "learning_rate": 4e-3},
        questions=(
            Question("a negation", {"text": "用了几天,质量一点也不糟糕,就这样"}, "positive: not bad at all"),
            Question("English", {"text": "after a week of use: the quality is terrible. so far."}, "negative"),
            Question(
                "several texts",
                {"texts": ["物流很好,以后再说", "the price is not at all good. that is all.", "😀😀"]},
                "positive, negative, and unsure of two smiles",
            ),
        ),
    )


def write_sample(directory: Path, *, num_reviews: int = NUM_REVIEWS, seed: int = 0) -> Shop:
    """Write reviews.parquet of a made-up shop; deterministic in its arguments."""
    draw = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    is_positive = draw.random(num_reviews) < 0.55
    is_wrong = draw.random(num_reviews) < WRONG_SHARE
    aspects = [str(draw.choice(list(ASPECTS))) for _ in range(num_reviews)]
    texts = [made_up(bool(says), aspect, draw) for says, aspect in zip(is_positive, aspects, strict=True)]
    says_good = is_positive != is_wrong
    rating = np.where(says_good, draw.integers(4, 6, num_reviews), draw.integers(1, 3, num_reviews))
    product = draw.integers(NUM_PRODUCTS, size=num_reviews)
    days = draw.integers(NUM_DAYS, size=num_reviews)
    written: list[str | None] = list(texts)
    for place, row in enumerate(draw.choice(num_reviews, int(num_reviews * BAD_SHARE), replace=False).tolist()):
        written[row] = (None, "   ", "質量å¾ˆå¥½Ã©Ã¨", "NUL \x00 here")[place % 4]
    table = pa.table(
        {
            "product_id": [f"p{number:02d}" for number in product],
            "user_id": [f"u{number:03d}" for number in draw.integers(NUM_USERS, size=num_reviews)],
            "date": [(FIRST_DAY + timedelta(days=int(day))).isoformat() for day in days],
            "rating": rating,
            "review": pa.array(written, pa.string()),
            "category": [CATEGORIES[number % len(CATEGORIES)] for number in product],
        }
    )
    path = directory / "reviews.parquet"
    pq.write_table(table, path)
    return Shop(path, tuple(texts), tuple(is_positive.tolist()), tuple(is_wrong.tolist()), tuple(aspects))


def made_up(is_positive: bool, aspect: str, draw: np.random.Generator) -> str:
    """A text about an aspect: a praise, a blame, or the negation of either."""
    language = "zh" if draw.random() < 0.6 else "en"
    is_negated = draw.random() < 0.4
    words = (GOOD if is_positive != is_negated else BAD)[language]
    said = (NOT[language] if is_negated else "") + str(draw.choice(words))
    opening, closing = (str(draw.choice(parts[language])) for parts in (OPENINGS, CLOSINGS))
    number = int(draw.integers(1000))
    if language == "zh":
        return f"{opening}第{number}单{ASPECTS[aspect][0]}{said},{closing}"
    return f"{opening} {ASPECTS[aspect][1]} of no. {number} is {said}. {closing}"
